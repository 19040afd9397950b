"""The options of the commands that do not train: render.py, metrics.py, test.py and `gns inspect`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from gns.arguments.shared import IMAGE_MEMORY, JSON, MachineConfig
from gns.arguments.training import run_length
from gns.errors import UserError
from gns.rules import DEFAULT_METHOD, DEFAULT_PRESET, PRESETS, SCHEDULES
from gns.utils.option_table import check, check_choice, flag, option

OUTPUTS = ("depth", "alpha", "count")  # pictures that render.py draws besides the colours
LONGEST_VIDEO = 60 * 60  # seconds
WIDEST_VIDEO = 8192  # pixels, both ways
_THREADS_OF_A_JOB = 8  # of gns test --slurm, where none are asked for


@dataclass(frozen=True, kw_only=True)
class RenderConfig(MachineConfig):
    """What render.py draws. `iteration` −1 is the newest saved model."""

    model_path: Path = field(metadata=option("output folder of a training", group="model", short="-m", metavar="MODEL"))
    iteration: int = field(default=-1, metadata=option("saved iteration, -1: the newest", group="model", at_least=-1))
    source_path: Path | None = field(
        default=None,
        metadata=option("folder of the scene, where it has moved since", group="scene", short="-s", metavar="SCENE"),
    )
    image_memory: int | None = field(default=None, metadata=IMAGE_MEMORY)
    skip_train: bool = field(default=False, metadata=option("leave the training views out", group="scene"))
    skip_test: bool = field(default=False, metadata=option("leave the held-out views out", group="scene"))
    antialiasing: bool = field(
        default=False,
        metadata=option("the model of another program was trained with it; ours say so themselves", group="model"),
    )
    outputs: tuple[str, ...] = field(
        default=(), metadata=option("depth, alpha, count: further pictures beside the colours", group="pictures")
    )
    video: Path | None = field(
        default=None,
        metadata=option("write this video instead of pictures of the photos' views", group="video", metavar="FILE.mp4"),
    )
    path: str | None = field(
        default=None,
        metadata=option(
            "the camera's: ellipse, spline, or a cameras.json with key views (default: ellipse, where the photos show "
            "one subject)",
            group="video",
            metavar="PATH",
        ),
    )
    size: str | None = field(
        default=None,
        metadata=option("pixels (default: 1920x1080, or 1080x1920 for upright photos)", group="video", metavar="WxH"),
    )
    seconds: float = field(default=10.0, metadata=option("length", group="video"))
    fps: int = field(default=30, metadata=option("frames a second", group="video", at_least=1))

    def __post_init__(self) -> None:
        outputs = tuple(dict.fromkeys(name for words in self.outputs for name in words.split(",") if name))
        object.__setattr__(self, "outputs", outputs)
        MachineConfig.__post_init__(self)
        for name in self.outputs:
            check_choice("outputs", name, OUTPUTS)
        for name in ("path", "size"):
            if getattr(self, name) is not None and self.video is None:
                raise UserError(f"{flag(name)} is of a video: name it with --video FILE.mp4")
        if not 0 < self.seconds <= LONGEST_VIDEO:
            raise UserError(f"--seconds is {self.seconds:g}: it must be above 0 and at most {LONGEST_VIDEO}")
        _ = self.film_size

    @property
    def film_size(self) -> tuple[int, int] | None:
        """Width and height of the video, as `size` says; None for the usual one."""
        if self.size is None:
            return None
        found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", self.size)
        width, height = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 16 <= min(width, height) <= max(width, height) <= WIDEST_VIDEO or width % 2 or height % 2:
            raise UserError(
                f"--size is {self.size!r}: give two even numbers from 16 to {WIDEST_VIDEO}, such as 1920x1080"
            )
        return width, height


@dataclass(frozen=True, kw_only=True)
class MetricsConfig(MachineConfig):
    """Which rendered models metrics.py scores."""

    model_paths: tuple[Path, ...] = field(
        metadata=option("output folders with rendered test views", group="model", short="-m", metavar="MODEL")
    )
    fit_exposure: bool = field(
        default=False,
        metadata=option(
            "score also the right halves of photos with colours fitted on the left ones; on for runs with --exposure",
            group="model",
        ),
    )


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(MachineConfig):
    """Which scenes test.py trains, and how."""

    data: Path = field(
        default=Path("data"), metadata=option("folder with the scenes, at most two folders deep", group="scenes")
    )
    budgets: Path | None = field(
        default=None,
        metadata=option(
            "list of scenes and budgets (default: budget.txt here, else that of the published tables)",
            group="scenes",
            metavar="FILE",
        ),
    )
    output: Path = field(default=Path("output"), metadata=option("folder for the runs and tables", group="scenes"))
    small: bool = field(default=False, metadata=option("40 % of each budget", group="training"))
    scales: tuple[float, ...] = field(
        default=(1.0,), metadata=option("train every scene with each of these shares of its budget", group="training")
    )
    schedule: str = field(
        default=SCHEDULES[0], metadata=option("the method's calendar", group="training", choices=SCHEDULES)
    )
    iterations: int = field(
        default=-1, metadata=option("training steps a scene, -1: the schedule's own", group="training", at_least=-1)
    )
    preset: str = field(
        default=DEFAULT_PRESET, metadata=option("as in train.py", group="training", choices=PRESETS.keys())
    )
    seeds: tuple[int, ...] = field(
        default=(0,), metadata=option("train every scene with each of these seeds", group="training", at_least=0)
    )
    jobs: int = field(
        default=1,
        metadata=option(
            "runs side by side: one a GPU, more where they fit; on the processor they share the threads",
            group="batch",
            at_least=1,
        ),
    )
    slurm: bool = field(
        default=False,
        metadata=option("submit every run to Slurm, --jobs of them at a time; --threads is of each", group="batch"),
    )
    slurm_partition: str | None = field(
        default=None, metadata=option("partition of the jobs (default: the cluster's)", group="batch", metavar="NAME")
    )
    slurm_minutes: int = field(default=240, metadata=option("time limit of a job", group="batch", at_least=1))
    slurm_gpus: int = field(default=1, metadata=option("GPUs of a job: 1, or 0", group="batch", at_least=0))
    slurm_gb: int = field(default=16, metadata=option("main memory of a job", group="batch", at_least=1))

    def __post_init__(self) -> None:
        MachineConfig.__post_init__(self)
        object.__setattr__(self, "iterations", run_length(self.iterations, DEFAULT_METHOD, self.schedule, self.preset))
        for name in ("seeds", "scales"):
            if not getattr(self, name) or len(set(getattr(self, name))) != len(getattr(self, name)):
                raise UserError(f"--{name} needs one number or more, each once")
        if not all(0 < scale < math.inf for scale in self.scales):
            raise UserError("--scales are shares of each budget: they must be greater than 0")
        if self.small and self.scales != (1.0,):
            raise UserError("--small is --scales 0.4: give one of them")
        if self.slurm and self.threads == 0:
            object.__setattr__(self, "threads", _THREADS_OF_A_JOB)
        if self.slurm_gpus > 1:
            raise UserError(f"--slurm-gpus is {self.slurm_gpus}: a run uses one GPU, or none with 0")


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Which scene `gns inspect` describes."""

    source_path: Path = field(
        metadata=option("folder of the scene; -s may be left out", group="scene", short="-s", metavar="SCENE")
    )
    images: str = field(
        default="images", metadata=option("folder of the photos inside the scene", group="scene", short="-i")
    )
    resolution: int = field(
        default=-1, metadata=option("as in train.py: sizes are told after it", group="scene", short="-r", at_least=-1)
    )
    follow_links: bool = field(
        default=False, metadata=option("read photos and masks that are links out of the scene", group="scene")
    )
    image_memory: int | None = field(default=None, metadata=IMAGE_MEMORY)
    plot: Path | None = field(
        default=None, metadata=option("draw cameras and points into this picture", metavar="FILE.png")
    )
    json: bool = field(default=False, metadata=JSON)

    def __post_init__(self) -> None:
        check(self)
