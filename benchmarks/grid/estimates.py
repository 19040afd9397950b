"""What a run that was never made will take: only to order runs, and to tell the time left.

An iteration costs something a pixel and something a Gaussian. How much is learned from finished runs: of the same
scene and entrant, of the same scene, or of any, whichever is the first that there are. On processors the time is that
which idle cores would take: other work on them says nothing about the run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.grid.results import Result
from benchmarks.grid.runs import Run

SECONDS_A_UNIT = 0.0065  # two cores with AVX-512
PIXELS_A_UNIT = 130_000
GAUSSIANS_A_UNIT = 15_000
GAUSSIANS_A_PIXEL = 2.0  # of methods without a budget: fox480, at 3,000 iterations, 2.8


@dataclass(frozen=True)
class Estimates:
    """`pixels` are those of a photo, by scene."""

    results: Sequence[Result]
    pixels: Mapping[str, int]

    def seconds(self, run: Run) -> float:
        """About how long `run` will take from its start to its end where nothing else wants the machine."""
        size = self._expected_gaussians(run)
        return self._units(run.scene.name, run.iterations, size) * self._seconds_a_unit(run)

    def _units(self, scene: str, iterations: int, gaussians: float) -> float:
        return iterations * (1 + self.pixels.get(scene, 0) / PIXELS_A_UNIT + gaussians / GAUSSIANS_A_UNIT)

    def _expected_gaussians(self, run: Run) -> float:
        if run.budget is not None:
            return run.budget
        grown = [result for result in self.results if result.scene == run.scene.name and result.budget is None]
        if grown:
            return min(grown, key=lambda result: abs(result.iterations - run.iterations)).gaussians
        return GAUSSIANS_A_PIXEL * self.pixels.get(run.scene.name, PIXELS_A_UNIT)

    def _seconds_a_unit(self, run: Run) -> float:
        nearness: tuple[Callable[[Result], bool], ...] = (
            lambda result: (result.scene, result.entrant) == (run.scene.name, run.entrant.name),
            lambda result: result.scene == run.scene.name and (result.budget is None) == (run.budget is None),
            lambda result: (result.budget is None) == (run.budget is None),
        )
        measured = [(result, _undisturbed_seconds(result)) for result in self.results if result.device == run.device]
        for near in nearness:
            if found := [(result, seconds) for result, seconds in measured if seconds and near(result)]:
                return statistics.median(
                    seconds / self._units(result.scene, result.iterations, result.gaussians)
                    for result, seconds in found
                )
        return SECONDS_A_UNIT


def _undisturbed_seconds(result: Result) -> float:
    """What a run took, or would have on idle cores; 0 where that is not known."""
    if result.device != "cpu":
        return result.wall_seconds or 0
    threads: int = result.machine["threads"]
    return (result.cpu_seconds or 0) / threads


def in_words(seconds: float) -> str:
    """A duration as a person reads it."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
