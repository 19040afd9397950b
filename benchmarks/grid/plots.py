"""The plots of docs/results.md: quality over the budget, and over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.grid.groups import BySeed, Group
from benchmarks.grid.plan import REFERENCE
from benchmarks.grid.results import Moment
from benchmarks.grid.statistics import figure
from benchmarks.grid.tables import CLAIM_SHARE, psnr, ssim
from gns.errors import UserError

_SALT = "gns"  # the same figures give the same file


def draw_over_budget(group: Group, path: Path) -> None:
    """PSNR and SSIM over the number of Gaussians: means over seeds, and the spread. UserError without matplotlib."""
    plt = _pyplot()
    figure_, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, (name, score) in zip(axes, (("PSNR, dB", psnr), ("SSIM", ssim)), strict=True):
        for index, entrant in enumerate(group.entrants):
            cells = [runs for (other, _), runs in group.runs.items() if other == entrant]
            sizes = [figure([result.gaussians for result in runs.values()]).mean for runs in cells]
            scores = [figure([score(result) for result in runs.values()]) for runs in cells]
            spreads = [each.spread or 0 for each in scores]
            means = [each.mean for each in scores]
            style = "*" if entrant == REFERENCE else "o-"
            axis.errorbar(sizes, means, spreads, fmt=style, color=f"C{index}", capsize=3, markersize=5, label=entrant)
        axis.set(xscale="log", xlabel="Gaussians", ylabel=name)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure_.suptitle(group.title)
    _save(plt, figure_, path)


def draw_over_time(group: Group, machine: str, path: Path) -> int | None:
    """PSNR on the way over the time spent on `machine`, at the budget nearest to the paper's share.

    Returns the budget, None if nothing is drawn. Raises UserError without matplotlib.
    """
    wanted, there = group.share_budget(CLAIM_SHARE), group.on(machine)
    if not there.budgets:
        return None
    budget = min(there.budgets, key=lambda size: abs(size - wanted) if wanted else -len(_entrants_at(there, size)))
    plt = _pyplot()
    figure_, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for index, entrant in enumerate(there.entrants):
        runs = there.of(entrant, budget) or there.of(entrant, None)
        times, scores = mean_course(runs)
        if times:
            axis.plot(times, scores, "o-", color=f"C{index}", markersize=4, label=entrant)
    clock = "processor" if group.device == "cpu" else "clock"
    axis.set(xlabel=f"seconds of the {clock} since training began", ylabel="held-out PSNR, dB", xscale="log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_title(f"{group.title}, {group.budget_text(budget)} Gaussians", fontsize=10)
    _save(plt, figure_, path)
    return budget


def mean_course(runs: BySeed) -> tuple[list[float], list[float]]:
    """Mean seconds and mean PSNR at the iterations at which all `runs` were measured."""
    by_iteration: dict[int, list[tuple[float, float]]] = {}
    for result in runs.values():
        for moment in result.moments:
            by_iteration.setdefault(moment.iteration, []).append((_seconds(moment, result.device), moment.psnr))
    complete = [by_iteration[it] for it in sorted(by_iteration) if len(by_iteration[it]) == len(runs)]
    return [figure([time for time, _ in each]).mean for each in complete], [
        figure([score for _, score in each]).mean for each in complete
    ]


def _seconds(moment: Moment, device: str) -> float:
    return moment.cpu_seconds if device == "cpu" and moment.cpu_seconds is not None else moment.wall_seconds


def _entrants_at(group: Group, budget: int) -> Sequence[str]:
    return [entrant for entrant, size in group.runs if size == budget]


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise UserError('plots need matplotlib: pip install ".[plot]", or give --no-plots') from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = _SALT
    from matplotlib import pyplot

    return pyplot


def _save(plt: Any, figure_: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure_.savefig(path, metadata={"Date": None})
    plt.close(figure_)
