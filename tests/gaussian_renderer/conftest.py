"""Fixtures of the renderer's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gns.gaussian_renderer import instruction_sets, use_instruction_set
from tests.gaussian_renderer.comparison import BACKENDS, Backend
from tests.gaussian_renderer.scenes import EXAMPLES


@pytest.fixture(params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each way to run the production code in turn."""
    chosen: Backend = request.param
    use_instruction_set(chosen.instruction_set)
    yield chosen
    use_instruction_set(instruction_sets()[0])


@pytest.fixture(params=EXAMPLES)
def example_name(request: pytest.FixtureRequest) -> str:
    """Each example in turn."""
    name: str = request.param
    return name
