"""Models as files of other programs: one format a file, chosen by the file's ending.

A new one is a file in this folder with a function (model, path), and its line in `EXPORTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gns.errors import UserError
from gns.exports.splat import save_splat
from gns.scene.gaussians import Gaussians
from gns.scene.ply import save_ply

Export = Callable[[Gaussians, Path], None]

EXPORTS: dict[str, Export] = {
    ".ply": save_ply,
    ".splat": save_splat,
}


def export(gaussians: Gaussians, path: Path) -> None:
    """Write a model in the format that the ending of `path` names. Raises UserError where none does or it fails."""
    if path.suffix not in EXPORTS:
        raise UserError(f"{path} names no format that models are written in: let it end in {' or '.join(EXPORTS)}")
    EXPORTS[path.suffix](gaussians, path)
