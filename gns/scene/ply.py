"""The model and the initial points as PLY files, in the layout that every 3DGS tool reads.

float32 does not hold the coordinates of a scene far from the origin. Its files are relative to an offset then, which
is a comment in the header and, for the file `a.ply`, in `a.offset.json`: {"offset": [x, y, z]}, to be added to x y z.
That a model is antialiased is a comment too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gns.errors import UserError
from gns.scene.frame import WORLD, LocalFrame
from gns.scene.gaussians import Gaussians
from gns.scene.points import PointCloud
from gns.utils.atomic_files import write_text
from gns.utils.ply_file import Table, header, read_comments, read_table, write_table

_FLOAT = "f4"
_ANTIALIASED = "antialiased"
_LARGEST = 1e15  # its square, and sums of such, still fit float32
_REST_COEFFICIENTS = {3 * ((degree + 1) ** 2 - 1): (degree + 1) ** 2 - 1 for degree in range(4)}  # 0, 9, 24, 45


def save_ply(gaussians: Gaussians, path: Path, before: Callable[[Path], object] = lambda whole: None) -> None:
    """Write the raw parameters as binary little-endian float32, atomically.

    Columns: x y z nx ny nz f_dc_0..2 f_rest_0..3K−1 opacity scale_0..2 rot_0..3. Normals are 0, opacity is the logit,
    scale the natural logarithm, rot (w, x, y, z) as it is stored, and f_rest runs through the coefficients of red, then
    of green, then of blue. A model with a frame has it in a comment. `before` is called with the whole file before it
    takes its place. Raises UserError where a value is not finite or `path` cannot be written.
    """
    gaussians, offset = gaussians.for_float32()
    columns = _columns(gaussians.sh_rest.shape[1])
    count = len(gaussians)
    values = [
        gaussians.means,
        torch.zeros_like(gaussians.means),  # normals
        gaussians.sh_dc.transpose(1, 2).flatten(1),
        gaussians.sh_rest.transpose(1, 2).flatten(1),  # [N, K, 3] → channel-major
        gaussians.opacity_logits[:, None],
        gaussians.log_scales,
        gaussians.quats,
    ]
    rows = torch.cat([block.detach().cpu().float() for block in values], dim=1).numpy()
    if not np.isfinite(rows).all():
        row, column = (int(index) for index in np.argwhere(~np.isfinite(rows))[0])
        raise UserError(
            f"the model's {columns[column]} is {rows[row, column]} in row {row}: it is not written to {path}"
        )
    dtype = np.dtype([(name, "<f4") for name in columns])
    table = np.ascontiguousarray(rows, dtype="<f4").view(dtype).reshape(count)
    frame = gaussians.frame
    comments = [] if frame == WORLD else [_comment("frame", *frame.offset, frame.scale)]
    if gaussians.antialiased:
        comments.append(_ANTIALIASED)
    _write_relative(path, table, offset, comments, before)


def load_ply(path: Path) -> Gaussians:
    """Read a model of any SH degree from 0 to 3 as float32; columns may come in any order, type and company.

    What was written relative to an offset is in the world again, with means of float64. Raises UserError naming the
    file, and the column where one is missing or holds a value that is not finite.
    """
    table = read_table(path)
    names = set(table.dtype.names or ())
    rest_count = sum(name.startswith("f_rest_") for name in names)
    if rest_count not in _REST_COEFFICIENTS:
        raise UserError(f"{path} has {rest_count} f_rest columns: degrees 0 to 3 have 0, 9, 24 or 45")
    coefficients = _REST_COEFFICIENTS[rest_count]
    for name in _columns(coefficients):
        if name not in names and name not in ("nx", "ny", "nz"):
            raise UserError(f"{path} has no column {name}: it is no Gaussian splatting model")

    def block(*wanted: str) -> torch.Tensor:
        return torch.from_numpy(np.stack([_finite_column(table, name, path) for name in wanted], axis=1))

    count = len(table)
    # Channel-major columns, [N, 3, K] in memory, become [N, K, 3].
    rest = block(*_numbered("f_rest", rest_count)) if rest_count else torch.zeros(count, 0)
    means, (offset, frame) = block("x", "y", "z"), _place(path)
    if offset != WORLD.offset:
        means = means.double() + torch.tensor(offset, dtype=torch.float64)
    return Gaussians(
        means=means,
        log_scales=block(*_numbered("scale", 3)),
        quats=block(*_numbered("rot", 4)),
        opacity_logits=block("opacity")[:, 0],
        sh_dc=block(*_numbered("f_dc", 3))[:, None, :],
        sh_rest=rest.reshape(count, 3, coefficients).transpose(1, 2),
        frame=frame,
        antialiased=_ANTIALIASED in read_comments(path),
    )


def gaussians_that_fit(size: int, sh_degree: int) -> int:
    """The largest number of Gaussians of this SH degree whose PLY file has at most `size` bytes.

    The comments of a scene that has a frame, less than 300 bytes, are not counted: the scene is not known yet.
    """
    properties = [(name, _FLOAT) for name in _columns((sh_degree + 1) ** 2 - 1)]
    row = 4 * len(properties)
    # The header counts too, and holds the number: at most one row more or less than this first guess.
    count = max(0, (size - len(header(properties, 0))) // row)
    while count and len(header(properties, count)) + count * row > size:
        count -= 1
    return count


def save_points(points: PointCloud, path: Path, offset: tuple[float, float, float] = WORLD.offset) -> None:
    """Write coloured points (x y z nx ny nz red green blue, normals 0), as 3DGS writes `input.ply`.

    Where float32 would not hold them they are written relative to an `offset`.
    """
    table = np.zeros(
        len(points.positions),
        dtype=[(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
        + [(name, "u1") for name in ("red", "green", "blue")],
    )
    for axis, name in enumerate(("x", "y", "z")):
        table[name] = points.positions[:, axis] - offset[axis]
    for channel, name in enumerate(("red", "green", "blue")):
        table[name] = points.colors[:, channel]
    _write_relative(path, table, offset)


def offset_path(path: Path) -> Path:
    """Where the offset of the PLY file `path` is, if it has one."""
    return path.with_suffix(".offset.json")


def _write_relative(
    path: Path,
    table: Table,
    offset: tuple[float, float, float],
    comments: Sequence[str] = (),
    before: Callable[[Path], object] = lambda whole: None,
) -> None:
    """Write a table whose positions lack `offset`, and note that."""
    if offset == WORLD.offset:
        offset_path(path).unlink(missing_ok=True)
        write_table(path, table, comments, before)
    else:
        write_text(offset_path(path), json.dumps({"offset": offset}) + "\n")
        write_table(path, table, [_comment("offset", *offset), *comments], before)


def _comment(word: str, *numbers: float) -> str:
    return " ".join([word, *map(repr, numbers)])


def _place(path: Path) -> tuple[tuple[float, float, float], LocalFrame]:
    """(what to add to the positions in the file, the frame to draw the model in), as its header says.

    Where another program has written the file anew and dropped the comments, the file beside it still has the offset.
    """
    noted = {word: numbers for comment in read_comments(path) for word, *numbers in [comment.split() or [""]]}
    try:
        frame = WORLD
        if "frame" in noted:
            *origin, scale = map(float, noted["frame"])
            frame = LocalFrame(_three(origin), scale)
        if "offset" in noted:
            return _three(noted["offset"]), frame
        if frame == WORLD and offset_path(path).is_file():
            return _three(json.loads(offset_path(path).read_text(encoding="utf-8"))["offset"]), frame
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} does not say where it lies: its offset or frame is damaged ({error})") from error
    return WORLD.offset, frame


def _three(numbers: Iterable[Any]) -> tuple[float, float, float]:
    x, y, z = map(float, numbers)
    return x, y, z


def _numbered(stem: str, count: int) -> list[str]:
    return [f"{stem}_{index}" for index in range(count)]


def _columns(coefficients: int) -> list[str]:
    """Column names in their order, for `coefficients` spherical harmonics above degree 0."""
    return [
        *("x", "y", "z", "nx", "ny", "nz"),
        *_numbered("f_dc", 3),
        *_numbered("f_rest", 3 * coefficients),
        "opacity",
        *_numbered("scale", 3),
        *_numbered("rot", 4),
    ]


def _finite_column(table: Table, name: str, path: Path) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes inf, and is refused here
        column: npt.NDArray[np.float32] = table[name].astype(np.float32)
    bad = ~np.isfinite(column)
    if bad.any():
        raise UserError(f"{path} has a value that is not finite in column {name}, row {int(bad.argmax())}")
    bad = np.abs(column) > _LARGEST
    if bad.any():
        row = int(bad.argmax())
        raise UserError(
            f"{path} has {column[row]:.3g} in column {name}, row {row}: no model has values above {_LARGEST:g}"
        )
    return column
