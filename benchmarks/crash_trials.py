"""Kill runs at random moments, take disk, descriptors or clock from them, and look whether anything is lost.

    python -m benchmarks.crash_trials --kills 50 --seed 0
    python -m benchmarks.crash_trials --kills 0 --others 20 --only read-only clock

A trial trains a small scene, renders and scores it, is ended somewhere on the way, and is started again as a supervisor
would: `train --resume`, `render`, `metrics`. It passes if no file was ever half there, the second attempt succeeds, and
all that it leaves (models, checkpoints, log, pictures, scores) is equal to the last bit to what one run leaves that
was never disturbed, with no temporary file or lock beside it. The exit status is 1 where a trial fails.

A full disk and a read-only one are played on a tmpfs of the trial's own, which takes the right to mount; without it,
files that may not grow stand in for the former and the latter is left out, with a line that says so. SIGTERM, SIGHUP
and Ctrl-C end the trials, and nothing stays mounted.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gns.testing.crashes import (
    KINDS,
    Ending,
    Kill,
    Preparation,
    differences,
    end_tidily,
    few_descriptors,
    leftovers,
    mad_clocks,
    partial_files,
    run_commands,
    shift_file_times,
    signals_held_back,
    single_threaded,
    small_files,
)
from gns.testing.scene_files import small_scene, write_colmap

ITERATIONS = 300  # the whole schedule: growth, densification, selection, the final cut
_MEGABYTE = 1 << 20
LACKS = ("full", "read-only", "growth", "descriptors", "clock")  # what else may befall a run


@dataclass
class Trials:
    """Where trials take place, what an undisturbed run leaves, and how trials ended."""

    work: Path
    scene: Path
    reference: Path
    undisturbed: Ending
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def judge(self, name: str, what: str, complaints: Sequence[str]) -> None:
        """Count a trial of the kind `name`; it failed where there are complaints."""
        self.counts[name] += 1
        print(f"{name}, {what}: {'FAILED' if complaints else 'nothing lost'}", flush=True)
        if complaints:
            self.failures.append(f"{name}, {what}: {'; '.join(complaints)}")
            print(self.failures[-1], flush=True)


def commands(scene: Path, model: Path, iterations: int = ITERATIONS) -> list[list[str]]:
    """What a supervisor starts, the first time and every other."""
    thirds, fifths = ([str(part * iterations // of) for part in range(1, of)] for of in (3, 5))
    train = ["train", "-s", str(scene), "-m", str(model), "--final-budget", "150", "--threads", "1", "--quiet"]
    train += ["--iterations", str(iterations), "--sh-degree", "1", "--resume", "--test-iterations", thirds[0]]
    train += ["--save-iterations", *thirds, "--checkpoint-iterations", *fifths]
    return [train, ["render", "-m", str(model), "--quiet"], ["metrics", "-m", str(model), "--quiet"]]


def kill_at_random(trials: Trials, count: int, generator: np.random.Generator) -> None:
    """As many deaths of each kind as `count` allows, at random ones of the undisturbed run's points."""
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        if kind == "clock":
            kill = Kill(kind, seconds=float(generator.uniform(0, trials.undisturbed.seconds)))
        else:
            kill = Kill(kind, int(generator.integers(1, trials.undisturbed.points[kind] + 1)))
        folder = trials.work / "killed"
        told = [run_commands(commands(trials.scene, folder), kill)]
        complaints = partial_files(folder) if folder.exists() else []
        # A second death on the way back, every third time: recovery must be able to fail as well.
        if number % 3 == 2:
            told.append(run_commands(commands(trials.scene, folder), Kill("after a rename", 3)))
            complaints += partial_files(folder)
        complaints += _recovered(trials, folder)
        trials.judge(f"killed: {kind}", " and ".join(map(str, [kill] * len(told))), complaints)
        shutil.rmtree(folder, ignore_errors=True)


def lack_of(trials: Trials, name: str, conditions: Sequence[tuple[str, Preparation]]) -> None:
    """A run under each condition, then one without."""
    for what, condition in conditions:
        folder = trials.work / "lacking"
        ending = run_commands(commands(trials.scene, folder), prepare=[condition])
        complaints = [] if ending.explained else [f"ended with {ending.said[-1500:]}"]
        complaints += partial_files(folder) if folder.exists() else []
        complaints += _recovered(trials, folder)
        trials.counts[f"{name}: ended early"] += ending.status != 0
        trials.judge(name, what, complaints)
        shutil.rmtree(folder, ignore_errors=True)


def jumping_clock(trials: Trials, count: int, generator: np.random.Generator) -> None:
    """Clocks that jump all the time, a death, and file times at random before going on."""
    for number in range(count):
        folder = trials.work / "clock"
        kill = Kill("after a rename", int(generator.integers(1, trials.undisturbed.points["after a rename"] + 1)))
        run_commands(commands(trials.scene, folder), kill, [mad_clocks(number)])
        shift_file_times(folder, number)
        trials.judge("jumping clock", str(kill), _recovered(trials, folder, [mad_clocks(number + 1)]))
        shutil.rmtree(folder, ignore_errors=True)


def full_disk(trials: Trials, sizes: Sequence[int]) -> None:
    """Disks of so many bytes, which are enlarged after the run has ended."""
    for size in sizes:
        with _disk(trials.work / "disk", size) as disk:
            folder = disk / "model"
            ending = run_commands(commands(trials.scene, folder))
            complaints = [] if ending.explained else [f"ended with {ending.said[-1500:]}"]
            complaints += partial_files(folder) if folder.exists() else []
            _mount("-o", f"remount,size={64 * _MEGABYTE}", str(disk))
            trials.counts["full disk: ended early"] += ending.status != 0
            trials.judge("full disk", f"{size} bytes", complaints + _recovered(trials, folder))


def read_only_disk(trials: Trials, count: int, generator: np.random.Generator) -> None:
    """A disk that is read-only before the run, or from a random moment of it; then writable again."""
    for number in range(count):
        with _disk(trials.work / "disk", 64 * _MEGABYTE) as disk:
            folder, complaints = disk / "model", []
            if number:
                kill = Kill("before a rename", int(generator.integers(1, trials.undisturbed.points["before a rename"])))
                run_commands(commands(trials.scene, folder), kill)
            _mount("-o", "remount,ro", str(disk))
            ending = run_commands(commands(trials.scene, folder))
            if ending.status == 0 or not ending.explained:
                complaints.append(f"ended with {ending.said[-1500:]}")
            _mount("-o", "remount,rw", str(disk))
            trials.judge("read-only disk", f"trial {number}", complaints + _recovered(trials, folder))


def _recovered(trials: Trials, folder: Path, prepare: Sequence[Preparation] = ()) -> list[str]:
    """What is wrong after the commands were given once more."""
    ending = run_commands(commands(trials.scene, folder), prepare=prepare)
    if ending.status != 0:
        return [f"could not go on: {ending.said[-1500:]}"]
    complaints = [f"{name} was left" for name in leftovers(folder)]
    complaints += [f"{name} differs" for name in differences(folder, trials.reference)]
    if complaints:  # kept, to be looked at
        kept = Path("build/crash-trials") / str(len(trials.failures))
        for name, of in (("failed", folder), ("reference", trials.reference)):
            shutil.copytree(of, kept / name, dirs_exist_ok=True)
    return complaints


@contextmanager
def _disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of its own with so many bytes. Raises CalledProcessError where mounting is not allowed."""
    with signals_held_back() as let_through:  # neither mounting nor unmounting is left half-way
        place.mkdir()
        try:
            _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
            try:
                with let_through():
                    yield place
            finally:
                subprocess.run(["umount", str(place)], check=True)
        finally:
            place.rmdir()


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def may_mount(work: Path) -> bool:
    """Whether this process may have a file system of its own."""
    try:
        with _disk(work / "probe", _MEGABYTE):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def main() -> int:
    """Run all trials; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="trials that are killed")
    parser.add_argument("--others", type=int, default=12, help="trials of every other kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=LACKS, default=LACKS, help="of those other kinds")
    options = parser.parse_args()
    end_tidily()  # no file system stays mounted
    single_threaded()
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        scene = write_colmap(work / "scene", small_scene(count=9, points=200))
        undisturbed = run_commands(commands(scene, work / "reference"), count=True)
        if undisturbed.status or leftovers(work / "reference"):
            print(f"the undisturbed run failed: {undisturbed.said}", file=sys.stderr)
            return 1
        trials = Trials(work, scene, work / "reference", undisturbed)
        used = sum(path.stat().st_size for path in trials.reference.rglob("*") if path.is_file())
        largest = max(path.stat().st_size for path in trials.reference.rglob("*") if path.is_file())
        print(f"an undisturbed run takes {undisturbed.seconds:.1f} s and passes {undisturbed.points}", flush=True)

        kill_at_random(trials, options.kills, generator)
        if may_mount(work):
            if "full" in options.only:
                full_disk(trials, [int(size) for size in np.linspace(4096, used, options.others)])
            if "read-only" in options.only:
                read_only_disk(trials, options.others, generator)
        elif {"full", "read-only"} & set(options.only):
            print("no right to mount: no full and no read-only disk, but files that may not grow")
        if "growth" in options.only:
            limits = [int(size) for size in np.geomspace(64, 1.05 * largest, options.others)]
            lack_of(trials, "files that may not grow", [(f"{size} bytes", small_files(size)) for size in limits])
        if "descriptors" in options.only:
            few = [(f"{count} descriptors", few_descriptors(count)) for count in range(3, 3 + options.others)]
            lack_of(trials, "few descriptors", few)
        if "clock" in options.only:
            jumping_clock(trials, options.others, generator)

    for kind, count in sorted(trials.counts.items()):
        print(f"{kind:40} {count:4}")
    print(f"{len(trials.failures)} trials failed")
    return 1 if trials.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
