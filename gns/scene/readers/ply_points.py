"""Coloured points from a PLY file of any origin, binary or ASCII."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.utils.ply_file import read_table
from gns.utils.text import read_text, refuse_git_lfs_pointer

_MID_GREY = 128
_LONGEST_HEADER = 1000  # lines


def read_ply_points(path: Path) -> PointCloud:
    """Positions x y z and colours red green blue (0..255; mid-grey where absent). Other columns are ignored.

    Raises UserError where the file is damaged or lacks a position.
    """
    refuse_git_lfs_pointer(path)
    columns = _ascii_columns(path) if _is_ascii(path) else _binary_columns(path)
    if not {"x", "y", "z"} <= columns.keys():
        raise UserError(f"{path} has no columns x, y and z: it holds no points")
    positions = np.stack([columns[name].astype(np.float64) for name in ("x", "y", "z")], axis=1)
    colors = np.full(positions.shape, _MID_GREY, np.uint8)
    if {"red", "green", "blue"} <= columns.keys():
        values = np.stack([columns[name] for name in ("red", "green", "blue")], axis=1)
        colors = np.clip(values, 0, 255).astype(np.uint8)
    return PointCloud(positions, colors)


def _is_ascii(path: Path) -> bool:
    with path.open("rb") as file:
        return b"format ascii" in file.read(200)


def _binary_columns(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    table = read_table(path)
    return {name: table[name] for name in table.dtype.names or ()}


def _ascii_columns(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        lines = read_text(path).splitlines()
        end = [line.strip() for line in lines[:_LONGEST_HEADER]].index("end_header")
        names, count, skipped = _ascii_header(lines[:end])
        rows = lines[end + 1 + skipped : end + 1 + skipped + count]
        values = np.asarray([line.split()[: len(names)] for line in rows], np.float64)
        return dict(zip(names, values.reshape(count, len(names)).T, strict=True))
    except ValueError as error:
        raise UserError(f"{path} is cut short or no PLY file: write it again ({error})") from error


def _ascii_header(lines: list[str]) -> tuple[list[str], int, int]:
    """Names of the vertices' properties, how many vertices there are, and how many rows come before them."""
    names, counts, element = list[str](), dict[str, int](), ""
    for line in lines:
        match line.split():
            case ["element", element, number]:
                counts[element] = int(number)
            case ["property", "list", *_] if element == "vertex":
                raise ValueError("its vertices hold a list")
            case ["property", _, name] if element == "vertex":
                names.append(name)
    elements = list(counts)
    before = elements[: elements.index("vertex")] if "vertex" in counts else elements
    return names, counts.get("vertex", 0), sum(counts[element] for element in before)
