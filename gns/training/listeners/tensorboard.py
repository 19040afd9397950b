"""Curves for TensorBoard, under the names that 3DGS writes. Needs the package tensorboard, which is optional."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterable
from pathlib import Path

from gns.errors import UserError
from gns.training.events import Event, HeldOutScored, Listener, Progress, Started

HISTOGRAM_EVERY = 20  # progress events


class TensorBoard(Listener):
    """Writes events into the output folder, where `tensorboard --logdir` looks for them."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where tensorboard is not installed."""
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError(
                '--tensorboard needs the package tensorboard: run pip install ".[tensorboard]" in the folder of gns'
            )
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder))
        self._at = time.monotonic()
        self._heard = 0

    def hear(self, event: Event) -> Iterable[Event]:
        write = self._writer.add_scalar
        match event:
            case Started():
                self._at = time.monotonic()
            case Progress():
                for iteration, loss in event.readings:
                    write("train_loss_patches/total_loss", loss, iteration)
                now = time.monotonic()
                write("iter_time", 1e3 * (now - self._at) / event.losses, event.iteration)
                self._at = now
                write("total_points", event.count, event.iteration)
                self._heard += 1
                if self._heard % HISTOGRAM_EVERY == 0:
                    opacities = event._state.population.opacities
                    self._writer.add_histogram("scene/opacity_histogram", opacities, event.iteration)
            case HeldOutScored():
                write("test/loss_viewpoint - psnr", event.psnr, event.iteration)
        return ()

    def close(self) -> None:
        self._writer.close()
