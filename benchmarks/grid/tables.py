"""The tables of docs/results.md, as rows of text cells."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.grid.groups import BySeed, Group, machine_name, values
from benchmarks.grid.plan import PUBLISHED, REFERENCE
from benchmarks.grid.results import Result
from benchmarks.grid.statistics import Figure, differences, figure, paired
from gns.commands import published
from gns.commands.test import SuiteScene
from gns.rules import METHODS
from gns.utils.tables import Rows

NOT_MEASURED = "not measured"
CLAIM_SHARE, CLAIM_GAIN = 0.15, 0.6  # of 3DGS's Gaussians, and dB above it: what the paper says
SHARES = (0.05, 0.1, 0.15, 0.3)
# Published PSNR of 3DGS in dB, by scene and iterations, and the photos it was measured on (Kerbl et al. 2023).
PUBLISHED_REFERENCE = {("lego", 30_000): (35.78, (800, 800))}


def psnr(result: Result) -> float:
    return result.psnr


def ssim(result: Result) -> float:
    return result.ssim


def seconds(result: Result) -> float | None:
    """What it took: of the processor, or of the clock where a GPU did the work."""
    return result.cpu_seconds if result.device == "cpu" else result.wall_seconds


def all_runs(group: Group, numbers: Mapping[str, int]) -> Rows:
    """A row a cell of the grid: means over seeds, and the spread of single runs.

    Times are means on each machine by itself; `numbers` are what machines are called, by their names.
    """
    fits = any(result.options.get("--exposure") for result in group.results)
    fitted = ["PSNR fitted, dB"] if fits else []  # on the right halves of photos, colours fitted on the left ones
    several = len(group.machines) > 1
    clock = f"{_clock(group)} s" + (" (machine)" if several else "")
    header = ["budget", "method", "Gaussians", "PSNR, dB", "SSIM", *fitted, clock, "peak memory, GB"]
    rows = [[*header, "seeds"]]
    for (entrant, budget), runs in group.runs.items():
        memory = values(runs, lambda result: result.peak_memory_bytes)
        rows.append(
            [
                group.budget_text(budget),
                entrant,
                f"{figure([result.gaussians for result in runs.values()]).mean:,.0f}",
                figure([result.psnr for result in runs.values()]).spread_text(2),
                figure([result.ssim for result in runs.values()]).spread_text(4),
                *([_fitted(runs)] if fits else []),
                _seconds_text(runs, numbers if several else {}),
                f"{figure(list(memory.values())).mean / 1e9:.2f}" if memory else "-",
                str(len(runs)),
            ]
        )
    return rows


def _seconds_text(runs: BySeed, numbers: Mapping[str, int]) -> str:
    """The mean time on each machine, with its number where there are `numbers`."""
    by_machine: dict[str, list[float]] = {}
    for result in runs.values():
        if (time := seconds(result)) is not None:
            by_machine.setdefault(machine_name(result), []).append(time)
    means = {name: f"{figure(times).mean:,.0f}" for name, times in sorted(by_machine.items())}
    return ", ".join(f"{mean} ({numbers[name]})" if numbers else mean for name, mean in means.items()) or "-"


def beside_reference(groups: Sequence[Group], entrant: str) -> Rows:
    """3DGS, and how far `entrant` is above it at shares of its Gaussians, seed by seed."""
    gains = [f"{entrant} at {100 * share:g} %, dB" for share in SHARES]
    rows = [["scene", "iterations", "3DGS: Gaussians", "PSNR, dB", "SSIM", "published PSNR", *gains]]
    for group in groups:
        runs = group.of(REFERENCE, None)
        if not runs:
            continue
        cells = []
        for share in SHARES:
            gain = paired(
                values(group.of(entrant, group.share_budget(share)), psnr) if group.reference_count else {},
                values(runs, psnr),
            )
            cells.append(NOT_MEASURED if gain is None else f"{gain.error_text(2)} ({gain.n})")
        rows.append(
            [
                group.scene,
                f"{group.iterations:,}",
                f"{figure([result.gaussians for result in runs.values()]).mean:,.0f}",
                figure([result.psnr for result in runs.values()]).spread_text(2),
                figure([result.ssim for result in runs.values()]).spread_text(4),
                _published(group, runs),
                *cells,
            ]
        )
    return rows


def _published(group: Group, runs: BySeed) -> str:
    """The published figure of 3DGS, and of which photos, where these are not the same."""
    known = PUBLISHED_REFERENCE.get((group.scene, group.iterations))
    if known is None:
        return "-"
    decibels, (width, height) = known
    same = all(result.photo_size is not None and (*result.photo_size,) == (width, height) for result in runs.values())
    return f"{decibels:.2f}" if same else f"{decibels:.2f}, of {width}×{height} pixels"


def claim(groups: Sequence[Group], scenes: Sequence[str], entrants: Sequence[str]) -> Rows:
    """Whether `entrants` are CLAIM_GAIN above 3DGS at CLAIM_SHARE of its Gaussians; a row at least for each scene."""
    rows = [["scene", "iterations", "method", "Gaussians", "above 3DGS, dB", "95 % interval", "seeds", "verdict"]]
    for scene in scenes:
        found = []
        for group in groups:
            budget = group.share_budget(CLAIM_SHARE)
            for entrant in entrants if group.scene == scene and budget is not None else ():
                gain = paired(values(group.of(entrant, budget), psnr), values(group.of(REFERENCE, None), psnr))
                if gain is not None:
                    found.append([scene, f"{group.iterations:,}", entrant, f"{budget:,}", *_judged(gain)])
        rows += found or [[scene, "", "", "", "", "", "", NOT_MEASURED]]
    return rows


def _judged(gain: Figure) -> list[str]:
    interval = gain.interval
    if interval is None:
        side = "above" if gain.mean >= CLAIM_GAIN else "below"
        return [gain.error_text(2), "-", str(gain.n), f"{side}, in a single pair of runs"]
    low, high = interval
    verdict = "shown" if low >= CLAIM_GAIN else "refuted" if high < CLAIM_GAIN else "undecided"
    return [gain.error_text(2), f"{low:+.2f} to {high:+.2f}", str(gain.n), verdict]


def against_baseline(groups: Sequence[Group], baseline: str) -> Rows:
    """All others at the budgets that the baseline has too, seed by seed; then each variant's mean over scenes."""
    header = ["method", "scene", "iterations", "Gaussians", "PSNR, dB", "median photo, dB", "photos above", "SSIM"]
    rows, by_entrant = [[*header, "time", "seeds"]], dict[str, list[tuple[Figure, Figure, float | None, str]]]()
    for group in groups:
        for (entrant, budget), runs in group.runs.items():
            others = group.of(baseline, budget)
            gain = paired(values(runs, psnr), values(others, psnr))
            likeness = paired(values(runs, ssim), values(others, ssim))
            if entrant == baseline or gain is None or likeness is None:
                continue
            ratio = _time_ratio(runs, others)
            by_entrant.setdefault(entrant, []).append((gain, likeness, ratio, group.scene))
            rows.append(
                [
                    entrant,
                    group.scene,
                    f"{group.iterations:,}",
                    group.size_text(budget, runs),
                    gain.error_text(2),
                    *_photo_texts(runs, others),
                    likeness.error_text(4),
                    _times(ratio),
                    str(gain.n),
                ]
            )
    for entrant, cells in by_entrant.items():
        scenes = len({scene for *_, scene in cells})
        if scenes > 1:
            ratios = [ratio for _, _, ratio, _ in cells if ratio is not None]
            gain_mean = figure([gain.mean for gain, *_ in cells]).mean
            likeness_mean = figure([likeness.mean for _, likeness, *_ in cells]).mean
            rows.append(
                [
                    f"**{entrant}**",
                    f"mean of {scenes} scenes",
                    "",
                    "",
                    f"{gain_mean:+.2f}",
                    "",
                    "",
                    f"{likeness_mean:+.4f}",
                    _times(figure(ratios).mean if ratios else None),
                    "",
                ]
            )
    return [rows[0], *sorted(rows[1:], key=lambda row: (row[0].strip("*"), row[0].startswith("*")))]


def _photo_texts(first: BySeed, second: BySeed) -> list[str]:
    """Median of PSNR above `second` over all held-out photos and seeds, and on how many of them it is above.

    One photo that goes wrong by chance, of seven, moves their mean by more than what is compared.
    """
    gains = differences(_by_photo(first), _by_photo(second))
    if not gains:
        return ["-", "-"]
    above = sum(gain > 0 for gain in gains) / len(gains)
    return [f"{statistics.median(gains):+.2f}", f"{100 * above:.0f} %"]


def _by_photo(runs: BySeed) -> dict[tuple[int, str], float]:
    """PSNR in dB by seed and photo."""
    scores = ((seed, photo, value) for seed, run in runs.items() for photo, value in run.per_view["PSNR"].items())
    return {(seed, photo): value for seed, photo, value in scores if value is not None}


def published_scenes(groups: Sequence[Group], scenes: Sequence[SuiteScene], entrant: str) -> Rows:
    """The scenes of budget.txt beside the paper."""
    rows = [["scene", "Gaussians", "published PSNR of GNS, dB", "PSNR, dB", "SSIM", "iterations", "seeds"]]
    for scene in scenes:
        theirs = f"{published.PSNR[scene.name]:.2f}" if scene.name in published.PSNR else "-"
        ours = [
            (group, runs) for group in groups if group.scene == scene.name and (runs := group.of(entrant, scene.budget))
        ]
        start = [scene.name, f"{scene.budget:,}", theirs]
        for group, runs in ours:
            results = runs.values()
            rows.append(
                [
                    *start,
                    figure([result.psnr for result in results]).spread_text(2),
                    figure([result.ssim for result in results]).spread_text(4),
                    f"{group.iterations:,}",
                    str(len(runs)),
                ]
            )
        if not ours:
            rows.append([*start, NOT_MEASURED, "", "", ""])
    return rows


def command(groups: Sequence[Group], entrants: Sequence[str] | None = None) -> str:
    """The one call of benchmarks/quality.py that makes the runs of `groups`, or those of some of its entrants."""
    results = [
        result
        for group in groups
        for (entrant, _), runs in group.runs.items()
        if entrants is None or entrant in entrants
        for result in runs.values()
    ]
    budgets = sorted(
        {_asked_for(group, budget) for group in groups for budget in group.budgets},
        key=lambda asked: (asked.endswith("%"), float(asked.rstrip("%"))),
    )
    named = {result.entrant: result.entrant_options for result in results}
    methods = [name for name in METHODS if name in named]
    variants = [f"{name}={shlex.join(options)}" for name, options in named.items() if name not in METHODS]
    words = [
        *("python", "benchmarks/quality.py", "--scenes", *_distinct(result.scene for result in results)),
        *("--methods", *methods),
        *(("--variants", *variants) if variants else ()),
        *(("--budgets", *budgets) if budgets else ()),
        *("--iterations", *_distinct(str(result.iterations) for result in results)),
        *("--seeds", *map(str, sorted({result.seed for result in results}))),
    ]
    return shlex.join(words)


def published_command(scenes: Sequence[SuiteScene], entrant: str) -> str:
    """The call that measures the scenes of budget.txt."""
    names = [scene.name for scene in scenes]
    return shlex.join(
        [
            *("python", "benchmarks/quality.py", "--scenes", *names, "--methods", entrant),
            *("--budgets", PUBLISHED, "--iterations", "30000"),
        ]
    )


def _asked_for(group: Group, budget: int) -> str:
    text = group.budget_text(budget)
    return text.partition("(")[2].rstrip(" %)") + "%" if "(" in text else str(budget)


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _fitted(runs: BySeed) -> str:
    scores = values(runs, lambda result: result.scores.get("PSNR_fitted"))
    return figure(list(scores.values())).spread_text(2) if scores else "-"


def _clock(group: Group) -> str:
    return "processor" if group.device == "cpu" else "wall"


def _time_ratio(first: BySeed, second: BySeed) -> float | None:
    """How many times as long the first took, over the seeds of which one machine ran both; None where there is none.

    Both of the same commit: other code may be faster, and other work was under way when it ran.
    """
    pairs = [
        (ours, theirs)
        for seed in first.keys() & second.keys()
        if machine_name(first[seed]) == machine_name(second[seed])
        and first[seed].commits == second[seed].commits
        and (ours := seconds(first[seed])) is not None
        and (theirs := seconds(second[seed])) is not None
    ]
    return sum(ours for ours, _ in pairs) / sum(theirs for _, theirs in pairs) if pairs else None


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"× {ratio:.2f}"
