"""Methods × scenes × budgets × iterations × seeds: the runs of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.grid.results import Results
from benchmarks.grid.runs import Entrant, Run, method_entrant
from benchmarks.grid.scenes import SceneEntry
from gns.errors import UserError
from gns.utils.quantities import parse_count

REFERENCE = "3dgs"  # the method whose count of Gaussians percentages are of
REFERENCE_SEED = 0
PUBLISHED = "published"  # the budget of the paper's table


@dataclass(frozen=True)
class Budget:
    """A number of Gaussians, a share of what 3DGS grows to, or, with neither, that of the paper's table."""

    count: int | None = None
    share: float | None = None


def parse_budget(text: str) -> Budget:
    """`15000`, `15k`, `15%` or `published`. Raises UserError."""
    try:
        if text == PUBLISHED:
            return Budget()
        if text.endswith("%"):
            return Budget(share=float(text[:-1]) / 100)
        return Budget(count=parse_count(text))
    except ValueError:
        raise UserError(f"{text!r} is no budget: write 15000, 15k, 15% (of 3DGS's count) or {PUBLISHED}") from None


@dataclass(frozen=True)
class Grid:
    """What is asked for."""

    scenes: Sequence[SceneEntry]
    entrants: Sequence[Entrant]
    budgets: Sequence[Budget]
    iterations: Sequence[int]
    seeds: Sequence[int]
    device: str


@dataclass(frozen=True)
class Plan:
    """The runs of a grid as far as they can be told: how many more wait for the Gaussians that 3DGS grows to."""

    runs: Sequence[Run]
    waiting: int


def reference(scene: SceneEntry, iterations: int, device: str) -> Run:
    """The run of 3DGS that percentages are of: the first seed alone, so that a budget is one number for all."""
    return Run(scene, method_entrant(REFERENCE), None, iterations, REFERENCE_SEED, device)


def share_of(share: float, count: int) -> int:
    """A budget as a share of `count` Gaussians."""
    return round(share * count)


def planned(grid: Grid, results: Results) -> Plan:
    """All runs of `grid`, each once, with the references that it needs. Raises UserError where one cannot be."""
    runs: dict[Run, None] = {}
    waiting = 0
    for scene in grid.scenes:
        for iterations in grid.iterations:
            counts = [_count(budget, scene, iterations, grid.device, results) for budget in grid.budgets]
            if any(budget.share is not None for budget in grid.budgets):
                runs[reference(scene, iterations, grid.device)] = None
            for entrant in grid.entrants:
                for seed in grid.seeds:
                    for count in counts if entrant.budgeted else [None]:
                        if entrant.budgeted and count is None:
                            waiting += 1
                        else:
                            runs[Run(scene, entrant, count, iterations, seed, grid.device)] = None
    for run in runs:
        run.config()
    return Plan(list(runs), waiting)


def _count(budget: Budget, scene: SceneEntry, iterations: int, device: str, results: Results) -> int | None:
    """The Gaussians of a budget; None where 3DGS has yet to tell."""
    if budget.count is not None:
        return budget.count
    if budget.share is None:
        if scene.published_budget is None:
            raise UserError(f"{scene.name} has no published budget: give its --budgets as numbers or percentages")
        return scene.published_budget
    grown = results.finished(reference(scene, iterations, device))
    return None if grown is None else share_of(budget.share, grown.gaussians)
