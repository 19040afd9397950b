"""Memory that is used again and again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

SPARE = 8  # a buffer that is too small grows to the size asked for, and an eighth more


class Workspace:
    """Uninitialised memory under names, which only ever grows; contents do not survive a growth."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[str, Tensor] = {}

    @property
    def nbytes(self) -> int:
        """Memory that is held, in bytes."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """A contiguous tensor of this shape; the previous one of that name is no more."""
        count = prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.dtype != dtype or buffer.numel() < count:
            self._buffers.pop(name, None)  # freed first, so that old and new never take memory together
            buffer = torch.empty(count + count // SPARE, dtype=dtype, device=self._device)
            self._buffers[name] = buffer
        return buffer[:count].view(*shape)
