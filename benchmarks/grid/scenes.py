"""Names of scenes, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from gns.arguments import SceneConfig
from gns.commands.test import find_scene, read_budgets
from gns.errors import UserError

MOST_WIDE = 1600  # pixels, of photos that are read with -r -1
_PHOTOS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class SceneEntry:
    """A scene of the table."""

    name: str
    folder: str  # below one of the data folders
    options: tuple[str, ...] = ()  # of train.py
    published_budget: int | None = None  # Gaussians, in the paper's table


def read_scenes(table: Path, budgets: Path) -> dict[str, SceneEntry]:
    """The scenes of a table such as scenes.txt, and those of a list such as budget.txt, by name. Raises UserError."""
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {table} ({error.strerror}): name a table of scenes with --scene-table") from None
    scenes = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) < 2:
            raise UserError(f"{table}, line {number}: expected 'name folder options', found {line!r}")
        scenes[words[0]] = SceneEntry(words[0], words[1], tuple(words[2:]))
    for listed in read_budgets(budgets):
        scenes[listed.name] = SceneEntry(listed.name, listed.name, ("-i", listed.images), listed.budget)
    return scenes


def located(scene: SceneEntry, roots: Sequence[Path]) -> Path | None:
    """The folder of a scene below the first of `roots` that has it."""
    return next((folder for root in roots if (folder := find_scene(root, scene.folder))), None)


def photo_pixels(folder: Path, config: SceneConfig) -> int:
    """About how many pixels a photo of the scene has as it is trained on; 0 where no photo is found."""
    photos = folder / config.images
    within = photos if photos.is_dir() else folder
    first = next((path for path in within.rglob("*") if path.suffix.lower() in _PHOTOS), None)
    if first is None:
        return 0
    with Image.open(first) as image:  # reads the head of the file alone
        width, height = image.size
    if config.resolution in (1, 2, 4, 8):
        scale = 1 / config.resolution
    else:
        scale = min(1.0, (MOST_WIDE if config.resolution == -1 else config.resolution) / width)
    return int(scale * width * scale * height)
