"""A number on its way from a device to the host, which meanwhile goes on."""

from __future__ import annotations

import torch
from torch import Tensor


class Readback:
    """Carries one integer at a time; page-locked memory and an event where the device has a queue of its own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        queued = device.type == "cuda"
        self._landed = torch.zeros(1, dtype=torch.int64, pin_memory=queued)
        self._event = torch.cuda.Event() if queued else None  # type: ignore[no-untyped-call]

    def start(self, number: Tensor) -> None:
        """Send `number`, [1] int64, off as soon as what was queued before has run."""
        self._landed.copy_(number, non_blocking=True)
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self._device))

    def finish(self) -> int:
        """The number that was last sent. Waits for it alone, not for what was queued after it."""
        if self._event is not None:
            self._event.synchronize()
        return int(self._landed)
