"""The options of `gns export` and `gns view`, apart from the code that needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gns.arguments import LARGEST_PORT, FileSize, MachineConfig
from gns.errors import UserError
from gns.utils.option_table import build, given_options, option
from gns.utils.quantities import parse_count, parse_size


def _size(text: str) -> int | FileSize:
    try:
        size = parse_size(text)
        return parse_count(text) if size is None else FileSize(size)
    except ValueError as error:
        raise UserError(f"--budget: {error}") from None


@dataclass(frozen=True, kw_only=True)
class ModelConfig(MachineConfig):
    """Which model a command takes. `iteration` −1 is the newest saved one."""

    model_path: Path = field(
        metadata=option(
            "output folder of a training, or a file of a model; -m may be left out",
            group="model",
            short="-m",
            metavar="MODEL",
        )
    )
    iteration: int = field(default=-1, metadata=option("saved iteration, -1: the newest", group="model", at_least=-1))
    source_path: Path | None = field(
        default=None,
        metadata=option("folder of the scene, where it has moved since", group="model", short="-s", metavar="SCENE"),
    )


@dataclass(frozen=True, kw_only=True)
class ExportConfig(ModelConfig):
    """What `gns export` writes, and how much of the model."""

    output: tuple[Path, ...] = field(
        metadata=option(
            "files to write; their endings name the formats; -o may be left out",
            group="files",
            short="-o",
            metavar="FILE",
        )
    )
    score: bool = field(
        default=True,
        metadata=option("say what each file loses on the held-out photos, where they are there", group="files"),
    )
    budget: str | None = field(
        default=None,
        metadata=option(
            "keep so many Gaussians, those that contribute most to the photos: 100k, or 20MB of PLY",
            group="less of the model",
            metavar="SIZE",
        ),
    )
    sh_degree: int | None = field(
        default=None,
        metadata=option("drop the harmonics above this degree, 0 to 3", group="less of the model", at_least=0),
    )
    crop: tuple[float, ...] = field(
        default=(),
        metadata=option(
            "keep the box between two corners in the scene's coordinates: x y z x y z",
            group="less of the model",
        ),
    )

    def __post_init__(self) -> None:
        MachineConfig.__post_init__(self)
        if self.budget is not None:
            _size(self.budget)
        if len(self.crop) not in (0, 6):
            raise UserError(f"--crop has {len(self.crop)} numbers: give the least x y z and the largest x y z")
        if self.crop and any(low >= high for low, high in zip(self.crop[:3], self.crop[3:], strict=True)):
            raise UserError("--crop is empty: give the least x y z first, and then the largest x y z")

    @property
    def size(self) -> int | FileSize | None:
        """What `budget` says: Gaussians, or bytes of PLY."""
        return None if self.budget is None else _size(self.budget)


@dataclass(frozen=True, kw_only=True)
class ViewConfig(ModelConfig):
    """How `gns view` shows a model."""

    port: int = field(default=8080, metadata=option("of the server on this machine", group="viewer", at_least=1))
    page: bool = field(
        default=False,
        metadata=option("show the page that gns export writes, instead of the viewer of the extra", group="viewer"),
    )
    open: bool = field(default=True, metadata=option("open it in the browser", group="viewer"))

    def __post_init__(self) -> None:
        MachineConfig.__post_init__(self)
        if self.port > LARGEST_PORT:
            raise UserError(f"--port is {self.port}: it must be at most {LARGEST_PORT}")


def parse_export(argv: Sequence[str], *, prog: str = "gns export") -> ExportConfig:
    """The configuration that a command line asks for; `MODEL FILE…` may stand first, alone. Raises UserError."""
    words = list(argv)
    alone = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    if alone:
        words = ["-m", words[0], *(["-o", *words[1:alone]] if alone > 1 else []), *words[alone:]]
    description = "Write a trained model as other programs read it: " + ", ".join(_ENDINGS) + "."
    config: ExportConfig = build(ExportConfig, given_options([ExportConfig], words, prog=prog, description=description))
    return config


def parse_view(argv: Sequence[str], *, prog: str = "gns view") -> ViewConfig:
    """The configuration that a command line asks for; `MODEL` may stand first, alone. Raises UserError."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "-m")
    description = "Show a trained model in the browser."
    config: ViewConfig = build(ViewConfig, given_options([ViewConfig], words, prog=prog, description=description))
    return config


# As `gns.exports.EXPORTS` lists them, written again: to look there would make --help wait for torch.
_ENDINGS = (".ply", ".compressed.ply", ".spz", ".sog", ".splat", ".glb", ".html")
