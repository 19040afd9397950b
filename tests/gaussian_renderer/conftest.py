"""Fixtures of the renderer's tests."""

from __future__ import annotations

import pytest

from gns.testing.examples import EXAMPLES


@pytest.fixture(params=EXAMPLES)
def example_name(request: pytest.FixtureRequest) -> str:
    """Each example in turn."""
    name: str = request.param
    return name
