"""Coloured points from a PLY file of any origin, binary or ASCII."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.scene.readers.ply_colors import colors_of
from gns.utils.ply_file import read_table

_FLOATS = ("float", "float32", "double", "float64")
_BYTES = ("uchar", "uint8", "char", "int8")


def read_ply_points(path: Path) -> PointCloud:
    """Positions x y z, and colours of any name and type (`colors_of`). Other columns are ignored.

    Raises UserError where the file is damaged or lacks a position.
    """
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
        lines = path.read_text(encoding="utf-8").splitlines()
        end = lines.index("end_header")
        types, count = _ascii_header(lines[:end])
        values = np.asarray([line.split()[: len(types)] for line in lines[end + 1 : end + 1 + count]], np.float64)
        columns = values.reshape(count, len(types)).T
        return {name: column.astype(types[name]) for name, column in zip(types, columns, strict=True)}
    except ValueError as error:
        raise UserError(f"{path} is cut short or no PLY file: write it again ({error})") from error


def _ascii_header(lines: list[str]) -> tuple[dict[str, type], int]:
    """Types of the vertices' properties by name, and how many vertices there are. They are taken to come first.

    Of the types only what colours depend on is kept: digits are worth more than a float holds.
    """
    types, count, element = dict[str, type](), 0, ""
    for line in lines:
        match line.split():
            case ["element", name, number]:
                element = name
                count = int(number) if name == "vertex" else count
            case ["property", _, name] if element == "vertex" and name in types:
                raise ValueError(f"it names the column {name} twice")
            case ["property", kind, name] if element == "vertex":
                types[name] = np.float64 if kind in _FLOATS else np.uint8 if kind in _BYTES else np.int64
    return types, count
