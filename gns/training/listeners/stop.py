"""Ctrl-C, SIGTERM and a terminal that closes (SIGHUP) end a run after the iteration under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from gns.training.events import Listener

_HANGUP = getattr(signal, "SIGHUP", None)  # not on Windows
_SIGNALS = [number for number in (signal.SIGINT, signal.SIGTERM, _HANGUP) if number is not None]


class Stop(Listener):
    """Remembers a first Ctrl-C (or SIGTERM) until the iteration is done; a second one acts at once.

    SIGHUP may come any number of times: when a terminal closes, both the system and the shell send it. What is ignored
    stays ignored: under `nohup` a run outlives its terminal.
    """

    def __init__(self) -> None:
        self._asked = False
        self._usual: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._usual = {number: signal.signal(number, self._ask) for number in heeded}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if number != _HANGUP:
            self.close()

    def wants_stop(self) -> bool:
        return self._asked

    def close(self) -> None:
        """Give the signals back."""
        for number, handler in self._usual.items():
            signal.signal(number, handler)
        self._usual = {}
