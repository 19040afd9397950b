"""log.jsonl: loss, Gaussians, what the rules report and held-out scores, a record a line."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from gns.run_folder import RunFolder
from gns.training.events import Event, HeldOutScored, Listener, Progress

EVERY = 100  # iterations, about


class Log(Listener):
    """Writes the log of a run. Its clocks, of the wall and of the processor, start with the listener."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._started, self._started_processor = time.monotonic(), time.process_time()

    def hear(self, event: Event) -> Iterable[Event]:
        match event:
            case Progress() if event.iteration % EVERY < event.losses:
                self._write(event, {"loss": event.loss, "gaussians": event.count, **event.report})
            case HeldOutScored():
                fitted = {} if event.fitted is None else {"held_out_psnr_fitted": event.fitted}
                self._write(event, {"held_out_psnr": event.psnr, **fitted})
        return ()

    def _write(self, event: Event, values: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self._started, 2)
        processor = round(time.process_time() - self._started_processor, 2)  # of all threads
        self._run.log({"iteration": event.iteration, **values, "seconds": seconds, "processor_seconds": processor})
