"""Compact 3D Gaussian Splatting of exactly the size you ask for.

    scene = gns.read_scene("my-scene")
    state = gns.train(scene, gns.Config(final_budget=100_000))
    gns.save(state.gaussians, "model.ply")

docs/python.md tells more. Importing this package imports nothing else: what `gns.api` lists comes at its first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gns.api import *  # noqa: F403

__version__ = "0.1.0"


# What `gns.api` lists, written again: to look there would import it whenever Python asks for a module of this package.
_FRONT_DOOR = (
    *("Camera", "Config", "Gaussians", "PointCloud", "RenderOutput", "Scene", "TrainState", "View", "events"),
    *("load", "read_scene", "render", "save", "train"),
)


def __getattr__(name: str) -> Any:
    if name in _FRONT_DOOR:
        return getattr(import_module("gns.api"), name)
    raise AttributeError(f"module 'gns' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FRONT_DOOR])
