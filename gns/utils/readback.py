"""Numbers on their way from a device to the host, which meanwhile goes on."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """Carries up to `size` numbers at a time, by page-locked memory and an event where the device queues its work."""

    def __init__(self, device: torch.device, size: int = 1, dtype: torch.dtype = torch.int64) -> None:
        self._device = device
        self.queued = device.type == "cuda"  # whether `finish` may have to wait
        self._landed = torch.zeros(size, dtype=dtype, pin_memory=self.queued)
        self._count = 0
        self._event = torch.cuda.Event() if self.queued else None  # type: ignore[no-untyped-call]

    def start(self, numbers: Tensor) -> None:
        """Send `numbers`, [n], off as soon as what was queued before has run."""
        self._count = len(numbers)
        self._landed[: self._count].copy_(numbers, non_blocking=True)
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self._device))

    def finish(self) -> Tensor:
        """The numbers that were last sent, [n] on the CPU. Waits for them alone, not for what was queued after them."""
        if self._event is not None:
            self._event.synchronize()
        return self._landed[: self._count].clone()
