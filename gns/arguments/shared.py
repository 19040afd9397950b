"""What the options of several commands share: budgets and sizes as they are typed, the scene, the machine."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from gns.errors import UserError
from gns.utils.option_table import check, option
from gns.utils.quantities import parse_count, parse_size

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


JSON = option(
    "print what came of it to stdout as one JSON object, and everything else to stderr", group="machine", session=True
)


IMAGE_MEMORY = option(
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
    json: bool = field(default=False, metadata=JSON)

    def __post_init__(self) -> None:
        check(self)
        if re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device) is None:
            raise UserError(f"--device is {self.device!r}: choose auto, cpu, cuda or cuda:NUMBER")
        if self.threads > MOST_THREADS:
            raise UserError(f"--threads is {self.threads}: it must be at most {MOST_THREADS}")
