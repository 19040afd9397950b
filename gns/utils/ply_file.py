"""PLY files with one element, `vertex`: a table with one named column a property."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.utils.atomic_files import atomic_file

Table = npt.NDArray[np.void]  # structured: one field a property

_TYPE_OF_PROPERTY = {
    **dict.fromkeys(("char", "int8"), "i1"),
    **dict.fromkeys(("uchar", "uint8"), "u1"),
    **dict.fromkeys(("short", "int16"), "i2"),
    **dict.fromkeys(("ushort", "uint16"), "u2"),
    **dict.fromkeys(("int", "int32"), "i4"),
    **dict.fromkeys(("uint", "uint32"), "u4"),
    **dict.fromkeys(("float", "float32"), "f4"),
    **dict.fromkeys(("double", "float64"), "f8"),
}
_PROPERTY_OF_TYPE = {"f4": "float", "f8": "double", "u1": "uchar", "i4": "int"}
_LONGEST_HEADER = 1 << 16
_SHOWN = 80  # characters of a header line that a sentence quotes
_DIGITS = 19  # a number of rows with more is no number of rows


def header(properties: Sequence[tuple[str, str]], count: int) -> bytes:
    """The header of a binary little-endian file with `count` rows of (name, numpy type code) properties."""
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    lines += [f"property {_PROPERTY_OF_TYPE[code]} {name}" for name, code in properties]
    return ("\n".join([*lines, "end_header"]) + "\n").encode()


def write_table(path: Path, table: Table) -> None:
    """Write the rows of a structured array with little-endian fields. Raises UserError where `path` is not writable."""
    dtype: np.dtype[Any] = table.dtype
    properties = [(name, dtype[name].str[1:]) for name in dtype.names or ()]
    with atomic_file(path) as file:
        file.write(header(properties, len(table)))
        file.write(np.ascontiguousarray(table).view(np.uint8).data)


def read_table(path: Path) -> Table:
    """The rows of the binary PLY file at `path`, fields named after its properties.

    Raises UserError where it is missing, no binary PLY, or its size is not what its header promises.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    dtype, count, start = _parse_header(content, path)
    expected = start + count * dtype.itemsize
    if len(content) != expected:
        raise UserError(
            f"{path} has {len(content)} bytes where its header promises {expected}: it is cut short or damaged"
        )
    return np.frombuffer(content, dtype=dtype, count=count, offset=start)


def count_rows(path: Path) -> int:
    """The number of rows that the header of the PLY file at `path` gives. Raises UserError as `read_table` does."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_HEADER)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return _parse_header(content, path)[1]


def _parse_header(content: bytes, path: Path) -> tuple[np.dtype[Any], int, int]:
    """(row type, number of rows, offset of the first row)."""
    end = content.find(b"end_header", 0, _LONGEST_HEADER)
    line_end = content.find(b"\n", end)
    if not content.startswith(b"ply") or end < 0 or line_end < 0:
        raise UserError(f"{path} is no PLY file: it has no header")
    count, order, columns = -1, "", list[tuple[str, str]]()
    for line in content[:end].decode("ascii", errors="replace").splitlines()[1:]:
        match line.split():
            case ["format", "binary_little_endian", _]:
                order = "<"
            case ["format", "binary_big_endian", _]:
                order = ">"
            case ["element", "vertex", number] if number.isdecimal() and len(number) < _DIGITS and count < 0:
                count = int(number)
            case ["property", kind, name] if kind in _TYPE_OF_PROPERTY and count >= 0:
                columns.append((name, order + _TYPE_OF_PROPERTY[kind]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise UserError(f"{path} has a header line that is not understood: {line.strip()[:_SHOWN]!r}")
    if count < 0 or not order or not columns:
        raise UserError(f"{path} names no format or no vertices: save it as a binary PLY file")
    if len({name for name, _ in columns}) < len(columns):
        raise UserError(f"{path} names a column twice")
    return np.dtype(columns), count, line_end + 1
