"""The model as a PLY file: layout byte by byte, round trips, and refusals."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gns.errors import UserError
from gns.scene import Gaussians, PointCloud
from gns.scene.ply import gaussians_that_fit, load_ply, save_ply, save_points
from gns.testing.examples import random_gaussians
from gns.utils.ply_file import Table, count_rows, read_table, write_table

DEGREES = [0, 1, 2, 3]


def with_column(table: Table, name: str, values: npt.NDArray[np.float64]) -> Table:
    """A copy of `table` in which one column has other values."""
    changed: Table = table.copy()
    changed[name] = values
    return changed


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("count", [0, 1, 5])
def test_round_trip_keeps_every_bit(tmp_path: Path, degree: int, count: int) -> None:
    gaussians = random_gaussians(count, degree)
    save_ply(gaussians, tmp_path / "model.ply")
    loaded = load_ply(tmp_path / "model.ply")
    assert loaded.sh_degree == degree
    assert count_rows(tmp_path / "model.ply") == count
    for (name, expected), (_, values) in zip(gaussians.named_tensors(), loaded.named_tensors(), strict=True):
        assert values.dtype == torch.float32, name
        assert torch.equal(values, expected), name


def test_layout_is_that_of_3dgs(tmp_path: Path) -> None:
    # One Gaussian whose parameters count 0, 1, 2, … in the order of the fields of Gaussians.
    sizes = [(3,), (3,), (4,), (), (1, 3), (15, 3)]
    starts = [0, 3, 6, 10, 11, 14]
    gaussians = Gaussians(
        *(
            torch.arange(start, start + int(np.prod(size)), dtype=torch.float32).reshape(1, *size)
            for start, size in zip(starts, sizes, strict=True)
        )
    )
    save_ply(gaussians, tmp_path / "model.ply")
    header, _, body = (tmp_path / "model.ply").read_bytes().partition(b"end_header\n")

    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{index}" for index in range(45)]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    lines = [
        "ply",
        "format binary_little_endian 1.0",
        "element vertex 1",
        *(f"property float {name}" for name in names),
    ]
    assert header.decode().splitlines() == lines

    assert len(body) == 62 * 4
    values = dict(zip(names, struct.unpack("<62f", body), strict=True))
    assert [values[name] for name in ("x", "y", "z")] == [0, 1, 2]
    assert [values[name] for name in ("nx", "ny", "nz")] == [0, 0, 0]
    assert [values[f"scale_{axis}"] for axis in range(3)] == [3, 4, 5]
    assert [values[f"rot_{part}"] for part in range(4)] == [6, 7, 8, 9]
    assert values["opacity"] == 10
    assert [values[f"f_dc_{channel}"] for channel in range(3)] == [11, 12, 13]
    # sh_rest[0, k, c] counts 14 + 3k + c; the file holds 15 red, then 15 green, then 15 blue.
    for channel in range(3):
        for k in range(15):
            assert values[f"f_rest_{15 * channel + k}"] == 14 + 3 * k + channel


def test_model_that_is_being_trained_is_saved(tmp_path: Path) -> None:
    gaussians = random_gaussians(4, 1)
    for _, values in gaussians.named_tensors():
        values.requires_grad_()
    save_ply(gaussians, tmp_path / "model.ply")
    assert torch.equal(load_ply(tmp_path / "model.ply").means, gaussians.means.detach())


def test_other_column_orders_types_and_companions_are_read(tmp_path: Path) -> None:
    gaussians = random_gaussians(3, 2)
    save_ply(gaussians, tmp_path / "model.ply")
    table = read_table(tmp_path / "model.ply")
    names = [name for name in reversed(table.dtype.names or ()) if name not in ("nx", "ny", "nz")]
    other = np.zeros(3, dtype=[("confidence", "<i4"), *((name, "<f8") for name in names), ("red", "u1")])
    for name in names:
        other[name] = table[name]
    write_table(tmp_path / "other.ply", other)
    loaded = load_ply(tmp_path / "other.ply")
    for (name, expected), (_, values) in zip(gaussians.named_tensors(), loaded.named_tensors(), strict=True):
        assert torch.equal(values, expected), name


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    save_ply(random_gaussians(3, 0), tmp_path / "model.ply")
    table = read_table(tmp_path / "model.ply")
    content = (tmp_path / "model.ply").read_bytes()
    header = content[: content.index(b"end_header\n") + 11].replace(b"little", b"big")
    (tmp_path / "big.ply").write_bytes(header + table.astype([(n, ">f4") for n in table.dtype.names or ()]).tobytes())
    assert torch.equal(load_ply(tmp_path / "big.ply").quats, load_ply(tmp_path / "model.ply").quats)


@pytest.mark.parametrize("column", ["x", "opacity", "rot_3", "scale_0", "f_dc_2"])
def test_missing_column_is_named(tmp_path: Path, column: str) -> None:
    save_ply(random_gaussians(3, 1), tmp_path / "model.ply")
    table = read_table(tmp_path / "model.ply")
    kept = [name for name in table.dtype.names or () if name != column]
    fewer = np.zeros(3, dtype=[(name, "<f4") for name in kept])
    write_table(tmp_path / "fewer.ply", fewer)
    with pytest.raises(UserError, match=rf"fewer\.ply has no column {column}"):
        load_ply(tmp_path / "fewer.ply")


def test_number_of_sh_columns_must_belong_to_a_degree(tmp_path: Path) -> None:
    save_ply(random_gaussians(3, 1), tmp_path / "model.ply")
    names = [name for name in read_table(tmp_path / "model.ply").dtype.names or () if name != "f_rest_8"]
    write_table(tmp_path / "fewer.ply", np.zeros(3, dtype=[(name, "<f4") for name in names]))
    with pytest.raises(UserError, match="has 8 f_rest columns"):
        load_ply(tmp_path / "fewer.ply")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
@pytest.mark.parametrize("column", ["y", "f_rest_4", "opacity", "rot_0"])
def test_value_that_is_not_finite_is_named(tmp_path: Path, column: str, bad: float) -> None:
    save_ply(random_gaussians(3, 1), tmp_path / "model.ply")
    table = read_table(tmp_path / "model.ply")
    wide = table.astype([(name, "<f8") for name in table.dtype.names or ()])  # 1e39 is finite here, but not in float32
    write_table(tmp_path / "bad.ply", with_column(wide, column, np.array([0, bad, 0])))
    with pytest.raises(UserError, match=rf"bad\.ply .* not finite in column {column}, row 1"):
        load_ply(tmp_path / "bad.ply")


@pytest.mark.parametrize("bad", [1e30, -1e30, 1.1e15])
@pytest.mark.parametrize("column", ["x", "f_dc_1", "f_rest_4"])
def test_values_that_would_overflow_are_refused(tmp_path: Path, column: str, bad: float) -> None:
    save_ply(random_gaussians(4, 1), tmp_path / "model.ply")
    table = read_table(tmp_path / "model.ply")
    write_table(tmp_path / "model.ply", with_column(table, column, np.array([0, 1e15, bad, 0])))
    with pytest.raises(
        UserError, match=rf"model\.ply has .* in column {column}, row 2: no model has values above 1e\+15"
    ):
        load_ply(tmp_path / "model.ply")


@pytest.mark.parametrize("cut", [-1, -100, 1])
def test_wrong_byte_count_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.ply"
    save_ply(random_gaussians(3, 1), path)
    content = path.read_bytes()
    path.write_bytes(content[:cut] if cut < 0 else content + b"\0" * cut)
    with pytest.raises(UserError, match=r"model\.ply has \d+ bytes where its header promises \d+"):
        load_ply(path)


def test_header_with_an_absurd_count_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.ply"
    save_ply(random_gaussians(3, 0), path)
    path.write_bytes(path.read_bytes().replace(b"vertex 3", b"vertex 99999999999999"))
    with pytest.raises(UserError, match="cut short or damaged"):
        load_ply(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no PLY file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(300), "no PLY file"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "not understood"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nproperty list uchar int x\nend_header\n", "list"),
        (
            b"ply\nformat binary_little_endian 1.0\nelement vertex " + b"9" * 5000 + b"\nend_header\n",
            "'element vertex 9+'$",
        ),
        (
            b"ply\nformat binary_little_endian 1.0\nelement vertex -1\nend_header\n",
            "not understood: 'element vertex -1'",
        ),
        (b"ply\nformat binary_little_endian 1.0\nend_header\n", "names no format or no vertices"),
        (
            b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nproperty float x\nproperty float x\nend_header\n",
            "a column twice",
        ),
    ],
)
def test_what_is_no_binary_ply_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "model.ply").write_bytes(content)
    with pytest.raises(UserError, match=rf"model\.ply.*{sentence}"):
        load_ply(tmp_path / "model.ply")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*model\.ply"):
        load_ply(tmp_path / "model.ply")


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("size", [10_000, 99_999, 1_000_000])
def test_budget_in_bytes_is_filled_and_kept(tmp_path: Path, degree: int, size: int) -> None:
    count = gaussians_that_fit(size, degree)
    for extra, fits in ((0, True), (1, False)):
        save_ply(random_gaussians(count + extra, degree), tmp_path / "model.ply")
        assert ((tmp_path / "model.ply").stat().st_size <= size) is fits


def test_nothing_fits_into_less_than_a_header() -> None:
    assert gaussians_that_fit(100, 3) == 0


def test_points_are_written_as_input_ply(tmp_path: Path) -> None:
    points = PointCloud(
        positions=np.array([[1.0, -2.0, 3.5], [0.0, 0.25, -1.0]]),
        colors=np.array([[255, 0, 7], [1, 2, 3]], dtype=np.uint8),
    )
    save_points(points, tmp_path / "input.ply")
    table = read_table(tmp_path / "input.ply")
    assert table.dtype.names == ("x", "y", "z", "nx", "ny", "nz", "red", "green", "blue")
    assert table[0].tolist() == (1.0, -2.0, 3.5, 0, 0, 0, 255, 0, 7)
    assert table[1].tolist() == (0.0, 0.25, -1.0, 0, 0, 0, 1, 2, 3)
    assert b"property uchar red" in (tmp_path / "input.ply").read_bytes()
