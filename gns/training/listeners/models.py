"""The models that a run leaves behind."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from gns.run_folder import RunFolder
from gns.scene.frame import WORLD
from gns.scene.ply import offset_path
from gns.training.events import Event, IterationEnded, Listener, ModelSaved, Remark


class Models(Listener):
    """Saves the model at some iterations and at the end; without a folder it only knows when others do."""

    def __init__(self, run: RunFolder | None, iterations: Collection[int]) -> None:
        self._run = run
        self._iterations = set(iterations)

    def due(self, moment: IterationEnded) -> bool:
        return moment.last or moment.iteration in self._iterations

    def keep(self, moment: IterationEnded) -> Iterable[Event]:
        if self.due(moment) and self._run:
            gaussians = moment.gaussians
            path = self._run.save_model(gaussians, moment.iteration, moment.records)
            yield moment.then(ModelSaved, path=path, sha256=self._run.model_digest(moment.iteration))
            if (offset := gaussians.for_float32()[1]) != WORLD.offset:
                yield moment.then(Remark, text=offset_told(path, offset))


def offset_told(path: Path, offset: tuple[float, float, float]) -> str:
    """The sentence for a model whose coordinates in the file are not the scene's."""
    return (
        f"the scene lies too far from the origin for the 24 bits of a model's coordinates: add {offset} to those in "
        f"the file; {offset_path(path).name} beside it has these numbers"
    )
