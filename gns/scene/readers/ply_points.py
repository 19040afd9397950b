"""Coloured points from a PLY file of any origin, binary or ASCII."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.scene.readers.ply_colors import colors_of
from gns.utils.ply_file import read_table
from gns.utils.text import read_text, refuse_git_lfs_pointer

_FLOATS = ("float", "float32", "double", "float64")
_BYTES = ("uchar", "uint8", "char", "int8")
_LONGEST_HEADER = 1000  # lines


def read_ply_points(path: Path) -> PointCloud:
    """Positions x y z, and colours of any name and type (`colors_of`). Other columns are ignored.

    Raises UserError where the file is damaged or lacks a position.
    """
    refuse_git_lfs_pointer(path)
    columns = _ascii_columns(path) if _is_ascii(path) else _binary_columns(path)
    if not {"x", "y", "z"} <= columns.keys():
        raise UserError(f"{path} has no columns x, y and z: it holds no points")
    positions = np.stack([columns[name].astype(np.float64) for name in ("x", "y", "z")], axis=1)
    return PointCloud(positions, colors_of(columns, len(positions)))


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
        types, count, skipped = _ascii_header(lines[:end])
        rows = lines[end + 1 + skipped : end + 1 + skipped + count]
        values = np.asarray([line.split()[: len(types)] for line in rows], np.float64)
        columns = values.reshape(count, len(types)).T
        return {name: column.astype(types[name]) for name, column in zip(types, columns, strict=True)}
    except ValueError as error:
        raise UserError(f"{path} is cut short or no PLY file: write it again ({error})") from error


def _ascii_header(lines: list[str]) -> tuple[dict[str, type], int, int]:
    """Types of the vertices' properties by name, how many vertices there are, and how many rows come before them.

    Of the types only what colours depend on is kept: digits are worth more than a float holds.
    """
    types, counts, element = dict[str, type](), dict[str, int](), ""
    for line in lines:
        match line.split():
            case ["element", element, number]:
                counts[element] = int(number)
            case ["property", "list", *_] if element == "vertex":
                raise ValueError("its vertices hold a list")
            case ["property", _, name] if element == "vertex" and name in types:
                raise ValueError(f"it names the column {name} twice")
            case ["property", kind, name] if element == "vertex":
                types[name] = np.float64 if kind in _FLOATS else np.uint8 if kind in _BYTES else np.int64
    elements = list(counts)
    before = elements[: elements.index("vertex")] if "vertex" in counts else elements
    return types, counts.get("vertex", 0), sum(counts[element] for element in before)
