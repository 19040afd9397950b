"""The JSON file of a finished run, and the folder that has them all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.grid.runs import Run
from benchmarks.grid.shared_growth import Growth, alike
from gns.utils.atomic_files import write_text

FORMAT = 1  # raise it when a field of the file is removed or changes its meaning


@dataclass(frozen=True)
class Moment:
    """The held-out photos measured on the way; seconds since training began, of the clock and of the processor."""

    iteration: int
    psnr: float
    wall_seconds: float
    cpu_seconds: float | None


@dataclass(frozen=True)
class Result:
    """What one run came to."""

    key: str  # the name of its file
    scene: str
    entrant: str
    entrant_options: tuple[str, ...]
    budget: int | None  # Gaussians asked for
    iterations: int
    seed: int
    device: str
    version: str  # of gns
    options: Mapping[str, Any]  # all that decide the result, defaults included
    command: str
    machine: Mapping[str, Any]
    sessions: Sequence[Mapping[str, Any]]  # one, and one more for each time that the run was stopped
    gaussians: int
    scores: Mapping[str, float | None]  # means over the held-out photos, by the name that metrics.py gives them
    per_view: Mapping[str, Mapping[str, float | None]]
    moments: Sequence[Moment]
    wall_seconds: float | None  # of train.py from its start to its end; None where a session was killed
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    finished_at: str
    photo_size: Sequence[int] | None = None  # width and height of the first held-out photo, in pixels

    @property
    def psnr(self) -> float:
        """Mean over the held-out photos, dB."""
        return _known(self.scores["PSNR"])

    @property
    def ssim(self) -> float:
        """Mean over the held-out photos."""
        return _known(self.scores["SSIM"])

    @property
    def commits(self) -> list[str]:
        """The commits that trained it, each with a + where files of gns were changed."""
        named = (f"{session['commit']}{'+' if session['dirty'] else ''}" for session in self.sessions)
        return list(dict.fromkeys(named))


class Results:
    """The folder `path` of finished runs, `KEY.json`, and of work under way, `runs/KEY/`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def file(self, run: Run) -> Path:
        """Where the result of `run` is, or will be."""
        return self.path / f"{run.key}.json"

    def work_folder(self, run: Run) -> Path:
        """Where `run` is trained: not part of the results, and in nobody's repository."""
        return self.path / "runs" / run.key

    def growth(self, run: Run) -> Growth:
        """What `run` has in common with the runs that grow as it does."""
        first = min(each.key for each in (run, *alike(run)))
        return Growth(self.path / "runs" / f"growth-of-{first}")

    def finished(self, run: Run) -> Result | None:
        """The result of `run`; None where there is none, or where an option has another default today than then."""
        result = read_result(self.file(run))
        if result is None:
            return None
        # Options that are gone are no reason, nor are those that came since and are left alone: they are added so that
        # nothing changes. But a preset may turn on what it did not know then.
        then = {**run.defaults(), **result.options}
        outdated = any(then[name] != value for name, value in run.decisive().items())
        return None if outdated else result

    def all(self) -> list[Result]:
        """All results of this format, by name of the file."""
        read = (read_result(path) for path in sorted(self.path.glob("*.json")))
        return [result for result in read if result is not None]

    def write(self, run: Run, figures: Mapping[str, Any]) -> None:
        """Write the file of `run`; `figures` are those fields of `Result` that the run itself does not tell."""
        document = {
            "format": FORMAT,
            "scene": run.scene.name,
            "entrant": run.entrant.name,
            "entrant_options": list(run.entrant.options),
            "budget": run.budget,
            "iterations": run.iterations,
            "seed": run.seed,
            "device": run.device,
            "options": run.decisive(),
            "command": run.command,
            **figures,
        }
        write_text(self.file(run), json.dumps(document, indent=1) + "\n")


def read_result(path: Path) -> Result | None:
    """The result in a file; None where there is no such file, or it is none of ours."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT:
            return None
        moments = [Moment(**moment) for moment in document.pop("moments")]
        options = tuple(document.pop("entrant_options"))
        return Result(**document, key=path.stem, entrant_options=options, moments=moments)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _known(score: float | None) -> float:
    assert score is not None  # LPIPS alone can be absent
    return score
