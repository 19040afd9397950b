"""How far a long stage is, and how long it will still take."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

from gns.utils.console import warn

_SECONDS_BETWEEN_LINES = 30


class Progress:
    """A bar for each stage on a terminal; plain lines with the time left where stderr is a file or a pipe."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: tqdm[Any] | None = None
        self._stage = ""
        self._started = self._told = 0.0
        self._first = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def tell(self, stage: str, done: int, of: int, unit: str = "photo") -> None:
        """`done` of so many steps of `stage` are done; another stage than before begins."""
        if self._quiet:
            return
        if stage != self._stage:
            self._begin(stage, done, of, unit)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif done >= of or time.monotonic() - self._told >= _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            warn(self._line(done, of))
        if done >= of:
            self._close()

    def _begin(self, stage: str, done: int, of: int, unit: str) -> None:
        self._close()
        self._stage, self._first = stage, done
        self._started = self._told = time.monotonic()
        if sys.stderr.isatty():
            self._bar = tqdm(total=of, initial=done, desc=stage, unit=unit, dynamic_ncols=True)

    def _line(self, done: int, of: int) -> str:
        seconds = time.monotonic() - self._started
        if done >= of:
            return f"{self._stage}: {of} of {of}, {_duration(seconds)}"
        left = f", {_duration(seconds * (of - done) / (done - self._first))} left" if done > self._first else ""
        return f"{self._stage}: {done} of {of}{left}"

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _duration(seconds: float) -> str:
    """`42 s`, `3 min` or `1 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
