"""What a notebook needs, in one place: `import gns` hands these out, and imports this file when one is asked for."""

from __future__ import annotations

import warnings
from pathlib import Path

from gns.arguments import Config
from gns.exports import export
from gns.exports import load as _load_file
from gns.gaussian_renderer import RenderOutput, render
from gns.run_folder import RunFolder
from gns.scene import Camera, Gaussians, PointCloud, Scene, View
from gns.scene.readers import SceneOptions
from gns.scene.readers import read_scene as _read_scene
from gns.training import events
from gns.training.loop import train
from gns.training.state import TrainState

__all__ = [
    "Camera",
    "Config",
    "Gaussians",
    "PointCloud",
    "RenderOutput",
    "Scene",
    "TrainState",
    "View",
    "events",
    "load",
    "read_scene",
    "render",
    "save",
    "train",
]


def read_scene(
    folder: str | Path,
    *,
    images: str = "images",
    resolution: int = -1,
    hold_out: bool = True,
    white_background: bool = False,
    follow_links: bool = False,
    image_memory: int | None = None,
) -> Scene:
    """The scene in a folder of COLMAP, Blender or Nerfstudio; the arguments are the options of train.py.

    `hold_out` keeps every eighth photo for scores (`--eval`), or those that the scene names. Decoded photos take at
    most `image_memory` bytes of main memory (default: half of what is free); of a scene that takes more the pixels of
    a view are decoded whenever they are asked for, and who needs them several times asks for `view.decoded()`. What
    looks wrong is a Python warning. Raises UserError for what cannot be read.
    """
    options = SceneOptions(
        images=images,
        resolution=resolution,
        eval=hold_out,
        white_background=white_background,
        follow_links=follow_links,
        image_memory=image_memory,
    )
    return _read_scene(Path(folder), options, _warn)


def _warn(text: str) -> None:
    """Hand on what a reader doubts; its other lines are for the terminal."""
    if text.startswith("warning: "):
        warnings.warn(text.removeprefix("warning: "), stacklevel=4)


def load(path: str | Path) -> Gaussians:
    """The model in a file that `save` can write, or the newest one in the output folder of a training.

    Raises UserError where there is none or it is damaged.
    """
    path = Path(path)
    return RunFolder.open(path).load_model() if path.is_dir() else _load_file(path)


def save(gaussians: Gaussians, path: str | Path) -> None:
    """Write a model in the format that the ending of `path` names: `.ply` is what every viewer of the family opens.

    `gns.exports` lists the formats. Raises UserError where the ending names none, or writing fails.
    """
    export(gaussians, Path(path))
