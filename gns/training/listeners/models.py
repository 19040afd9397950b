"""The models that a run leaves behind."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from gns.run_folder import RunFolder
from gns.training.events import Event, IterationEnded, Listener, ModelSaved


class Models(Listener):
    """Saves the model at some iterations and at the end; without a folder it only knows when others do."""

    def __init__(self, run: RunFolder | None, iterations: Collection[int]) -> None:
        self._run = run
        self._iterations = set(iterations)

    def due(self, moment: IterationEnded) -> bool:
        return moment.last or moment.iteration in self._iterations

    def hear(self, event: Event) -> Iterable[Event]:
        if isinstance(event, IterationEnded) and self.due(event) and self._run:
            path = self._run.save_model(event.gaussians, event.iteration)
            yield event.then(ModelSaved, path=path, sha256=self._run.model_digest(event.iteration))
