"""Commands that die at a chosen moment, or lack something, in processes of their own; and whether anything was lost.

Children are forked, so that a trial costs no imports: call it only where torch has not started threads of its own.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

from gns import cli
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene.ply import load_ply
from gns.testing.tiny import same_state

# The names that `gns.utils.atomic_files` and `gns.utils.folder_lock` give to what must not stay.
_LEFTOVERS = (".gns-*.tmp", ".lock")
_ABOUT_SESSIONS = ("summary.json", "report.html")  # their times, memory and paths are not those of another run
_END_OF_PNG = b"IEND\xaeB`\x82"

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # what asks a process to end

Preparation = Callable[[], None]  # done in the child before its commands


@dataclass(frozen=True)
class Kill:
    """A moment at which a process ends itself with SIGKILL, as it would end for want of power."""

    kind: str  # one of KINDS
    number: int = 1  # which one of its kind
    seconds: float = 0.0  # of kind "clock": since the commands began

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s" if self.kind == "clock" else f"{self.kind} {self.number}"

    def arm(self) -> None:
        """Let this process die then."""
        if self.kind == "clock":
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends the process: no handler, no clean-up
            signal.setitimer(signal.ITIMER_REAL, max(self.seconds, 1e-6))
            return
        _count_points(self._reached)

    def _reached(self, kind: str, number: int, action: Callable[[], None]) -> None:
        if (kind, number) == (self.kind, self.number):
            action()
            os.kill(os.getpid(), signal.SIGKILL)


# Half of a file's bytes are written; it is whole but not in its place; it has just come there; half a line of the log.
KINDS = ("half a file", "before a rename", "after a rename", "half a log line", "clock")

Reached = Callable[[str, int, Callable[[], None]], None]


def _count_points(reached: Reached) -> None:
    """Tell `reached` of every point at which a process may die by design, with its number, for good."""
    numbers = dict.fromkeys(KINDS, 0)

    def point(kind: str, action: Callable[[], None] = lambda: None) -> None:
        numbers[kind] += 1
        reached(kind, numbers[kind], action)

    synchronise, replace, log = os.fsync, os.replace, RunFolder.log

    def fsync(descriptor: int) -> None:
        point("half a file", lambda: os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2))
        synchronise(descriptor)

    def rename(source: Any, target: Any, **options: Any) -> None:
        point("before a rename")
        replace(source, target, **options)
        point("after a rename")

    def append(run: RunFolder, record: Any) -> None:
        text = json.dumps(dict(record))

        def half() -> None:
            with run.log_path.open("a", encoding="utf-8") as file:
                file.write(text[: len(text) // 2])

        point("half a log line", half)
        log(run, record)

    os.fsync, os.replace, RunFolder.log = fsync, rename, append  # type: ignore[assignment, method-assign]


@dataclass(frozen=True)
class Ending:
    """How a child ended."""

    killed: bool
    status: int  # of its last command; of no meaning where it was killed
    said: str  # on both outputs
    seconds: float = 0.0
    points: dict[str, int] = field(default_factory=dict)  # how many of each of KINDS it passed, where that was asked

    @property
    def explained(self) -> bool:
        """Whether it succeeded, or ended with a sentence in place of a traceback."""
        return not self.killed and "Traceback" not in self.said and (self.status == 0 or "error: " in self.said)


def run_commands(
    commands: Sequence[Sequence[str]],
    kill: Kill | None = None,
    prepare: Sequence[Preparation] = (),
    *,
    count: bool = False,
) -> Ending:
    """Run `commands`, each a name and its arguments, one after the other until one fails, in a child.

    It dies at `kill`, and does the `prepare` first. With `count` it tells how often it passed each of KINDS, and what
    it imported of ours is imported here too: later children find it in their memory and run the same code, though
    files are edited meanwhile.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    counting, counted = os.pipe()
    started = time.perf_counter()
    with signals_held_back() as let_through:  # a child with a signal of its parent's would clean up in its place
        child = os.fork()
        if child == 0:
            os.close(reading)
            os.close(counting)
            _be_child(commands, kill, prepare, writing, counted if count else None)
        try:
            with let_through():
                os.close(writing)
                os.close(counted)
                with os.fdopen(reading, encoding="utf-8", errors="replace") as pipe:
                    said = pipe.read()
                _, how = os.waitpid(child, 0)
        except BaseException:  # it would go on writing where its parent cleans up
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            raise
    with os.fdopen(counting, encoding="utf-8") as pipe:
        told = json.loads(pipe.read() or '{"points": {}, "modules": []}')
    for name in told["modules"]:
        importlib.import_module(name)
    killed = os.WIFSIGNALED(how)
    if killed and os.WTERMSIG(how) not in (signal.SIGKILL, signal.SIGALRM):
        said += f"\nTraceback: ended by signal {os.WTERMSIG(how)}"
    return Ending(killed, os.waitstatus_to_exitcode(how), said, time.perf_counter() - started, told["points"])


def _be_child(
    commands: Sequence[Sequence[str]],
    kill: Kill | None,
    prepare: Sequence[Preparation],
    output: int,
    counted: int | None,
) -> None:
    """The child's whole life."""
    status = 70
    passed = dict.fromkeys(KINDS, 0)
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = os.fdopen(os.dup(output), "w", buffering=1, encoding="utf-8", errors="replace")
        for number in _heeded():
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        for preparation in prepare:
            preparation()
        if kill is not None:
            kill.arm()
        if counted is not None:
            _count_points(lambda kind, number, _: passed.update({kind: number}))
        for name, *arguments in commands:
            status = cli.run(cli.COMMANDS[name], arguments)
            if status:
                break
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
        if counted is not None:
            ours = sorted(name for name in sys.modules if name.startswith("gns."))
            os.write(counted, json.dumps({"points": passed, "modules": ours}).encode())
        os._exit(status)


def _heeded() -> list[signal.Signals]:
    """Those of `ENDING` that are not ignored, as SIGHUP is under nohup."""
    return [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]


def end_tidily() -> None:
    """From now on a signal of `ENDING` raises SystemExit in this process, so that it cleans up, and ignores all others.

    The status is 128 and the signal's number. What is ignored stays ignored.
    """
    heeded = _heeded()

    def leave(number: int, _: FrameType | None) -> None:
        for other in heeded:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in heeded:
        signal.signal(number, leave)


@contextmanager
def signals_held_back() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Signals of `ENDING` wait until the end, or until the context that is given is entered, in which they come."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    @contextmanager
    def let_through() -> Iterator[None]:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    try:
        yield let_through
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What may be wrong with the world


def few_descriptors(count: int) -> Preparation:
    """At most `count` files are open at a time."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def small_files(size: int) -> Preparation:
    """No file grows beyond `size` bytes: what a full disk is like, without one."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def mad_clocks(seed: int) -> Preparation:
    """The clock on the wall jumps by up to ten years each way whenever it is asked. (A monotonic one never does.)"""

    def patch() -> None:
        generator = np.random.default_rng(seed)
        real = time.time
        time.time = lambda: real() + generator.uniform(-3e8, 3e8)

    return patch


def shift_file_times(folder: Path, seed: int) -> None:
    """Give every file below `folder` a time of change within ten years of now."""
    generator, now = np.random.default_rng(seed), time.time()
    for path in sorted(folder.rglob("*")):
        moment = now + generator.uniform(-3e8, 3e8)
        os.utime(path, (moment, moment))


# What has to hold


def leftovers(folder: Path) -> list[str]:
    """The temporary files and locks below `folder`."""
    return sorted(str(path.relative_to(folder)) for pattern in _LEFTOVERS for path in folder.rglob(pattern))


def partial_files(folder: Path) -> list[str]:
    """Files below `folder`, temporary ones aside, that are not whole."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not path.is_file() or any(path.match(pattern) for pattern in _LEFTOVERS) or name == "log.jsonl":
            continue
        try:
            if path.name == "point_cloud.ply":
                load_ply(path)
            elif path.suffix == ".pt":
                read_checkpoint(path)
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".png":
                with Image.open(path) as picture:
                    picture.load()
                if not path.read_bytes().endswith(_END_OF_PNG):  # which Pillow does without
                    raise ValueError("no end")
            elif path.stat().st_size == 0:
                raise ValueError("empty")
        except Exception as error:
            found.append(f"{name}: {error}")
    return found


def differences(folder: Path, reference: Path) -> list[str]:
    """How two finished output folders differ: bytes, states of checkpoints, and records of the log less their clock."""
    names = {str(path.relative_to(root)) for root in (folder, reference) for path in root.rglob("*") if path.is_file()}
    return [name for name in sorted(names) if not _alike(folder / name, reference / name)]


def _alike(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()):
        return False
    if first.suffix == ".pt":
        return same_state(read_checkpoint(first), read_checkpoint(second))
    if first.name == "log.jsonl":
        return _records(first.parent) == _records(second.parent)
    if first.name in ("config.json", "cfg_args"):  # which name their own folder
        return first.read_text().replace(str(first.parent), "") == second.read_text().replace(str(second.parent), "")
    if first.name in _ABOUT_SESSIONS:
        return True
    return first.read_bytes() == second.read_bytes()


def _records(folder: Path) -> dict[tuple[int, bool], dict[str, Any]]:
    """The last losses and scores of each iteration, without what starts anew in each session.

    That are the clocks, the loss, which is smoothed, and counts of births and deaths since the last record.
    """
    config: Any = None
    per_session = {"seconds", "processor_seconds", "loss", "births", "deaths"}
    return {
        (record["iteration"], "held_out_psnr" in record): {
            key: value for key, value in record.items() if key not in per_session
        }
        for record in RunFolder(folder, config).read_log()
        if "held_out_psnr" in record or "loss" in record
    }


def single_threaded() -> None:
    """What a process must do before it forks children that compute with torch."""
    torch.set_num_threads(1)
