"""Progress on the terminal: a bar with the time left, and a line for each thing worth knowing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from gns.training.events import Event, HeldOutScored, Listener, ModelSaved, Progress, Remark, Started, Stopped
from gns.utils.console import say, warn


class Bar(Listener):
    """What a person reads who waits. Prints nothing where `quiet`, but how to go on after a stop."""

    def __init__(self, iterations: int, budget: int, *, processes: int = 1, quiet: bool = False) -> None:
        """A run of so many iterations, to so many Gaussians (0: no such aim), on so many processes."""
        self._iterations = iterations
        self._budget = budget
        self._processes = processes
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None

    def hear(self, event: Event) -> Iterable[Event]:
        match event:
            case Started():
                self._bar = tqdm(
                    total=self._iterations,
                    initial=event.iteration,
                    desc="training",
                    unit="it",
                    dynamic_ncols=True,
                    disable=self._quiet,
                )
            case Progress() if self._bar is not None:
                aim = f"/{self._budget:,}" if self._budget else ""
                self._bar.set_postfix_str(f"loss {event.loss:.4f}, {event.count:,}{aim} Gaussians", refresh=False)
                self._bar.update(event.losses)
            case HeldOutScored():
                masked = f" ({event.masked} with a mask: pixels that count)" if event.masked else ""
                fitted = "" if event.fitted is None else f"; {event.fitted:.2f} dB with their exposure fitted"
                self._say(event, f"PSNR {event.psnr:.2f} dB over {event.views} held-out views{masked}{fitted}")
            case ModelSaved():
                digest = f" (SHA-256 {event.sha256})" if event.sha256 else ""
                self._say(event, f"{event.count:,} Gaussians in {event.path}{digest}")
            case Remark():
                self._say(event, event.text)
            case Stopped(path=path) if path is not None:
                warn(f"Stopped after iteration {event.iteration}. To go on: {self._command(str(path))}")
        return ()

    def _say(self, event: Event, text: str) -> None:
        say(f"iteration {event.iteration}: {text}", self._quiet)

    def _command(self, path: str) -> str:
        program = "gns train" if sys.argv[0].endswith("gns") else "python train.py"
        if self._processes > 1:  # any other number will do as well
            program = f"torchrun --nproc-per-node {self._processes} train.py"
        return f"{program} -m {shlex.quote(path)} --resume"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
