"""Models as files of other programs: one format a file, chosen by the file's ending.

A new one is a file in this folder with a function (model, path), and its line in `EXPORTS`; with a function that reads
it again, and a line in `LOADERS`, its loss can be measured and `gns.load` knows it too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from gns.errors import UserError
from gns.exports.compressed_ply import load_compressed_ply, save_compressed_ply
from gns.exports.glb import load_glb, save_glb
from gns.exports.html import load_html, save_html
from gns.exports.sog import load_sog, save_sog
from gns.exports.splat import load_splat, save_splat
from gns.exports.spz import load_spz, save_spz
from gns.scene.gaussians import Gaussians
from gns.scene.ply import load_ply, save_ply

Export = Callable[[Gaussians, Path], None]
Loader = Callable[[Path], Gaussians]

EXPORTS: dict[str, Export] = {
    ".ply": save_ply,
    ".compressed.ply": save_compressed_ply,
    ".spz": save_spz,
    ".sog": save_sog,
    ".splat": save_splat,
    ".glb": save_glb,
    ".html": save_html,
}

LOADERS: dict[str, Loader] = {
    ".ply": load_ply,
    ".compressed.ply": load_compressed_ply,
    ".spz": load_spz,
    ".sog": load_sog,
    ".splat": load_splat,
    ".glb": load_glb,
    ".html": load_html,
}


def export(gaussians: Gaussians, path: Path) -> None:
    """Write a model in the format that the ending of `path` names. Raises UserError where none does or it fails."""
    ending = ending_of(path, EXPORTS)
    if ending is None:
        raise UserError(f"{path} names no format that models are written in: let it end in {one_of(EXPORTS)}")
    EXPORTS[ending](gaussians, path)


def load(path: Path) -> Gaussians:
    """Read a model in the format that the ending of `path` names. Raises UserError where none does or it is damaged."""
    ending = ending_of(path, LOADERS)
    if ending is None:
        raise UserError(f"{path} names no format that models are read from: let it end in {one_of(LOADERS)}")
    return LOADERS[ending](path)


def ending_of(path: Path, endings: Collection[str]) -> str | None:
    """The longest of `endings` that the name of `path` has, in whatever case; None for none."""
    found = [ending for ending in endings if path.name.lower().endswith(ending)]
    return max(found, key=len, default=None)


def one_of(endings: Collection[str]) -> str:
    """`.a, .b or .c`, for a sentence."""
    *first, last = endings
    return " or ".join([", ".join(first), last])
