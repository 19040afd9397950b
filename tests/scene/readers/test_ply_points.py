"""Colours of points by type, range and name, in every encoding of PLY."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gns.errors import UserError
from gns.scene.gaussians import SH_C0
from gns.scene.points import PointCloud
from gns.scene.readers.ply_points import read_ply_points

ENCODINGS = ["ascii", "binary_little_endian", "binary_big_endian"]
POSITIONS = [[0.5, -1.25, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.5]]
LEVELS = [[255, 0, 128], [1, 51, 254], [0, 0, 3]]  # what every file below means

Types = dict[str, str]
CODES = {
    "uchar": "B",
    "uint8": "B",
    "char": "b",
    "short": "h",
    "ushort": "H",
    "uint16": "H",
    "int": "i",
    "uint": "I",
    "float": "f",
    "float32": "f",
    "double": "d",
}


def write(path: Path, encoding: str, kinds: Types, rows: Sequence[Sequence[float]]) -> Path:
    """A PLY file with one property for each of `kinds`, name to type."""
    header = ["ply", f"format {encoding} 1.0", "comment made by a test", f"element vertex {len(rows)}"]
    header += [f"property {kind} {name}" for name, kind in kinds.items()]
    if encoding == "ascii":
        body = "".join(" ".join(map(repr, row)) + "\n" for row in rows).encode()
    else:
        order = "<" if encoding == "binary_little_endian" else ">"
        codes = [CODES[kind] for kind in kinds.values()]
        numbers = [
            [value if code in "fd" else int(value) for value, code in zip(row, codes, strict=True)] for row in rows
        ]
        body = b"".join(struct.pack(order + "".join(codes), *row) for row in numbers)
    path.write_bytes("\n".join([*header, "end_header", ""]).encode() + body)
    return path


def read(
    path: Path, encoding: str, names: tuple[str, ...], kind: str, colors: Sequence[Sequence[float]]
) -> npt.NDArray[np.uint8]:
    kinds = {**dict.fromkeys("xyz", "float"), **dict.fromkeys(names, kind)}
    rows = [[*position, *color] for position, color in zip(POSITIONS, colors, strict=True)]
    cloud: PointCloud = read_ply_points(write(path / "points.ply", encoding, kinds, rows))
    assert cloud.positions.tolist() == POSITIONS
    return cloud.colors


RGB = ("red", "green", "blue")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "names",
    [RGB, ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"), ("R", "G", "B"), ("Red", "Green", "Blue")],
)
def test_colours_have_many_names(tmp_path: Path, encoding: str, names: tuple[str, ...]) -> None:
    assert read(tmp_path, encoding, names, "uchar", LEVELS).tolist() == LEVELS


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("kind", "scale"),
    [
        *((kind, 1) for kind in ("uchar", "uint8", "short", "ushort", "int", "uint", "float", "double")),
        *((kind, 1 / 255) for kind in ("float", "float32", "double")),
        *((kind, 257) for kind in ("ushort", "uint16", "int", "uint", "float", "double")),
    ],
)
def test_colours_have_many_types(tmp_path: Path, encoding: str, kind: str, scale: float) -> None:
    colors = (np.array(LEVELS) * scale).tolist()
    assert read(tmp_path, encoding, RGB, kind, colors).tolist() == LEVELS


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bytes_are_never_scaled(tmp_path: Path, encoding: str) -> None:
    """A night scene of levels 0 and 1 stays one."""
    dark = [[1, 0, 1], [0, 1, 0], [1, 1, 1]]
    assert read(tmp_path, encoding, RGB, "uchar", dark).tolist() == dark


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_signed_bytes_are_levels_as_well(tmp_path: Path, encoding: str) -> None:
    signed = [[level - 256 if level > 127 else level for level in row] for row in LEVELS]
    assert read(tmp_path, encoding, RGB, "char", signed).tolist() == LEVELS


def test_floats_beyond_their_range_are_cut_off(tmp_path: Path) -> None:
    colors = [[1.06, -0.02, 0.5], [0.0, 1.0, 0.25], [0.75, 0.1, 0.9]]
    expected = [[255, 0, 128], [0, 255, 64], [191, 26, 230]]
    assert read(tmp_path, "ascii", RGB, "float", colors).tolist() == expected


def test_what_is_no_number_is_grey(tmp_path: Path) -> None:
    colors = [[float("nan"), 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    found = read(tmp_path, "binary_little_endian", RGB, "float", colors)
    assert found.tolist() == [[128, 0, 255], [0, 255, 0], [255, 0, 0]]


def test_a_model_gives_the_colours_of_its_harmonics(tmp_path: Path) -> None:
    harmonics = ((np.array(LEVELS) / 255 - 0.5) / SH_C0).tolist()
    found = read(tmp_path, "binary_little_endian", ("f_dc_0", "f_dc_1", "f_dc_2"), "float", harmonics)
    assert found.tolist() == LEVELS


@pytest.mark.parametrize("names", [(), ("red", "green"), ("intensity",)])
def test_no_colours_are_grey(tmp_path: Path, names: tuple[str, ...]) -> None:
    found = read(tmp_path, "ascii", names, "uchar", [[7.0] * len(names)] * 3)
    assert (found == 128).all()


def test_alpha_and_normals_are_passed_over(tmp_path: Path) -> None:
    kinds = {**dict.fromkeys(("x", "y", "z", "nx", "ny", "nz"), "float"), **dict.fromkeys((*RGB, "alpha"), "uchar")}
    rows = [[*position, 0.0, 0.0, 1.0, *level, 9] for position, level in zip(POSITIONS, LEVELS, strict=True)]
    for encoding in ENCODINGS:
        assert read_ply_points(write(tmp_path / "a.ply", encoding, kinds, rows)).colors.tolist() == LEVELS


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ply", "ascii", dict.fromkeys("xyz", "float"), POSITIONS)
    path.write_text(path.read_text().replace("property float z", "property float z\nproperty float z"))
    with pytest.raises(UserError, match=r"a\.ply .*column z twice"):
        read_ply_points(path)
