"""Where the runs of a batch are done: on the GPUs or processor cores of this machine, or as jobs of a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition
from typing import Any, TypeVar

from gns.commands.child import importable_here
from gns.errors import UserError

CLUSTER = "slurm"  # what submitit is asked for

_FREE = """
import json, torch
count = torch.cuda.device_count() if torch.version.cuda else 0
print(json.dumps([torch.cuda.mem_get_info(index)[0] for index in range(count)]))
"""

Run = TypeVar("Run")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """What one run may use: a number of processor threads, 0 for all, and one GPU or what there is."""

    threads: int
    gpu: str | None = None  # as CUDA_VISIBLE_DEVICES names it

    @property
    def environment(self) -> Mapping[str, str]:
        """What a process that runs here has in its environment."""
        return {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}


@dataclass
class _Gpu:
    name: str
    free: int  # bytes that no run of ours is expected to take
    runs: int = 0


@dataclass
class Gpus:
    """The GPUs of this machine, lent to runs: the idlest first, and a busy one only to a run that fits beside."""

    gpus: list[_Gpu]
    changed: Condition = field(default_factory=Condition)

    @classmethod
    def here(cls) -> Gpus:
        """Those that torch sees, with the memory that is free now; none where it sees none."""
        # In a process of its own: asking takes half a gigabyte on every GPU for as long as the process lives.
        asked = subprocess.run([sys.executable, "-c", _FREE], capture_output=True, text=True)
        free: list[int] = json.loads(asked.stdout) if asked.returncode == 0 else []
        listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        names = listed[: len(free)] or [str(index) for index in range(len(free))]
        return cls([_Gpu(name, room) for name, room in zip(names, free, strict=True)])

    @contextmanager
    def lent(self, needed: int) -> Iterator[str]:
        """The name of a GPU for a run that takes `needed` bytes; waits until there is one.

        An idle GPU takes every run: whether it is large enough at all is said by the training itself.
        """
        with self.changed:
            while (gpu := self._fitting(needed)) is None:
                self.changed.wait()
            gpu.runs += 1
            gpu.free -= needed
        try:
            yield gpu.name
        finally:
            with self.changed:
                gpu.runs -= 1
                gpu.free += needed
                self.changed.notify_all()

    def _fitting(self, needed: int) -> _Gpu | None:
        fitting = [gpu for gpu in self.gpus if gpu.runs == 0 or gpu.free >= needed]
        return min(fitting, key=lambda gpu: (gpu.runs, -gpu.free), default=None)


def share_of_threads(threads: int, jobs: int) -> int:
    """Threads of each of `jobs` runs side by side where all together have `threads`, 0 for every core; at least one."""
    if jobs == 1:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, (threads or cores) // jobs)


def done_here(
    runs: Sequence[Run],
    work: Callable[[Run, Place], Result],
    *,
    jobs: int,
    threads: int,
    gpus: Gpus | None,
    needed: Callable[[Run], int],
) -> Iterator[tuple[Run, Result]]:
    """Do `work` on every run, `jobs` at a time, and yield each with its result as it comes.

    With `gpus` each run has one of them with `needed(run)` bytes to spare. Ctrl-C, here or in a run, lets those under
    way end and begins no other.
    """
    share = share_of_threads(threads, jobs)

    def placed(run: Run) -> Result:
        if gpus is None:
            return work(run, Place(share))
        with gpus.lent(needed(run)) as gpu:
            return work(run, Place(share, gpu))

    with ThreadPoolExecutor(jobs) as executor:
        futures = {executor.submit(placed, run): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def submitit_or_sentence() -> Any:
    """The module submitit. Raises UserError that says what to install where it is absent."""
    try:
        import submitit
    except ImportError:
        raise UserError('--slurm needs the package submitit: pip install ".[slurm]" in the checkout of gns') from None
    return submitit


def done_on_cluster(
    runs: Sequence[Run],
    work: Callable[[Run, Place], Result],
    *,
    folder: Path,
    jobs: int,
    threads: int,
    options: Mapping[str, Any],
) -> Iterator[tuple[Run, Result | UserError]]:
    """Submit a job a run, `jobs` of them running at a time, and yield each with its result as it comes.

    `folder` takes the scripts and logs of submitit, and must be seen by every node; `options` are those of its
    executor, by the names that it has for every cluster or for Slurm. A job that was lost gives a UserError as its
    result. Ctrl-C leaves the jobs in the queue. Raises UserError where submitit or the cluster is missing.
    """
    submitit = submitit_or_sentence()
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=CLUSTER)
    except RuntimeError as error:
        raise UserError(
            f"--slurm cannot submit ({error}): call it where sbatch can be called, or leave it out"
        ) from None
    executor.update_parameters(name="gns-test", cpus_per_task=threads, slurm_array_parallelism=jobs, **options)
    os.environ["PYTHONPATH"] = importable_here()  # which the jobs inherit
    with executor.batch():
        submitted = [executor.submit(work, run, Place(threads)) for run in runs]
    run_of = {job.job_id: run for job, run in zip(submitted, runs, strict=True)}
    for job in submitit.helpers.as_completed(submitted, poll_frequency=1):
        yield run_of[job.job_id], _result(submitit, job)


def _result(submitit: Any, job: Any) -> Any:
    try:
        return job.result()
    except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError):
        return UserError(f"job {job.job_id} was lost ({job.state}): see {job.paths.stderr}, and submit it again")
