"""The arguments of a launch as the driver takes them: the kernel's table decides what each becomes, never its type."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gns.gaussian_renderer.backends.kernel_table import Argument, Kernel, Launchable

# An address, or a scalar whose type, np.int32 or np.float32, is that of the kernel's parameter.
Converted = int | np.float32 | np.int32

_INT32, _LARGEST = torch.iinfo(torch.int32), torch.finfo(torch.float32).max


def converted(kernel: Kernel, arguments: Sequence[Launchable], device: torch.device) -> list[Converted]:
    """What to pass to `kernel` on `device`: addresses of tensors (0 for None) and numbers of the table's types.

    Raises TypeError for what is not of the kind that the table asks for (number of arguments, dtype, array or scalar, a
    None that is not optional, a fraction for an integer), ValueError for a tensor that lies elsewhere or with gaps, and
    OverflowError for a number that its type does not hold.
    """
    if len(arguments) != len(kernel.arguments):
        raise TypeError(f"{kernel.name} takes {len(kernel.arguments)} arguments, not {len(arguments)}")
    return [_converted(kernel, *pair, device) for pair in zip(kernel.arguments, arguments, strict=True)]


def _converted(kernel: Kernel, wanted: Argument, given: Launchable, device: torch.device) -> Converted:
    if wanted.shape:
        if given is None and wanted.optional:
            return 0
        if isinstance(given, Tensor) and given.dtype == wanted.dtype:
            if given.device != device or not given.is_contiguous():
                raise ValueError(
                    f"{kernel.name} on {device}: {wanted.name} was given on {given.device} with shape "
                    f"{tuple(given.shape)}, stride {given.stride()}"
                )
            return given.data_ptr()
    elif wanted.dtype == torch.float32:
        if isinstance(given, float | int | np.floating | np.integer):
            if _LARGEST < abs(given) < math.inf:
                raise OverflowError(f"{kernel.name}: {wanted.name} is {given}, which does not fit into a float32")
            single: np.float32 = np.float32(given)
            return single
    elif isinstance(given, int | np.integer):
        if not _INT32.min <= given <= _INT32.max:  # numpy 1 would wrap it round
            raise OverflowError(f"{kernel.name}: {wanted.name} is {given}, which does not fit into an int32")
        integer: np.int32 = np.int32(given)
        return integer
    found = f"a tensor of {given.dtype}" if isinstance(given, Tensor) else f"{given!r}"
    kind = f"an array of {wanted.dtype}, {wanted.shape}" if wanted.shape else f"a number, {wanted.dtype}"
    raise TypeError(f"{kernel.name}: {wanted.name} must be {kind}, not {found}")
