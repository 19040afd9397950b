"""The launcher's table against what the compiled kernels say of their parameters."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gns.gaussian_renderer.backends.kernel_arguments import converted
from gns.gaussian_renderer.backends.kernel_table import (
    COMPILE_OPTIONS,
    INCLUDE_FOLDERS,
    KERNELS,
    SOURCE_FOLDER,
    SOURCES,
    Kernel,
    Launchable,
)
from gns.gaussian_renderer.backends.nvrtc import compile_kernels, missing_parts
from gns.testing.emulation.cubin import Parameter, parameters_of

pytestmark = pytest.mark.skipif(missing_parts() is not None, reason=f"cannot compile for a GPU: {missing_parts()}")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def compiled() -> dict[str, list[Parameter]]:
    """The parameters of every kernel, as NVRTC has laid them out."""
    found: dict[str, list[Parameter]] = {}
    for source in SOURCES:
        found |= parameters_of(compile_kernels(SOURCE_FOLDER / source, "sm_90", COMPILE_OPTIONS, INCLUDE_FOLDERS))
    return found


def _passed(kernel: Kernel) -> list[Parameter]:
    """Where the values of a launch come to lie: each after the one before, at a multiple of its size."""
    arguments: list[Launchable] = []
    for wanted in kernel.arguments:
        number = 1.0 if wanted.dtype == torch.float32 else 1
        arguments.append(torch.zeros(1, dtype=wanted.dtype) if wanted.shape else number)
    parameters, offset = [], 0
    for value in converted(kernel, arguments, CPU):
        size = value.itemsize if isinstance(value, np.generic) else 8  # an address
        offset = -(-offset // size) * size
        parameters.append(Parameter(offset, size))
        offset += size
    return parameters


def test_what_is_passed_is_what_the_kernels_read(compiled: dict[str, list[Parameter]]) -> None:
    assert compiled.keys() == KERNELS.keys()
    for name, kernel in KERNELS.items():
        assert _passed(kernel) == compiled[name], name


def test_a_table_that_is_wrong_is_seen(compiled: dict[str, list[Parameter]]) -> None:
    for name, kernel in KERNELS.items():
        first, *rest = kernel.arguments
        longer = replace(kernel, arguments=(*kernel.arguments, first))
        exchanged = replace(kernel, arguments=(replace(first, shape="[N]"), *rest))
        assert _passed(longer) != compiled[name] and _passed(exchanged) != compiled[name], name


def test_what_is_no_cubin_is_refused() -> None:
    with pytest.raises(ValueError, match="no cubin"):
        parameters_of(b"// PTX")
