"""log.jsonl: what happened on the way, a record a line.

    started                     a session begins: its time, and how many Gaussians there are
    loss, gaussians, opacities  and what the rules report, about EVERY iterations or more often in short runs; opacities
                                are counts in the bins of `gns.training.census`
    births, deaths              since the record before that has them
    held_out_psnr               in dB
    survival                    where a selection ends: who was there when it began, and who is left
    raw_loss                    of a single iteration, where every one is asked for

Each has its iteration, and the seconds and seconds of processor time since the session's beginning.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from gns.run_folder import RunFolder
from gns.training.census import Census
from gns.training.events import (
    CheckpointSaved,
    Event,
    Finished,
    HeldOutScored,
    IterationEnded,
    Listener,
    Progress,
    Started,
    Stopped,
)

EVERY = 100  # iterations, about
LEAST_RECORDS = 300  # of a run, however short


class Log(Listener):
    """Writes the log of a run. Its clocks, of the wall and of the processor, start with the listener."""

    def __init__(self, run: RunFolder, iterations: int, *, each_loss: bool = False) -> None:
        self._run = run
        self._every = max(1, min(EVERY, iterations // LEAST_RECORDS))
        self._each_loss = each_loss
        self._census: Census | None = None
        self._started, self._started_processor = time.monotonic(), time.process_time()

    def hear(self, event: Event) -> Iterable[Event]:
        match event:
            case Started():
                self._census = Census(event._state)
                now = datetime.now(timezone.utc).isoformat(timespec="seconds")
                self._write(event, {"started": now, "gaussians": event.count, "opacities": self._census.opacities()})
            case Progress():
                if self._each_loss:
                    self._run.log(*({"iteration": it, "raw_loss": loss} for it, loss in event.readings))
                if event.iteration % self._every < event.losses:
                    self._write(event, {"loss": event.loss, **self._counts(event), **event.report})
            case IterationEnded() if self._census and (survival := self._census.survival(event.iteration)):
                self._write(event, {"survival": survival})
            case HeldOutScored():
                fitted = {} if event.fitted is None else {"held_out_psnr_fitted": event.fitted}
                self._write(event, {"held_out_psnr": event.psnr, **fitted})
            # A session that goes on from here misses nothing.
            case CheckpointSaved() | Stopped() | Finished():
                self._write(event, self._counts(event))
        return ()

    def _counts(self, event: Event) -> dict[str, Any]:
        census = {"opacities": self._census.opacities(), **self._census.flow()} if self._census else {}
        return {"gaussians": event.count, **census}

    def _write(self, event: Event, values: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self._started, 2)
        processor = round(time.process_time() - self._started_processor, 2)  # of all threads
        self._run.log({"iteration": event.iteration, **values, "seconds": seconds, "processor_seconds": processor})
