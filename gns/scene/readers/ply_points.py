"""Coloured points from a PLY file of any origin, binary or ASCII."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.utils.ply_file import read_table

_MID_GREY = 128


def read_ply_points(path: Path) -> PointCloud:
    """Positions x y z and colours red green blue (0..255; mid-grey where absent). Other columns are ignored.

    Raises UserError where the file is damaged or lacks a position.
    """
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
        lines = path.read_text(encoding="utf-8").splitlines()
        end = lines.index("end_header")
        names, count = _ascii_header(lines[:end])
        values = np.asarray([line.split()[: len(names)] for line in lines[end + 1 : end + 1 + count]], np.float64)
        return dict(zip(names, values.reshape(count, len(names)).T, strict=True))
    except ValueError as error:
        raise UserError(f"{path} is cut short or no PLY file: write it again ({error})") from error


def _ascii_header(lines: list[str]) -> tuple[list[str], int]:
    """Names of the vertices' properties, and how many vertices there are. They are taken to be the first element."""
    names, count, element = [], 0, ""
    for line in lines:
        match line.split():
            case ["element", name, number]:
                element = name
                count = int(number) if name == "vertex" else count
            case ["property", _, name] if element == "vertex":
                names.append(name)
    return names, count
