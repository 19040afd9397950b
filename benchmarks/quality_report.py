"""Write docs/results.md, its plots and its picture from what benchmarks/quality.py has measured.

    python benchmarks/quality_report.py
    python benchmarks/quality_report.py --crops fox480            a local picture of that scene, in output/crops/

The picture in docs/ is of the demo scene, which is ours; photos of other scenes are not committed, nor crops of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.grid import tables
from benchmarks.grid.groups import Group, grouped, machine_name
from benchmarks.grid.machine import ROOT
from benchmarks.grid.pictures import write_crops
from benchmarks.grid.plan import REFERENCE
from benchmarks.grid.plots import draw_over_budget, draw_over_time
from benchmarks.grid.results import Result, Results
from gns import __version__
from gns.commands.test import BUDGETS, SuiteScene, read_budgets
from gns.errors import UserError
from gns.rules import DEFAULT_METHOD, METHODS
from gns.utils.atomic_files import write_text
from gns.utils.tables import Rows, as_markdown

SCENES = ("fox480", "fox", "lego", "train490", "demo")
CLAIMED_FOR = ("fox480", "lego", "train490")
OURS = "demo"  # the scene whose pictures may be in the repository
REPORT = "python benchmarks/quality_report.py"


@dataclass(frozen=True)
class Report:
    """All that the page is made of."""

    results: Results
    groups: Sequence[Group]
    left_out: int  # results of other versions of gns
    suite: Sequence[SuiteScene]  # of budget.txt
    baseline: str

    @classmethod
    def read(cls, results: Results, baseline: str) -> Report:
        """From the results of this version of gns in the folder of `results`."""
        found = results.all()
        current = [result for result in found if result.version == __version__]
        suite = read_budgets(BUDGETS)
        return cls(results, grouped(current), len(found) - len(current), suite, baseline)

    @property
    def all_results(self) -> list[Result]:
        return [result for group in self.groups for result in group.results]

    @property
    def machine_numbers(self) -> dict[str, int]:
        """What machines are called on the page, by their names."""
        names = dict.fromkeys(machine for group in self.groups for machine in group.machines)
        return {name: number for number, name in enumerate(sorted(names), start=1)}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--results", type=Path, default=here / "results" / "quality", metavar="FOLDER")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", metavar="FOLDER", help="where results.md goes")
    parser.add_argument("--baseline", default=DEFAULT_METHOD, help="the method or variant that others are set against")
    parser.add_argument("--no-plots", action="store_true", help="tables alone")
    parser.add_argument("--crops", metavar="SCENE", help="only draw crops of this scene, for this computer alone")
    parser.add_argument("--crops-folder", type=Path, default=ROOT / "output" / "crops", metavar="FOLDER")
    options = parser.parse_args(arguments)
    report = Report.read(Results(options.results.resolve()), options.baseline)
    try:
        if options.crops:
            return _local_crops(report, options.crops, options.crops_folder)
        write_report(report, options.docs, plots=not options.no_plots)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(report.all_results)} runs in {options.docs / 'results.md'}")
    return 0


def write_report(report: Report, docs: Path, *, plots: bool) -> None:
    """Write results.md to `docs`, and its plots and picture to results/ in there. Raises UserError."""
    pictures = docs / "results"
    if plots:
        for old in [*pictures.glob("*.svg"), *pictures.glob("*.png")]:
            old.unlink()  # it is generated, and may be of runs that are gone
    parts = [
        _head(report),
        _machines(report),
        _claim(report),
        _reference(report),
        _variants(report),
        *(_scene(report, scene, pictures, plots=plots) for scene in _scenes(report)),
        _suite(report),
        _crops(report, pictures, plots=plots),
    ]
    write_text(docs / "results.md", "\n".join(parts))


def _scenes(report: Report) -> list[str]:
    """Those that should be measured, and all others that are; without budget.txt's, which have a table of their own."""
    suite = {scene.name for scene in report.suite}
    measured = [group.scene for group in report.groups if group.scene not in suite]
    return list(dict.fromkeys([*SCENES, *measured]))


def _head(report: Report) -> str:
    other = f" {report.left_out} results of other versions are left out." if report.left_out else ""
    return f"""# Results

Generated by `{REPORT}` from `benchmarks/results/quality/`; do not edit. {len(report.all_results)} runs of gns \
{__version__}.{other}

`benchmarks/quality.py` trains, renders the held-out photos and scores them as `metrics.py` does. Means are over seeds;
behind their ± stands the standard deviation of single runs. Differences are taken seed by seed; behind their ± stands
the standard error of the mean. Scores of all machines count alike; times are compared on one machine and at one commit
only. Seconds are those of all cores together, from the start of train.py to its end, with reading the scene and six
looks at the held-out photos, and longer where other work shares the machine. Percentages are of the Gaussians that 3DGS
grew to on that scene in as many iterations, with seed 0. Courses over time dip where the look of an earlier run fell on
a reset of opacities (a tenth and a fifth of the run) or a cut (half of it). Methods that differ only in who is taken
out of the model that they grow may have been grown once, to the same bits; the time of the growth counts for each.

`{report.baseline}` is the baseline. The commands need `--data` with the folder of the scenes.
"""


def _section(title: str, body: str, command: str = "") -> str:
    how = f"\n```bash\n{command}\n```\n" if command else ""
    return f"## {title}\n\n{body}{how}"


def _table(rows: Rows) -> str:
    return as_markdown(rows) if len(rows) > 1 else f"{tables.NOT_MEASURED.capitalize()}.\n"


def _machines(report: Report) -> str:
    rows = [["", "processor or GPU", "threads", "torch", "runs", "commits (+: changed files)"]]
    for name, index in report.machine_numbers.items():
        of_it = [result for result in report.all_results if machine_name(result) == name]
        rows.append(
            [
                f"machine {index}",
                name,
                _listed(str(result.machine["threads"]) for result in of_it),
                _listed(str(result.machine["torch"]) for result in of_it),
                str(len(of_it)),
                _listed(commit for result in of_it for commit in result.commits),
            ]
        )
    return _section("Machines", _table(rows))


def _claim(report: Report) -> str:
    text = (
        f"The paper: at {100 * tables.CLAIM_SHARE:g} % of the Gaussians that 3DGS grows to, at least "
        f"{tables.CLAIM_GAIN} dB above it. *Shown* and *refuted* where the 95 % interval of the mean difference "
        "(Student's t) lies on one side of that, *undecided* where it does not.\n\n"
    )
    variants = [label for label in _entrants(report) if label not in METHODS]
    rows = tables.claim(report.groups, CLAIMED_FOR, list(dict.fromkeys([report.baseline, *variants])))
    command = (
        f"python benchmarks/quality.py --scenes {' '.join(CLAIMED_FOR)} --methods {DEFAULT_METHOD} {REFERENCE} "
        f"--budgets {100 * tables.CLAIM_SHARE:g}%"
    )
    return _section("The paper's claim", text + _table(rows), command)


def _reference(report: Report) -> str:
    rows = tables.beside_reference(report.groups, report.baseline)
    with_it = [group for group in report.groups if group.of(REFERENCE, None)]
    command = tables.command(with_it, [report.baseline, REFERENCE]) if with_it else ""
    return _section("Beside 3DGS", _table(rows), command)


def _variants(report: Report) -> str:
    rows = tables.against_baseline(report.groups, report.baseline)
    compared = [group for group in report.groups if len(group.entrants) > 1]
    text = (
        f"Differences to `{report.baseline}` at equal budget, iterations and seeds; time as a multiple of its own. The "
        "median is over all held-out photos and seeds, and behind it stands on which share of them the method is above "
        "the baseline: where few photos are held out, one that goes wrong by chance moves their mean by some tenths of "
        "a decibel.\n\n"
    )
    command = tables.command(compared) if len(rows) > 1 else ""
    return _section("Against the baseline", text + _table(rows), command)


def _scene(report: Report, scene: str, pictures: Path, *, plots: bool) -> str:
    groups = [group for group in report.groups if group.scene == scene]
    if not groups:
        return _section(scene, _table([[]]))
    parts = []
    for group in groups:
        drawn = _plots(group, pictures, report.machine_numbers) if plots else ""
        table = _table(tables.all_runs(group, report.machine_numbers))
        parts.append(_section(group.title, table + drawn, tables.command([group])))
    return "\n".join(parts)


def _plots(group: Group, pictures: Path, numbers: Mapping[str, int]) -> str:
    """Draw the plots of a group, and the lines of Markdown that show them."""
    stem = f"{group.scene}-{group.iterations}" + ("" if group.device == "cpu" else f"-{group.device}")
    lines = []
    if len(group.runs) > 1:
        draw_over_budget(group, pictures / f"{stem}-budget.svg")
        lines.append(f"![PSNR and SSIM over the number of Gaussians](results/{stem}-budget.svg)")
    for machine in group.machines:
        name = f"{stem}-time-{numbers[machine]}.svg"
        if (budget := draw_over_time(group, machine, pictures / name)) is not None:
            lines.append(f"![PSNR over time, at {budget:,} Gaussians, machine {numbers[machine]}](results/{name})")
    return "".join(f"\n{line}\n" for line in lines)


def _suite(report: Report) -> str:
    rows = tables.published_scenes(report.groups, report.suite, report.baseline)
    command = tables.published_command(report.suite, DEFAULT_METHOD)
    return _section("The scenes of budget.txt", _table(rows), command)


def _crops(report: Report, pictures: Path, *, plots: bool) -> str:
    group, budget = _crops_of(report, OURS)
    shown: list[str] = []
    if plots and group is not None and budget is not None:
        shown = write_crops(report.results, group, budget, _by_interest(report, group), pictures / f"{OURS}.png")
    if not shown or group is None:
        return _section("Side by side", _table([[]]))
    text = (
        f"The demo scene, {budget:,} Gaussians, {group.iterations:,} iterations. Each crop lies where the errors of "
        f"the models differ most.\n\n![The same crops as drawn by {', '.join(shown)}](results/{OURS}.png)\n\n"
        f"Of any other scene, on your computer: `{REPORT} --crops SCENE`.\n"
    )
    return _section("Side by side", text, tables.command([group]))


def _local_crops(report: Report, scene: str, folder: Path) -> int:
    """Draw crops of a scene that are not part of the report."""
    group, budget = _crops_of(report, scene)
    path = folder / f"{scene}.png"
    if (
        group is None
        or budget is None
        or not write_crops(report.results, group, budget, _by_interest(report, group), path)
    ):
        raise UserError(f"no two models of {scene} at one budget are kept in {report.results.path / 'runs'}")
    print(path)
    return 0


def _crops_of(report: Report, scene: str) -> tuple[Group | None, int | None]:
    """The longest training of a scene, and the budget at which most have competed; the smallest of several."""
    groups = [group for group in report.groups if group.scene == scene and group.budgets]
    if not groups:
        return None, None
    group = max(groups, key=lambda each: each.iterations)
    return group, max(group.budgets, key=lambda budget: sum(size == budget for _, size in group.runs))


def _by_interest(report: Report, group: Group) -> list[str]:
    """The baseline first, then all others."""
    return list(dict.fromkeys([report.baseline, *group.entrants]))


def _entrants(report: Report) -> list[str]:
    return list(dict.fromkeys(entrant for group in report.groups for entrant in group.entrants))


def _listed(words: Iterable[str]) -> str:
    """Each word once."""
    return ", ".join(dict.fromkeys(words))


if __name__ == "__main__":
    raise SystemExit(main())
