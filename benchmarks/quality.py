"""Measure quality at a budget: methods × scenes × budgets × iterations × seeds, one JSON file a run.

    python benchmarks/quality.py --data ../shared/data --scenes fox480 --budgets 15000 --iterations 3000 --seeds 0 1 2
    python benchmarks/quality.py ... --list                       what is planned, finished, under way; the time left
    python benchmarks/quality.py ... --methods gns --variants "best=--preset best" "lowest=--final-cut lowest"
    python benchmarks/quality_report.py                           docs/results.md from all that is finished

A budget is a number of Gaussians, `15%` of those that 3DGS grows to on that scene in as many iterations (its run with
seed 0, which is made if need be), or `published`, that of budget.txt. A method without a budget is trained once for all
budgets. A variant is a name and further options of train.py, which prevail: they may name a --method, or --iterations
of their own (and are set beside the others of the grid all the same).

Methods that differ only in who is taken out of the model that they grow (gns, both one-shots, learned-mask) are grown
once, where one grid has several of them: the others go on from there, to the bits of a run of their own.

What is finished is skipped, and the rest is made cheapest first. Ctrl-C and SIGTERM let the training under way save a
checkpoint, from which the next call goes on. Several calls may share a results folder, on the same grid or not: each
run is made by one of them. A run's model and checkpoints lie in runs/ of that folder; delete a JSON file and its folder
there to measure again. Times are those of train.py, from its start to its end, reading the scene and measuring held-out
photos on the way included.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.grid.estimates import Estimates, in_words
from benchmarks.grid.machine import ROOT, machine
from benchmarks.grid.measuring import Measurement, Stop, Stopped, stopped_at, under_way
from benchmarks.grid.plan import Grid, Plan, parse_budget, planned
from benchmarks.grid.results import Results
from benchmarks.grid.runs import Run, method_entrant, variant
from benchmarks.grid.scenes import located, photo_pixels, read_scenes
from benchmarks.grid.shared_growth import alike
from gns.cli import STOPPED
from gns.commands.test import BUDGETS
from gns.errors import UserError
from gns.gaussian_renderer.devices import pick_device
from gns.rules import METHODS
from gns.utils.folder_lock import FolderInUse, in_use
from gns.utils.quantities import parse_count
from gns.utils.tables import as_text

HERE = Path(__file__).resolve().parent
SCENES = ("fox480", "fox", "lego", "train490")
PAUSE = 5.0  # seconds between two looks at what another process is making


@dataclass(frozen=True)
class Task:
    """A grid, where its scenes lie, and where its results go."""

    grid: Grid
    folders: Mapping[str, Path]  # of the scenes, by name
    pixels: Mapping[str, int]  # of a photo
    results: Results

    def unfinished(self) -> tuple[list[Run], Plan, Estimates]:
        """The runs that are to be made, cheapest first; with the whole plan, and what it is estimated by."""
        plan = planned(self.grid, self.results)
        estimates = Estimates(self.results.all(), self.pixels)
        missing = [run for run in plan.runs if self.results.finished(run) is None]
        return sorted(missing, key=estimates.seconds), plan, estimates


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        device = pick_device(options.device)
        task = _task(options, device.type)
        if options.list:
            print_list(task)
            return 0
        flags = ("--device", options.device, "--threads", str(options.threads))
        return work_off(task, Measurement(task.results, machine(device, options.threads), flags, Stop()))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), help="by default all", metavar="METHOD")
    parser.add_argument("--variants", nargs="*", default=[], metavar="NAME=OPTIONS")
    parser.add_argument("--scenes", nargs="+", default=list(SCENES), metavar="SCENE", help=f"by default {SCENES}")
    parser.add_argument("--budgets", nargs="+", default=["5%", "10%", "15%", "30%"], metavar="SIZE")
    parser.add_argument("--iterations", nargs="+", type=parse_count, default=[7_000], metavar="N")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    data = [ROOT.parent / "shared" / "data", ROOT / "data", ROOT]
    parser.add_argument("--data", nargs="+", type=Path, default=data, metavar="FOLDER", help="where scenes lie")
    parser.add_argument("--scene-table", type=Path, default=HERE / "scenes.txt", metavar="FILE")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "quality", metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="of each training; 0: all cores")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:NUMBER")
    parser.add_argument("--list", action="store_true", help="say what is planned and finished, and the time left")
    return parser


def _task(options: argparse.Namespace, device: str) -> Task:
    """What the command line asks for. Raises UserError."""
    known = read_scenes(options.scene_table, BUDGETS)
    if unknown := [name for name in options.scenes if name not in known]:
        raise UserError(f"{unknown[0]} is in no table of scenes: choose from {', '.join(known)}, or add a line")
    roots = [root.resolve() for root in options.data]
    found = {name: folder for name in options.scenes if (folder := located(known[name], roots))}
    for name in options.scenes:
        if name not in found:
            print(f"{name} is left out: no folder {known[name].folder} under {', '.join(map(str, options.data))}")
    entrants = [*map(method_entrant, options.methods), *map(variant, options.variants)]
    grid = Grid(
        scenes=[known[name] for name in found],
        entrants=list(dict.fromkeys(entrants)),
        budgets=list(dict.fromkeys(map(parse_budget, options.budgets))),
        iterations=options.iterations,
        seeds=options.seeds,
        device=device,
    )
    results = Results(options.results.resolve())
    plan = planned(grid, results)
    pixels = {run.scene.name: photo_pixels(found[run.scene.name], run.config()) for run in plan.runs}
    return Task(grid, found, pixels, results)


def work_off(task: Task, measurement: Measurement) -> int:
    """Make all runs that can be made, and return the exit status: 1 where one failed, `STOPPED` after a Ctrl-C."""
    failed: set[Run] = set()
    elsewhere: set[Run] = set()
    while True:
        unfinished, plan, estimates = task.unfinished()
        open_runs = [run for run in unfinished if run not in failed]
        run = next((run for run in open_runs if run not in elsewhere), None)
        if run is None:
            let_go = {run for run in open_runs if not _made_elsewhere(task, run)}
            if not let_go and not (plan.waiting and open_runs):
                break
            time.sleep(PAUSE)  # where nobody let go, another process trains the 3DGS that further runs are measured by
            if measurement.stop.asked:
                return STOPPED
            elsewhere -= let_go  # stopped before their end: they are ours now
            continue
        left = sum(map(estimates.seconds, open_runs))
        counted = f"{len(plan.runs) - len(unfinished) + 1} of {len(plan.runs)}"
        later = f", {plan.waiting} more once 3DGS has grown" if plan.waiting else ""
        print(f"[{counted}{later}; about {in_words(left)} left] {run.label}", flush=True)
        following = [other for other in alike(run) if other in open_runs]
        try:
            measurement.carry_out(run, task.folders[run.scene.name], following)
        except FolderInUse:
            print("  another process is at it", flush=True)
            elsewhere.add(run)
        except UserError as error:
            print(f"  error: {error}", file=sys.stderr, flush=True)
            failed.add(run)
        except Stopped:
            print("stopped: the same command goes on from here")
            return STOPPED
        else:
            if result := task.results.finished(run):
                print(f"  {result.psnr:.3f} dB, SSIM {result.ssim:.4f}, {result.gaussians:,} Gaussians", flush=True)
        if not any(task.results.finished(other) is None for other in following if other not in failed):
            task.results.growth(run).forget()
    return int(bool(failed))


def _made_elsewhere(task: Task, run: Run) -> bool:
    """Whether another process is at a run, or at what it has in common with others."""
    return under_way(task.results.work_folder(run)) or in_use(task.results.growth(run).path)


def print_list(task: Task) -> None:
    """A line a run, finished ones first, and the time that the others will take."""
    unfinished, plan, estimates = task.unfinished()
    rows = [["run", "PSNR", "SSIM", "Gaussians", "processor s", "state"]]
    for run in plan.runs:
        if (result := task.results.finished(run)) is not None:
            seconds = "-" if result.cpu_seconds is None else f"{result.cpu_seconds:.0f}"
            rows.append([run.label, f"{result.psnr:.3f}", f"{result.ssim:.4f}", f"{result.gaussians:,}", seconds, ""])
    for run in unfinished:
        rows.append([run.label, "", "", "", "", f"{_state(task, run)}about {in_words(estimates.seconds(run))}"])
    print(as_text(rows), end="")
    left = in_words(sum(map(estimates.seconds, unfinished)))
    print(f"{len(plan.runs) - len(unfinished)} of {len(plan.runs)} are finished; about {left} left on an idle machine")
    if plan.waiting:
        print(f"{plan.waiting} more wait for the number of Gaussians that 3DGS grows to")


def _state(task: Task, run: Run) -> str:
    work = task.results.work_folder(run)
    reached = stopped_at(work, run)
    from_there = f"from iteration {reached:,}, of a whole " if reached else ""
    return f"under way, {from_there}" if under_way(work) else from_there


if __name__ == "__main__":
    raise SystemExit(main())
