"""Whether a launch passes a kernel what its table asks for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gns.gaussian_renderer.backends.kernel_table import Kernel, Launchable


def check_arguments(kernel: Kernel, arguments: Sequence[Launchable]) -> None:
    """Raise TypeError where `arguments` are not those of `kernel`: number, dtypes, contiguity, scalar or array."""
    if len(arguments) != len(kernel.arguments):
        raise TypeError(f"{kernel.name} takes {len(kernel.arguments)} arguments, not {len(arguments)}")
    for wanted, given in zip(kernel.arguments, arguments, strict=True):
        if isinstance(given, Tensor):
            fits = bool(wanted.shape) and given.dtype == wanted.dtype and given.is_contiguous()
        elif given is None:
            fits = wanted.optional
        else:
            fits = not wanted.shape and (wanted.dtype == torch.float32 or isinstance(given, int))
        if not fits:
            found = f"{given.dtype} with stride {given.stride()}" if isinstance(given, Tensor) else given
            kind = f"contiguous {wanted.dtype} {wanted.shape}" if wanted.shape else f"scalar {wanted.dtype}"
            raise TypeError(f"{kernel.name}: {wanted.name} must be {kind}, not {found}")
