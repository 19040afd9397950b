"""Growth that several methods have in common is trained once, and each goes on from its end to the bits of its own run.

A third of a grid's time. The first of such methods that is run leaves a checkpoint from shortly before any of them
begins to take Gaussians out; the others start there (`train.py --start-checkpoint`). The growth's time counts for each.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.grid.runs import Run, method_entrant
from gns.report.facts import stretches_of
from gns.rules import METHODS, SCHEDULES
from gns.utils.atomic_files import write_text


def alike(run: Run) -> list[Run]:
    """The runs of other methods that grow as `run` does; none for a variant."""
    own = run.entrant.method
    if run.entrant != method_entrant(own):
        return []
    return [
        replace(run, entrant=method_entrant(other)) for other in METHODS if other != own and _grow_alike(own, other)
    ]


def _grow_alike(first: str, second: str) -> bool:
    """Whether two methods differ in nothing before the first of them takes Gaussians out."""
    kinds = [METHODS[method] for method in (first, second)]
    if not all(len(kind.rules) > 1 for kind in kinds):
        return False
    schedules = [kind.schedules[SCHEDULES[0]] for kind in kinds]
    rules = [(kind.rules[0], schedule.rules[0]) for kind, schedule in zip(kinds, schedules, strict=True)]
    return rules[0] == rules[1] and schedules[0].optimisation == schedules[1].optimisation


def last_common_iteration(run: Run) -> int:
    """The last one that all runs which grow as `run` does have in common; 0 where a run is too short for one."""
    stretches = [stretch for each in (run, *alike(run)) for stretch in stretches_of(each.config())]
    return max(0, min(stretch.first for stretch in stretches if stretch.selects) - 1)


@dataclass(frozen=True)
class Growth:
    """The folder `path` of what the methods that grow alike have in common in one cell of the grid."""

    path: Path

    @property
    def checkpoint(self) -> Path:
        """The state at its end."""
        return self.path / "grown.pt"

    def told(self, made_by: Mapping[str, Any]) -> dict[str, Any] | None:
        """The session that grew, and its log; None where there is none, or `made_by`, commit and machine, differ."""
        try:
            document: dict[str, Any] = json.loads((self.path / "grown.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if document["made_by"] == made_by and self.checkpoint.exists() else None

    def keep(
        self,
        checkpoint: Path,
        iteration: int,
        log: Sequence[Mapping[str, Any]],
        session: Mapping[str, Any],
        made_by: Mapping[str, Any],
    ) -> None:
        """Take over the `checkpoint` after `iteration` of a training of one session, with its log up to there."""
        records = [record for record in log if "seconds" in record and record["iteration"] <= iteration]
        grown = {"wall_seconds": records[-1]["seconds"], "cpu_seconds": records[-1]["processor_seconds"]}
        self.path.mkdir(parents=True, exist_ok=True)
        checkpoint.replace(self.checkpoint)
        document = {"made_by": dict(made_by), "session": {**session, **grown}, "log": records}
        write_text(self.path / "grown.json", json.dumps(document) + "\n")

    def forget(self) -> None:
        """Nobody needs it any more."""
        shutil.rmtree(self.path, ignore_errors=True)
