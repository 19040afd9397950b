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


def __getattr__(name: str) -> Any:
    # Not `from gns import api`: that would ask this function for `api`.
    if not name.startswith("_") and name in (api := import_module("gns.api")).__all__:
        return getattr(api, name)
    raise AttributeError(f"module 'gns' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *import_module("gns.api").__all__])
