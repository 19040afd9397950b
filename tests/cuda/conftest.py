"""Fixtures of the CUDA kernels' tests."""

from __future__ import annotations

import pytest

from gns.testing.shim import ShimLauncher, compiler


@pytest.fixture(scope="session")
def shim() -> ShimLauncher:
    """The kernels as they are shipped, on the CPU."""
    if compiler() is None:
        pytest.skip("no C++ compiler to build the kernels with")
    return ShimLauncher()


@pytest.fixture(scope="session")
def backwards(shim: ShimLauncher) -> ShimLauncher:
    """The same kernels, with the order of threads and blocks reversed."""
    return ShimLauncher(backwards=True)
