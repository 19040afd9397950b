"""Results sorted into what may be compared: one scene, one length, CPU or GPU; times on one machine besides."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from benchmarks.grid.plan import REFERENCE, REFERENCE_SEED, share_of
from benchmarks.grid.results import Result
from gns.rules import METHODS

PERCENTAGES = (1, 2, 3, 5, 7.5, 10, 15, 20, 25, 30, 40, 50, 75, 100)  # that a budget may have been asked for as

BySeed = Mapping[int, Result]


@dataclass(frozen=True)
class Group:
    """The runs of all entrants on `scene`, in so many iterations, on the `device` ("cpu", "cuda") of any machine."""

    scene: str
    iterations: int
    device: str
    results: Sequence[Result]

    @cached_property
    def runs(self) -> Mapping[tuple[str, int | None], BySeed]:
        """By the entrant's label and the budget, and then by seed; in order of budget, methods before variants."""
        methods = list(METHODS)

        def place(result: Result) -> tuple[int, int, str]:
            known = result.entrant in METHODS
            return result.budget or 0, methods.index(result.entrant) if known else len(methods), result.entrant

        sorted_results = sorted(self.results, key=place)
        found: dict[tuple[str, int | None], dict[int, Result]] = {}
        for result in sorted_results:
            found.setdefault((self.labels[result.entrant, result.entrant_options], result.budget), {})[result.seed] = (
                result
            )
        return found

    @cached_property
    def labels(self) -> Mapping[tuple[str, tuple[str, ...]], str]:
        """What entrants are called: by name, and by their options too where one name had several."""
        known = dict.fromkeys((result.entrant, result.entrant_options) for result in self.results)
        names = [name for name, _ in known]
        return {
            (name, options): name if names.count(name) == 1 else f"{name} ({shlex.join(options)})"
            for name, options in known
        }

    @property
    def title(self) -> str:
        """What the group is called; the CPU is not mentioned."""
        return f"{self.scene}, {self.iterations:,} iterations" + ("" if self.device == "cpu" else f", {self.device}")

    @property
    def machines(self) -> list[str]:
        """The names of those that the runs were made on, sorted."""
        return sorted({machine_name(result) for result in self.results})

    def on(self, machine: str) -> Group:
        """The runs that were made there: their times may be compared."""
        return replace(self, results=[result for result in self.results if machine_name(result) == machine])

    @property
    def entrants(self) -> list[str]:
        """All labels, in the order of the first budget that they appear in."""
        return list(dict.fromkeys(label for label, _ in self.runs))

    @property
    def budgets(self) -> list[int]:
        """Gaussians, ascending."""
        return sorted({budget for _, budget in self.runs if budget is not None})

    def size_text(self, budget: int | None, runs: BySeed) -> str:
        """`budget_text`, and how many Gaussians `runs` end with where that is not what they were asked for."""
        counts = {result.gaussians for result in runs.values()}
        missed = budget is not None and counts != {budget}
        return self.budget_text(budget) + (f", ends with {max(counts):,}" if missed else "")

    def of(self, entrant: str, budget: int | None) -> BySeed:
        """The runs of a cell by seed; empty where there are none."""
        return self.runs.get((entrant, budget), {})

    @property
    def reference_count(self) -> int | None:
        """The Gaussians that 3DGS grew to in the run that percentages are of."""
        run = self.of(REFERENCE, None).get(REFERENCE_SEED)
        return None if run is None else run.gaussians

    def share_budget(self, share: float) -> int | None:
        """The budget that is such a share of 3DGS's Gaussians."""
        count = self.reference_count
        return None if count is None else share_of(share, count)

    def budget_text(self, budget: int | None) -> str:
        """`54,359 (15 %)`, with the percentage where it was asked for as one."""
        if budget is None:
            return "open"
        asked = [percent for percent in PERCENTAGES if self.share_budget(percent / 100) == budget]
        return f"{budget:,} ({asked[0]:g} %)" if asked else f"{budget:,}"


def values(runs: BySeed, of: Callable[[Result], float | None]) -> dict[int, float]:
    """A figure of each run that has it, by seed."""
    known = {seed: of(result) for seed, result in runs.items()}
    return {seed: value for seed, value in known.items() if value is not None}


def machine_name(result: Result) -> str:
    """What makes times comparable. Not the number of threads: processor seconds hardly depend on it."""
    machine = result.machine
    if result.device != "cpu":
        return str(machine["device"])
    return f"{machine['processor']}, {machine['instruction_set']}"


def grouped(results: Sequence[Result]) -> list[Group]:
    """All groups, by scene, length and device: the same run may have been made on both, with other scores."""
    found: dict[tuple[str, int, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.scene, result.iterations, result.device), []).append(result)
    return [Group(*key, found[key]) for key in sorted(found)]
