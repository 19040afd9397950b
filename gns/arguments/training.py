"""What a training does (`Config`), and what train.py needs to know besides (`TrainConfig`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gns.arguments.shared import IMAGE_MEMORY, MachineConfig, SceneConfig, parse_budget
from gns.errors import UserError
from gns.rules import (
    DEFAULT_METHOD,
    DEFAULT_PRESET,
    METHODS,
    PRESETS,
    SCHEDULES,
    TEST_ITERATIONS,
    Refinements,
    optimisation_of,
)
from gns.utils.option_table import check, flag, option

SMALLEST_BUDGET = 100
LARGEST_PORT = 2**16 - 1


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
            + "; the eleven options that follow go before it",
            group="training",
            choices=PRESETS.keys(),
        ),
    )
    far_points: bool | None = field(
        default=None,
        metadata=option(
            "start with points far away too, where photos show what no point explains, such as sky", group="training"
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
    squared_error: bool | None = field(
        default=None,
        metadata=option(
            "from the middle of the run on (with --growth-share: where growth ends) learn from squared errors, which "
            "PSNR counts, not absolute ones",
            group="training",
        ),
    )
    dense_model: float | None = field(
        default=None,
        metadata=option("times the number of Gaussians that the method's selection begins with", group="training"),
    )
    error_growth: bool | None = field(
        default=None,
        metadata=option(
            "grow where renderings are unlike the photos (1 - SSIM), not where photos have edges", group="training"
        ),
    )
    growth_share: float | None = field(
        default=None,
        metadata=option("share of the run in which the model grows; published: 0.5", group="training"),
    )
    growth_interval: int | None = field(
        default=None,
        metadata=option(
            "least iterations between two events of growth; a shorter run has them closer together than every 100",
            group="training",
            at_least=1,
        ),
    )
    reset_epochs: float | None = field(
        default=None,
        metadata=option(
            "how often each photo is seen from one reset of all opacities to the next, and to the end of growth, at "
            "least: resets that leave less time are left out; published: 0",
            group="training",
        ),
    )
    weight_averaging: float | None = field(
        default=None,
        metadata=option(
            "share of the run, at its end, over whose steps of the optimiser the model is the mean; published: 0",
            group="training",
        ),
    )
    sh_decay: float | None = field(
        default=None,
        metadata=option(
            "share of the colour's change with the direction that each step of the optimiser takes away, for photos to "
            "bring it back; published: 0",
            group="training",
        ),
    )
    exposure: bool = field(
        default=False,
        metadata=option(
            "learn an exposure and white balance for each photo: for captures whose photos differ in them",
            group="training",
        ),
    )
    image_memory: int | None = field(default=None, metadata=IMAGE_MEMORY)
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
        if not 0.1 <= self.refinements.growth_share <= 0.7:  # beyond it a run would end before its selection
            raise UserError(f"--growth-share is {self.growth_share}: it must be from 0.1 to 0.7")
        if not 0 <= self.refinements.reset_epochs <= 999:  # hardly a run sees its photos so often
            raise UserError(f"--reset-epochs is {self.reset_epochs}: it must be from 0 to 999")
        if not 0 <= self.refinements.weight_averaging <= 0.2:  # a mean over more is of a model on its way
            raise UserError(f"--weight-averaging is {self.weight_averaging}: it must be from 0 to 0.2")
        if not 0 <= self.refinements.sh_decay <= 0.01:  # at more hardly anything is left of it
            raise UserError(f"--sh-decay is {self.sh_decay}: it must be from 0 to 0.01")
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
        default=None,
        metadata=option(
            "checkpoint file to start a new run from; it may be of another method", group="saving and testing"
        ),
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
