"""The options of every command: frozen dataclasses ↔ command line ↔ config.json.

A field is declared once, with its default, help and checks; `gns.utils.option_table` derives the rest. The options of a
rule stand in its own file, and appear here because `gns.rules` lists it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from gns import __version__, other_trainers
from gns.errors import UserError
from gns.rules import (
    DEFAULT_METHOD,
    DEFAULT_PRESET,
    METHODS,
    PRESETS,
    SCHEDULES,
    TEST_ITERATIONS,
    Refinements,
    Rule,
    optimisation_of,
)
from gns.utils.option_table import (
    build,
    check,
    check_choice,
    described_fields,
    flag,
    from_json,
    given_options,
    option,
    option_of,
    to_json,
)
from gns.utils.quantities import parse_count, parse_size
from gns.utils.torchrun import place
from gns.utils.untrusted_json import parse_json

CONFIG_FILE = "config.json"
CONFIG_FORMAT = 3  # raise it when a field is added, removed or changes its meaning
SMALLEST_BUDGET = 100
LARGEST_PORT = 2**16 - 1
OUTPUTS = ("depth", "alpha", "count")  # pictures that render.py draws besides the colours
LONGEST_VIDEO = 60 * 60  # seconds
_THREADS_OF_A_JOB = 8  # of gns test --slurm, where none are asked for
WIDEST_VIDEO = 8192  # pixels, both ways
MOST_THREADS = 1024  # kMostThreads in gns/csrc/cpu/threads.h, where it is explained


@dataclass(frozen=True)
class Budget:
    """A budget as it was typed: a number of Gaussians, or the size of the model file in bytes."""

    text: str
    number: int | None
    size: int | None

    def gaussians(self, sh_degree: int) -> int:
        """How many Gaussians of that degree it is."""
        if self.number is not None:
            return self.number
        from gns.scene.ply import gaussians_that_fit  # imported here: it brings torch, and --help should not wait

        return gaussians_that_fit(self.size or 0, sh_degree)


def parse_budget(text: str) -> Budget:
    """What the user typed as the size of a model. Raises ValueError."""
    size = parse_size(text)
    return Budget(text.replace(" ", ""), parse_count(text) if size is None else None, size)


def parse_memory(text: str) -> int:
    """An amount of memory as the user typed it, in bytes. Raises ValueError."""
    size = parse_size(text)
    if size is None:
        raise ValueError(f"{text!r} is no amount of memory: write it like 4GB or 800MB")
    return size


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What a scene is read with: the options that 3DGS writes to `cfg_args`."""

    source_path: Path = field(
        metadata=option("folder of the scene", group="scene", short="-s", metavar="SCENE", changeable=True)
    )
    model_path: Path = field(
        metadata=option(
            "output folder (default: output/SCENE-SIZE)", group="scene", short="-m", changeable=True, needed=False
        )
    )
    images: str = field(
        default="images", metadata=option("folder of the photos inside the scene", group="scene", short="-i")
    )
    resolution: int = field(
        default=-1,
        metadata=option(
            "1, 2, 4, 8: photos reduced so many times; another number: their width in pixels; "
            "-1: as they are, at most 1600 wide",
            group="scene",
            short="-r",
            at_least=-1,
        ),
    )
    white_background: bool = field(
        default=False, metadata=option("white instead of black behind the scene", group="scene", short="-w")
    )
    eval: bool = field(default=True, metadata=option("hold out every 8th photo for testing", group="scene"))
    follow_links: bool = field(
        default=False,
        metadata=option("read photos and masks that are links out of the scene", group="scene", changeable=True),
    )

    def __post_init__(self) -> None:
        check(self)
        if self.resolution == 0:
            raise UserError("--resolution is 0: give 1, 2, 4, 8, a width in pixels, or -1")


_JSON = option(
    "print what came of it to stdout as one JSON object, and everything else to stderr", group="machine", session=True
)


_IMAGE_MEMORY = option(
    "main memory for decoded photos (4GB); those beyond are decoded again when they are needed, with the same result; "
    "on a GPU as much of its own keeps photos there (default: half of what is free; on a GPU all that is left)",
    group="machine",
    metavar="SIZE",
    convert=parse_memory,
    at_least=1,
    at_most=2**62,
    session=True,
)


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """What a command runs on, and how much it says."""

    device: str = field(
        default="auto", metadata=option("auto, cpu, cuda or cuda:1", group="machine", metavar="NAME", changeable=True)
    )
    threads: int = field(
        default=0,
        metadata=option(
            f"processor threads, at most {MOST_THREADS}; 0: all cores", group="machine", at_least=0, changeable=True
        ),
    )
    quiet: bool = field(default=False, metadata=option("print nothing but errors", group="machine", session=True))
    json: bool = field(default=False, metadata=_JSON)

    def __post_init__(self) -> None:
        check(self)
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is None:
            raise UserError(f"--device is {self.device!r}: choose auto, cpu, cuda or cuda:NUMBER")
        if self.threads > MOST_THREADS:
            raise UserError(f"--threads is {self.threads}: it must be at most {MOST_THREADS}")


def _lengths() -> str:
    """The natural lengths of the default method's schedules, as --help lists them."""
    (_, first), *others = ((name, optimisation_of(DEFAULT_METHOD, name).iterations) for name in SCHEDULES)
    return ", ".join([str(first), *(f"{name} {length}" for name, length in others)])


_FINAL_BUDGET = option(
    "size of the finished model: a number of Gaussians (300000, 300k, 1.2M) or of bytes (20MB); "
    "without it one is proposed, and told: a Gaussian for every 400 pixels of the photos",
    group="model",
    metavar="SIZE",
    convert=parse_budget,
)


@dataclass(frozen=True, kw_only=True)
class Config(MachineConfig):
    """What a training does, whatever the scene and wherever its results go.

    `final_budget` counts Gaussians; None stands for what the scene suggests (`gns.scene.suggestion`), and for a method
    that grows to what it needs for no budget. `rules` holds the options of each of the method's rules by its name;
    those left out have their defaults. Raises UserError for what cannot be.
    """

    final_budget: int | None = field(default=None, metadata=_FINAL_BUDGET)
    sh_degree: int = field(
        default=3, metadata=option("degree of view-dependent colour, 0 to 3", group="model", at_least=0)
    )
    method: str = field(
        default=DEFAULT_METHOD,
        metadata=option(
            "; ".join(f"{name}: {method.summary}" for name, method in METHODS.items()),
            group="training",
            choices=METHODS.keys(),
        ),
    )
    iterations: int = field(
        default=-1,
        metadata=option(
            f"training steps, -1: the schedule's own ({_lengths()}), divided by the number of processes under "
            "torchrun; the whole schedule scales with it",
            group="training",
            at_least=-1,
        ),
    )
    schedule: str = field(
        default=SCHEDULES[0],
        metadata=option(
            "the method's calendar: one long selection, or two short ones", group="training", choices=SCHEDULES
        ),
    )
    random_background: bool = field(
        default=False,
        metadata=option("another background behind photos and model in every step", group="training"),
    )
    depth_l1_weight_init: float = field(
        default=1.0, metadata=option("weight of the depth maps in the loss, at first", group="training")
    )
    depth_l1_weight_final: float = field(
        default=0.01, metadata=option("the same at the end; it decays log-linearly", group="training")
    )
    free_space_weight: float = field(
        default=0.0,
        metadata=option(
            "price of floaters nearer to a camera than the points that it sees; try 0.1 with few photos",
            group="training",
        ),
    )
    antialiasing: bool = field(
        default=False,
        metadata=option(
            "train for pictures of any size: opacities make up for the pixels' width (2D filter of Mip-Splatting)",
            group="model",
        ),
    )
    seed: int = field(default=0, metadata=option("seed of every random choice", group="training", at_least=0))
    preset: str = field(
        default=DEFAULT_PRESET,
        metadata=option(
            "; ".join(f"{name}: {preset.summary}" for name, preset in PRESETS.items())
            + "; the three options that follow go before it",
            group="training",
            choices=PRESETS.keys(),
        ),
    )
    coarse_to_fine: bool | None = field(
        default=None,
        metadata=option("learn from photos of a quarter of their size first, then of half", group="training"),
    )
    larger_steps: bool | None = field(
        default=None,
        metadata=option("larger steps of positions, shapes and harmonics than published", group="training"),
    )
    dense_model: float | None = field(
        default=None,
        metadata=option("times the number of Gaussians that the method's selection begins with", group="training"),
    )
    exposure: bool = field(
        default=False,
        metadata=option(
            "learn an exposure and white balance for each photo: for captures whose photos differ in them",
            group="training",
        ),
    )
    image_memory: int | None = field(default=None, metadata=_IMAGE_MEMORY)
    test_iterations: tuple[int, ...] = field(
        default=TEST_ITERATIONS,
        metadata=option(
            "when to measure the held-out photos; the last iteration always is, -1: no other",
            group="saving and testing",
            at_least=-1,
            changeable=True,
        ),
    )
    log_every_iteration: bool = field(
        default=False,
        metadata=option("also write the loss of each iteration to log.jsonl", group="saving and testing", session=True),
    )
    tensorboard: bool = field(
        default=False,
        metadata=option(
            "also write curves for TensorBoard into the output folder, under the names of 3DGS",
            group="saving and testing",
            session=True,
        ),
    )
    rules: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        MachineConfig.__post_init__(self)
        if self.sh_degree > 3:
            raise UserError(f"--sh-degree is {self.sh_degree}: it must be 0, 1, 2 or 3")
        object.__setattr__(self, "iterations", run_length(self.iterations, self.method, self.schedule, self.preset))
        for name, value in vars(PRESETS[self.preset].refinements).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if not 0.5 <= self.refinements.dense_model <= 10:
            raise UserError(f"--dense-model is {self.dense_model}: it must be from 0.5 to 10")
        object.__setattr__(self, "rules", _complete(self.rules, self.method))
        if self.exposure and self.random_background:
            raise UserError("--exposure and --random-background go together with nothing that is seen: leave one out")
        for name in ("depth_l1_weight_init", "depth_l1_weight_final"):
            if not getattr(self, name) > 0:
                raise UserError(f"{flag(name)} is {getattr(self, name):g}: it must be above 0")
        if not self.free_space_weight >= 0:
            raise UserError(f"--free-space-weight is {self.free_space_weight:g}: it must be at least 0")
        if not METHODS[self.method].budgeted:
            if self.final_budget is not None:
                raise UserError(f"--method {self.method} grows to what it needs: leave --final-budget out")
        elif self.final_budget is not None and self.final_budget < SMALLEST_BUDGET:
            raise UserError(
                f"--final-budget is {self.final_budget} Gaussians: a model needs at least {SMALLEST_BUDGET}"
            )

    @property
    def refinements(self) -> Refinements:
        """What is done otherwise than published."""
        return Refinements(**{field.name: getattr(self, field.name) for field in fields(Refinements)})


def run_length(iterations: int, method: str, schedule: str, preset: str = DEFAULT_PRESET) -> int:
    """Training steps of a run: as asked for, or for −1 what the preset makes of the schedule's own length.

    Raises UserError.
    """
    if schedule not in METHODS[method].schedules:
        raise UserError(
            f"--method {method} has no schedule {schedule}: {', '.join(METHODS[method].schedules)} is its own"
        )
    if iterations == 0:
        raise UserError("--iterations is 0: give at least 1, or leave it out for the schedule's own length")
    natural = optimisation_of(method, schedule).iterations
    return round(PRESETS[preset].length * natural) if iterations < 0 else iterations


def _complete(rules: Mapping[str, Any], method: str) -> dict[str, Any]:
    """The options of all rules of `method`: those given, and defaults. Raises UserError where others are given."""
    kinds = {rule.name: rule.Options for rule in METHODS[method].rules}
    if strays := sorted(set(rules) - set(kinds)):
        raise UserError(f"there is no rule {strays[0]!r} in method {method}: it has {', '.join(kinds)}")
    complete = {name: rules[name] if name in rules else kind() for name, kind in kinds.items()}
    for name, options in complete.items():
        if type(options) is not kinds[name]:
            raise UserError(f"the options of rule {name} are {kinds[name].__name__}(…), not {options!r}")
        check(options)
    return complete


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config, SceneConfig):
    """Everything a run of train.py depends on besides the scene's files."""

    depths: str = field(
        default="",
        metadata=option(
            "folder of depth maps to learn from too, 16-bit PNGs as 3DGS takes them, with sparse/0/depth_params.json",
            group="scene",
            short="-d",
        ),
    )
    save_iterations: tuple[int, ...] = field(
        default=(),
        metadata=option(
            "when to save the model; the last iteration always is",
            group="saving and testing",
            at_least=-1,
            changeable=True,
        ),
    )
    checkpoint_iterations: tuple[int, ...] = field(
        default=(),
        metadata=option(
            "checkpoints to keep, besides the newest two of those written from time to time",
            group="saving and testing",
            at_least=-1,
            changeable=True,
        ),
    )
    start_checkpoint: Path | None = field(
        default=None, metadata=option("checkpoint file to start a new run from", group="saving and testing")
    )
    resume: bool = field(
        default=False,
        metadata=option(
            "continue the run in the output folder, with the options it was started with",
            group="saving and testing",
            session=True,
        ),
    )
    viewer: bool = field(
        default=False,
        metadata=option("show the model in the browser while it trains (extra: viewer)", group="viewer", session=True),
    )
    viewer_port: int = field(
        default=8080,
        metadata=option("of its server, which only this machine reaches", group="viewer", at_least=1, session=True),
    )

    report: bool = field(
        default=True,
        metadata=option(
            "draw and score the held-out photos at the end, and write report.html",
            group="saving and testing",
            session=True,
        ),
    )
    require_budget: bool = field(
        default=False,
        metadata=option(
            "end with status 3 where fewer Gaussians grew than were asked for", group="model", session=True
        ),
    )

    def __post_init__(self) -> None:
        SceneConfig.__post_init__(self)
        Config.__post_init__(self)
        if self.viewer_port > LARGEST_PORT:
            raise UserError(f"--viewer-port is {self.viewer_port}: it must be at most {LARGEST_PORT}")


@dataclass(frozen=True, kw_only=True)
class RenderConfig(MachineConfig):
    """What render.py draws. `iteration` −1 is the newest saved model."""

    model_path: Path = field(metadata=option("output folder of a training", group="model", short="-m", metavar="MODEL"))
    iteration: int = field(default=-1, metadata=option("saved iteration, -1: the newest", group="model", at_least=-1))
    source_path: Path | None = field(
        default=None,
        metadata=option("folder of the scene, where it has moved since", group="scene", short="-s", metavar="SCENE"),
    )
    image_memory: int | None = field(default=None, metadata=_IMAGE_MEMORY)
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
    image_memory: int | None = field(default=None, metadata=_IMAGE_MEMORY)
    plot: Path | None = field(
        default=None, metadata=option("draw cameras and points into this picture", metavar="FILE.png")
    )
    json: bool = field(default=False, metadata=_JSON)

    def __post_init__(self) -> None:
        check(self)


def parse_inspect(argv: Sequence[str], *, prog: str = "gns inspect") -> InspectConfig:
    """The configuration that a command line of `gns inspect` asks for; the scene may stand alone. Raises UserError."""
    description = "Say what a scene is, what was found and not used, and what looks wrong."
    words = list(argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "-s")
    elif len(words) > 2 and not words[-1].startswith("-") and not words[-2].startswith("-"):
        words.insert(-1, "-s")
    config: InspectConfig = build(
        InspectConfig, given_options([InspectConfig], words, prog=prog, description=description)
    )
    return config


def parse_render(argv: Sequence[str], *, prog: str = "render.py") -> RenderConfig:
    """The configuration that a command line of render.py asks for. Raises UserError."""
    description = "Render the training and held-out views of a trained model."
    config: RenderConfig = build(
        RenderConfig,
        given_options(
            [RenderConfig], argv, prog=prog, description=description, without_foreign=_answering(other_trainers.RENDER)
        ),
    )
    return config


def parse_metrics(argv: Sequence[str], *, prog: str = "metrics.py") -> MetricsConfig:
    """The configuration that a command line of metrics.py asks for. Raises UserError."""
    description = "Score rendered test views: PSNR, SSIM and LPIPS."
    config: MetricsConfig = build(
        MetricsConfig,
        given_options(
            [MetricsConfig],
            argv,
            prog=prog,
            description=description,
            without_foreign=_answering(other_trainers.METRICS),
        ),
    )
    return config


def parse_suite(argv: Sequence[str], *, prog: str = "test.py") -> SuiteConfig:
    """The configuration that a command line of test.py asks for. Raises UserError."""
    description = "Train, render and score scenes × budgets × seeds, and print the tables."
    config: SuiteConfig = build(
        SuiteConfig,
        given_options(
            [SuiteConfig],
            argv,
            prog=prog,
            description=description,
            without_foreign=_answering(other_trainers.FULL_EVAL),
        ),
    )
    return config


def parse_train(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> TrainConfig:
    """The configuration that a command line of train.py asks for; `argv` is without the program's name.

    With `--resume` it is the stored one of the output folder, in which only options that leave the result as it is
    (where the scene lies, the machine, what is saved and tested) may change; where none is stored yet, a new one.
    Raises UserError.
    """
    given = given_options(
        [TrainConfig, *option_tables()],
        sys.argv[1:] if argv is None else argv,
        prog=prog,
        description="Train a compact 3D Gaussian Splatting model of exactly the size you ask for.",
        without_foreign=_answering(other_trainers.TRAIN),
    )
    given, of_rules = _parted(given)
    budget: Budget | None = given.get("final_budget")
    if budget is not None:
        given["final_budget"] = budget.gaussians(given.get("sh_degree", 3))
    if "source_path" in given:
        given["source_path"] = given["source_path"].expanduser().resolve()
    method = given.get("method", DEFAULT_METHOD)
    check_choice("method", method, METHODS)
    if "model_path" not in given and "source_path" in given:
        given["model_path"] = default_model_path(given["source_path"], budget.text if budget else "", method)
    if given.get("resume"):
        if "model_path" not in given:
            raise UserError("--resume needs the folder of the run to continue: name it with -m")
        if (given["model_path"] / CONFIG_FILE).exists():
            return _resumed(given, of_rules)
        if "source_path" not in given:
            raise UserError(f"there is no run to resume in {given['model_path']}: to start one there, give -s")
    # The folder's name needs the scene: where that is missing, it is the option to ask for.
    rules = {rule.name: rule.Options(**of_rules.pop(rule.name, {})) for rule in METHODS[method].rules}
    _refuse_options_of_others(of_rules, method)
    config: TrainConfig = build(TrainConfig, {"model_path": Path(), "rules": rules, **given})
    if given.get("iterations", -1) < 0:
        # Under torchrun an iteration learns from one view a process: as many views as one process would see.
        config = replace(config, iterations=math.ceil(config.iterations / place().size))
    return config


def _all_rules() -> list[type[Rule[Any]]]:
    """The rules of all methods, each once."""
    return list(dict.fromkeys(rule for method in METHODS.values() for rule in method.rules))


def option_tables() -> list[type]:
    """The options of all rules, as `gns.utils.option_table.given_options` takes them."""
    return [rule.Options for rule in _all_rules()]


def _parted(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The options of the run itself, and those of rules by the rule's name."""
    own, of_rules = dict(given), dict[str, dict[str, Any]]()
    for rule in _all_rules():
        if theirs := {field.name: own.pop(field.name) for field in fields(rule.Options) if field.name in own}:
            of_rules[rule.name] = theirs
    return own, of_rules


def _refuse_options_of_others(of_rules: Mapping[str, Mapping[str, Any]], method: str) -> None:
    for rule, options in of_rules.items():
        theirs = [name for name, other in METHODS.items() if rule in {kind.name for kind in other.rules}]
        raise UserError(
            f"{flag(next(iter(options)))} is an option of --method {' and '.join(theirs)}, and this run is {method}: "
            "leave it out"
        )


def default_model_path(source_path: Path, budget: str = "", method: str = DEFAULT_METHOD) -> Path:
    """The output folder of a run whose command line names none, such as `output/garden-600k`: the budget as typed."""
    parts = [source_path.name, budget, "" if method == DEFAULT_METHOD else method]
    return Path("output") / "-".join(filter(None, parts))


def config_text(config: TrainConfig) -> str:
    """The text of config.json."""
    options = {**to_json(config), "rules": {name: to_json(options) for name, options in config.rules.items()}}
    return json.dumps({"format": CONFIG_FORMAT, "gns": __version__, "options": options}, indent=2) + "\n"


def decisive_options(config: TrainConfig) -> dict[str, Any]:
    """The options that decide what a run ends in, by their flags; those of all its rules among them."""
    tables = [config, *config.rules.values()]
    return {
        flag(option_field.name): to_json(table)[option_field.name]
        for table in tables
        for option_field in described_fields(type(table))
        if not (option_of(option_field).session or option_of(option_field).changeable)
    }


def read_config(path: Path) -> TrainConfig:
    """The configuration in the file config.json at `path`.

    Raises UserError where the file is missing, damaged or of another version, or holds an unknown key, lacks one, or
    has one of the wrong type.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}): restore it, or start a run in another folder") from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != CONFIG_FORMAT or not isinstance(document.get("options"), dict):
        raise UserError(
            f"{path} has format {found!r}, and this version of gns reads {CONFIG_FORMAT}: use the version that wrote it"
        )
    try:
        return _config_of(document["options"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _config_of(stored: Mapping[str, Any]) -> TrainConfig:
    own = dict(stored)
    if "rules" not in own:
        raise UserError("missing key 'rules'")
    by_rule = own.pop("rules")
    if not isinstance(by_rule, dict) or not all(isinstance(options, dict) for options in by_rule.values()):
        raise UserError(f"'rules' cannot be {by_rule!r}")
    kinds = {rule.name: rule.Options for rule in _all_rules()}
    if strays := sorted(set(by_rule) - set(kinds)):
        raise UserError(f"unknown rule {strays[0]!r}")
    rules = {name: from_json(kinds[name], options) for name, options in by_rule.items()}
    config: TrainConfig = from_json(TrainConfig, own, rules=rules)
    if missing := [name for name in config.rules if name not in by_rule]:
        raise UserError(f"missing key {missing[0]!r} in 'rules'")
    return config


def _resumed(given: dict[str, Any], of_rules: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
    """The stored configuration of the run that `given` names, with the changes that are allowed."""
    stored = read_config(given["model_path"] / CONFIG_FILE)
    _refuse_options_of_others({name: of_rules[name] for name in of_rules if name not in stored.rules}, stored.method)
    _refuse_changes(given, stored, given["model_path"])
    for name, options in of_rules.items():
        _refuse_changes(options, stored.rules[name], given["model_path"])
    return replace(stored, **given)


def _refuse_changes(given: Mapping[str, Any], stored: Any, model_path: Path) -> None:
    """Raise UserError where a `given` option would change the result of a run that was started with `stored` ones."""
    for option_field in described_fields(type(stored)):
        name, described = option_field.name, option_of(option_field)
        if name not in given or described.session or described.changeable:
            continue
        if given[name] != getattr(stored, name):
            raise UserError(
                f"{flag(name)} is {given[name]}, but the run in {model_path} was started with "
                f"{getattr(stored, name)}: leave the option out, or start another run with another -m"
            )


def _answering(answers: other_trainers.Answers) -> Callable[[Sequence[str], Collection[str]], list[str]]:
    """What takes options of other trainers out of a command line, with a line for each."""

    def without_foreign(argv: Sequence[str], known: Collection[str]) -> list[str]:
        kept, notes = other_trainers.answered(argv, answers, known)
        other_trainers.tell(notes, kept)
        return kept

    return without_foreign
