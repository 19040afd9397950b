"""One run: train, render and score, each in a process of its own, and write down what came out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.grid.machine import ROOT, commit
from benchmarks.grid.results import Results
from benchmarks.grid.runs import Run
from benchmarks.grid.shared_growth import last_common_iteration
from gns import __version__
from gns.arguments import decisive_options, read_config
from gns.errors import UserError
from gns.run_folder import RunFolder
from gns.utils.atomic_files import write_text
from gns.utils.folder_lock import in_use, locked
from gns.utils.ply_file import count_rows

# When held-out photos are measured besides the end, in shares of the iterations. Not at a tenth, a fifth or half: there
# opacities are reset, or a model is cut, and it is a bad one for a moment.
ON_THE_WAY = (0.09, 0.19, 0.35, 0.49, 0.75)
_GROWTH = "growth.json"  # in the folder of a run
_START = "--start-checkpoint"
_KIBI = 1 if sys.platform == "darwin" else 1024  # the unit of the peak memory that the system tells
_LAST_LINES = 3  # of a failed program's output


class Stopped(Exception):
    """Somebody asked for the end, and the run under way has saved where it is."""


class Stop:
    """Ctrl-C and SIGTERM: the program under way is asked to stop, and nothing further is begun.

    The program is in a session of its own, so that a Ctrl-C reaches it once, from here: of two, train.py would heed the
    second at once, without a checkpoint.
    """

    def __init__(self) -> None:
        self.asked = False
        self._child: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._child is not None:
            os.kill(self._child, signal.SIGTERM)

    def run(self, command: Sequence[str], output: Path) -> Spent:
        """Run a program to its end, its words appended to `output`. Raises UserError where it failed, Stopped."""
        if self.asked:
            raise Stopped
        start = time.monotonic()
        with output.open("a", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self._child = process.pid
            if self.asked:  # just now, before there was somebody to tell
                os.kill(process.pid, signal.SIGTERM)
            _, status, usage = os.wait4(process.pid, 0)
            self._child = None
            process.returncode = os.waitstatus_to_exitcode(status)
        spent = Spent(
            process.returncode,
            round(time.monotonic() - start, 2),
            round(usage.ru_utime + usage.ru_stime, 2),
            usage.ru_maxrss * _KIBI,
        )
        if spent.status != 0 and not self.asked:
            last = " ".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:])
            raise UserError(f"{Path(command[1]).name} ended with status {spent.status}: {last} (all of it: {output})")
        return spent


@dataclass(frozen=True)
class Spent:
    """How a program ended, and what it took."""

    status: int
    wall_seconds: float
    cpu_seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class Measurement:
    """What all runs of one call share."""

    results: Results
    machine: dict[str, Any]
    options: Sequence[str]  # of all programs: --device and --threads
    stop: Stop

    def carry_out(self, run: Run, source: Path, following: Sequence[Run] = ()) -> None:
        """Bring `run` on the scene in `source` to its result, from where it was stopped if it was.

        `following` are runs to be made later that grow as it does: what they have in common is trained once
        (`shared_growth`). Raises FolderInUse where another process is at it, or at that growth, UserError where a
        program failed, and Stopped.
        """
        work = self.results.work_folder(run)
        with locked(work):
            if self.results.finished(run):  # by another process, since the plan was made
                return
            with locked(work / "model"):  # of a training that outlived the process which began it
                pass
            _forget_other_options(work, run)
            self._train_or_go_on(run, source, work, following)
            figures = self._scores(run, work)
            self.results.write(run, figures)
            for path in (work / "model" / "checkpoints", work / "model" / "test"):
                shutil.rmtree(path, ignore_errors=True)

    def _train_or_go_on(self, run: Run, source: Path, work: Path, following: Sequence[Run]) -> None:
        """Train `run`: from what another has grown, or leaving what it grows to those that follow."""
        growth, made_by = self.results.growth(run), {**commit(), "machine": self.machine}
        model = RunFolder(work / "model", run.config())
        if model.checkpoint_iterations() or model.saved_iterations():
            self._train(run, source, work)
        elif grown := growth.told(made_by):
            write_text(work / _GROWTH, json.dumps(grown) + "\n")
            _write_sessions(work, [grown["session"]])
            self._train(run, source, work, _START, str(growth.checkpoint))
        elif not following or not (common := last_common_iteration(run)):
            self._train(run, source, work)
        else:
            with locked(growth.path):
                self._train(run, source, work, "--checkpoint-iterations", str(common))
                if len(sessions := _sessions(work)) == 1:
                    session = {**sessions[0], "peak_memory_bytes": None, "grown_by": run.entrant.name}
                    growth.keep(model.checkpoint_path(common), common, model.read_log(), session, made_by)

    def _train(self, run: Run, source: Path, work: Path, *further: str) -> None:
        model = RunFolder(work / "model", run.config())
        length = run.config().iterations
        if length in model.saved_iterations():
            return
        moments = sorted({max(1, round(share * length)) for share in ON_THE_WAY})
        command = [
            *(sys.executable, str(ROOT / "train.py"), "-s", str(source), "-m", str(model.path), *run.options),
            *("--test-iterations", *map(str, moments), *self.options, "--quiet", "--resume", *further),
        ]
        sessions = _sessions(work)
        sessions.append({**commit(), "wall_seconds": None, "cpu_seconds": None, "peak_memory_bytes": None})
        _write_sessions(work, sessions)  # a session without times is one that was killed
        busy = os.getloadavg()[0]
        spent = self.stop.run(command, work / "output.txt")
        sessions[-1] |= {
            "wall_seconds": spent.wall_seconds,
            "cpu_seconds": spent.cpu_seconds,
            "peak_memory_bytes": spent.peak_memory_bytes,
            "load_before": round(busy, 2),  # processes that wanted a core, in the minute before
            "load_after": round(os.getloadavg()[0], 2),
        }
        _write_sessions(work, sessions)
        if spent.status != 0:
            raise Stopped

    def _scores(self, run: Run, work: Path) -> dict[str, Any]:
        """Render and score the held-out photos, and gather all figures of a trained run."""
        model = RunFolder(work / "model", run.config())
        length = run.config().iterations
        here = ("-m", str(model.path), *self.options, "--quiet")
        rendering = ("render.py", *here, "--skip-train", "--iteration", str(length))
        scoring = ("metrics.py", *here, "--fit-exposure")  # besides: others need it beside a run with --exposure
        for command in (rendering, scoring):
            spent = self.stop.run([sys.executable, str(ROOT / command[0]), *command[1:]], work / "output.txt")
            if spent.status != 0:
                raise Stopped
        means = json.loads(model.results_path.read_text(encoding="utf-8"))[f"ours_{length}"]
        sessions = _sessions(work)
        return {
            "version": __version__,
            "machine": self.machine,
            "sessions": sessions,
            "photo_size": _photo_size(model),
            "gaussians": count_rows(model.model_path(length)),
            "scores": {name: value for name, value in means.items() if not isinstance(value, str)},
            "per_view": json.loads(model.per_view_path.read_text(encoding="utf-8"))[f"ours_{length}"],
            "moments": moments_of([*_grown(work).get("log", ()), *model.read_log()]),
            "wall_seconds": total(sessions, "wall_seconds"),
            "cpu_seconds": total(sessions, "cpu_seconds"),
            "peak_memory_bytes": max((session["peak_memory_bytes"] or 0 for session in sessions), default=0) or None,
            "finished_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }


def _photo_size(model: RunFolder) -> list[int]:
    """Width and height of the first held-out photo, as it was trained on."""
    first, *_ = json.loads((model.path / "cameras.json").read_text(encoding="utf-8"))
    return [first["width"], first["height"]]


def moments_of(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The held-out scores in a run's log, by iteration. Its clocks start again at every resume, and here they go on."""
    moments: dict[int, dict[str, Any]] = {}
    before = {"seconds": 0.0, "processor_seconds": 0.0}
    now = dict(before)
    for record in records:
        if "seconds" not in record:  # a single loss
            continue
        if record["seconds"] < now["seconds"]:
            before = {name: before[name] + now[name] for name in before}
        now = {name: record[name] for name in before}
        if "held_out_psnr" in record:
            moments[record["iteration"]] = {
                "iteration": record["iteration"],
                "psnr": round(record["held_out_psnr"], 4),
                "wall_seconds": round(before["seconds"] + now["seconds"], 2),
                "cpu_seconds": round(before["processor_seconds"] + now["processor_seconds"], 2),
            }
    return [moments[iteration] for iteration in sorted(moments)]


def stopped_at(work: Path, run: Run) -> int | None:
    """The iteration that a run which was begun will go on from; None where it was not begun, or has no checkpoint."""
    return max(RunFolder(work / "model", run.config()).checkpoint_iterations(), default=None)


def under_way(work: Path) -> bool:
    """Whether a process is at work on a run, or a training that outlived the one which began it."""
    return in_use(work) or in_use(work / "model")


def _forget_other_options(work: Path, run: Run) -> None:
    """Remove what was begun when an option had another default."""
    config = work / "model" / "config.json"
    if not config.exists():
        return
    try:
        begun = decisive_options(read_config(config))
    except UserError:
        begun = {}
    if _grown(work):
        begun[_START] = None  # from where what it would have grown itself lay
    if begun != run.decisive():
        shutil.rmtree(work / "model")
        for name in ("sessions.json", _GROWTH):
            (work / name).unlink(missing_ok=True)


def _grown(work: Path) -> dict[str, Any]:
    """What `shared_growth` told of the growth that a run began with; {} where it grew by itself."""
    try:
        grown: dict[str, Any] = json.loads((work / _GROWTH).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return grown


def _sessions(work: Path) -> list[dict[str, Any]]:
    try:
        sessions: list[dict[str, Any]] = json.loads((work / "sessions.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    return sessions


def _write_sessions(work: Path, sessions: Sequence[dict[str, Any]]) -> None:
    write_text(work / "sessions.json", json.dumps(sessions, indent=1) + "\n")


def total(sessions: Sequence[dict[str, Any]], name: str) -> float | None:
    """The sum over sessions; None where one of them was killed and does not tell."""
    values = [session[name] for session in sessions]
    return None if None in values else round(sum(values), 2)
