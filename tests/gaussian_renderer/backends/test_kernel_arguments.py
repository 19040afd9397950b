"""What a launch may pass to a kernel, and what the driver gets of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from gns.gaussian_renderer.backends.kernel_arguments import converted
from gns.gaussian_renderer.backends.kernel_table import Argument, Kernel

CPU = torch.device("cpu")
KERNEL = Kernel(
    "scale",
    "scale.cu",
    (32, 1, 1),
    "1",
    (
        Argument("count", torch.int32, ""),
        Argument("factor", torch.float32, ""),
        Argument("values", torch.float32, "[N]"),
        Argument("mask", torch.uint8, "[N]", optional=True),
    ),
)
VALUES, MASK = torch.zeros(4), torch.zeros(4, dtype=torch.uint8)


def test_the_table_decides_what_a_number_becomes() -> None:
    for count in (7, np.int64(7), True):
        for factor in (3, 3.0, np.float32(3), np.float64(3), np.int32(3)):
            arguments: list[Any] = [count, factor, VALUES, MASK]
            found = converted(KERNEL, arguments, CPU)
            assert [type(value) for value in found] == [np.int32, np.float32, int, int]
            assert found == [int(count), 3.0, VALUES.data_ptr(), MASK.data_ptr()]
    assert converted(KERNEL, (7, math.inf, VALUES[2:], None), CPU)[1:] == [math.inf, VALUES.data_ptr() + 8, 0]
    assert math.isnan(converted(KERNEL, (7, math.nan, VALUES, None), CPU)[1])


@pytest.mark.parametrize(
    ("position", "value", "error", "words"),
    [
        (0, 7.0, TypeError, "count must be a number, torch.int32, not 7.0"),
        (0, np.float32(7), TypeError, "count must be a number"),
        (0, 2**31, OverflowError, "does not fit into an int32"),
        (0, np.int64(-(2**31) - 1), OverflowError, "does not fit into an int32"),
        (0, None, TypeError, "not None"),
        (1, 1e39, OverflowError, "does not fit into a float32"),
        (1, 10**40, OverflowError, "does not fit into a float32"),
        (1, "3", TypeError, "factor must be a number, torch.float32, not '3'"),
        (1, torch.ones(()), TypeError, "not a tensor of torch.float32"),
        (2, 0, TypeError, r"values must be an array of torch.float32, \[N\], not 0"),
        (2, None, TypeError, "not None"),
        (2, MASK, TypeError, "not a tensor of torch.uint8"),
        (2, torch.zeros(4, 3).T, ValueError, r"scale on cpu: values was given on cpu with shape \(3, 4\)"),
        (2, torch.zeros(4, device="meta"), ValueError, "given on meta"),
        (3, VALUES, TypeError, "mask must be an array of torch.uint8"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_does_not_fit_is_refused(position: int, value: Any, error: type[Exception], words: str) -> None:
    arguments: list[Any] = [7, 3.0, VALUES, MASK]
    arguments[position] = value
    with pytest.raises(error, match=words):
        converted(KERNEL, arguments, CPU)


def test_too_few_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="scale takes 4 arguments, not 3"):
        converted(KERNEL, (7, 3.0, VALUES), CPU)
