"""Ctrl-C, SIGTERM and a terminal that closes (SIGHUP) end a run after the iteration under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

from gns.training.events import Event, Listener, Signalled, Stopped

_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_SIGNALS = [number for number in (signal.SIGINT, signal.SIGTERM, _HANGUP) if number is not None]


class Stop(Listener):
    """Remembers a first Ctrl-C (or SIGTERM) until the iteration is done; a second one acts at once.

    SIGHUP may come any number of times: when a terminal closes, both the system and the shell send it. What is ignored
    stays ignored: under `nohup` a run outlives its terminal.
    """

    def __init__(self) -> None:
        self._asked: int | None = None  # the first signal that came
        self._usual: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._usual = {number: signal.signal(number, self._ask) for number in heeded}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = self._asked or number
        if number != _HANGUP:
            self.close()

    def wants_stop(self) -> bool:
        return self._asked is not None

    def hear(self, event: Event) -> Iterable[Event]:
        if isinstance(event, Stopped) and self._asked is not None:
            yield event.then(Signalled, number=self._asked)

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        self._usual = {}
