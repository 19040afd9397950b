"""Progress on the terminal: a bar with the time left, and a line for each thing worth knowing.

Where stderr is no terminal, such as the file of a batch job, a plain line from time to time takes the bar's place.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from gns.training.events import (
    Event,
    Finished,
    HeldOutScored,
    Listener,
    ModelSaved,
    Progress,
    Remark,
    Started,
    Stopped,
)
from gns.utils.console import is_terminal, say, warn

LINE_EVERY = 30.0  # seconds between plain lines
FIRST_LINE = 5.0


class Bar(Listener):
    """What a person reads who waits. Prints nothing where `quiet`, but how to go on after a stop."""

    def __init__(self, iterations: int, budget: int, *, processes: int = 1, quiet: bool = False) -> None:
        """A run of so many iterations, to so many Gaussians (0: no such aim), on so many processes."""
        self._iterations = iterations
        self._budget = budget
        self._processes = processes
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._plain = not is_terminal(sys.stderr)
        self._began = (0, 0.0)  # iteration and time
        self._next_line = 0.0

    def hear(self, event: Event) -> Iterable[Event]:
        match event:
            case Started():
                self._start(event.iteration)
            case Progress():
                self._progress(event)
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
            case Finished():
                self.close()  # what follows has bars of its own
        return ()

    def _start(self, iteration: int) -> None:
        now = time.monotonic()
        self._began, self._next_line = (iteration, now), now + FIRST_LINE
        if not self._plain:
            self._bar = tqdm(
                total=self._iterations,
                initial=iteration,
                desc="training",
                unit="it",
                dynamic_ncols=True,
                disable=self._quiet,
            )

    def _progress(self, event: Progress) -> None:
        aim = f"/{self._budget:,}" if self._budget else ""
        figures = f"loss {event.loss:.4f}, {event.count:,}{aim} Gaussians"
        if self._bar is not None:
            self._bar.set_postfix_str(figures, refresh=False)
            self._bar.update(event.losses)
        now = time.monotonic()
        if self._plain and not self._quiet and now >= self._next_line:
            self._next_line = now + LINE_EVERY
            first, began = self._began
            rate = (event.iteration - first) / max(now - began, 1e-9)
            left = tqdm.format_interval((self._iterations - event.iteration) / max(rate, 1e-9))
            share = f"{event.iteration:,} of {self._iterations:,} iterations ({event.iteration / self._iterations:.0%})"
            warn(f"{share}, {figures}, {rate:.1f} a second, {left} left")

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
            self._bar = None
