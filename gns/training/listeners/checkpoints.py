"""Checkpoints: what a run goes on from."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from gns.errors import UserError
from gns.run_folder import RunFolder
from gns.training.events import CheckpointSaved, Event, IterationEnded, Listener
from gns.training.state import not_finite

SECONDS = 300.0  # the most work that a crash can cost


class Checkpoints(Listener):
    """Saves the state at some iterations, from time to time, and at a stop; without a folder it only knows when."""

    def __init__(self, run: RunFolder | None, iterations: Collection[int]) -> None:
        self._run = run
        self._iterations = set(iterations)
        self._saved_at = time.monotonic()

    def wants_checkpoint(self) -> bool:
        return time.monotonic() - self._saved_at > SECONDS

    def due(self, moment: IterationEnded) -> bool:
        return not moment.last and (moment.stop or moment.overdue or moment.iteration in self._iterations)

    def keep(self, moment: IterationEnded) -> Iterable[Event]:
        if self.due(moment) and self._run:
            if spoilt := not_finite(moment._state.population):
                raise UserError(f"training diverged: {spoilt} are not finite after iteration {moment.iteration}")
            path = self._run.save_checkpoint(moment._state.state_dict(), moment.iteration)
            self._saved_at = time.monotonic()
            yield moment.then(CheckpointSaved, path=path)
