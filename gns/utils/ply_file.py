"""Binary PLY files: their element `vertex` is a table with one named column a property. Others are skipped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.utils.atomic_files import atomic_file
from gns.utils.regular_files import refuse_special_file

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


def header(properties: Sequence[tuple[str, str]], count: int, comments: Sequence[str] = ()) -> bytes:
    """The header of a binary little-endian file with `count` rows of (name, numpy type code) properties."""
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {comment}" for comment in comments)]
    lines += [f"element vertex {count}"]
    lines += [f"property {_PROPERTY_OF_TYPE[code]} {name}" for name, code in properties]
    return ("\n".join([*lines, "end_header"]) + "\n").encode()


def write_table(
    path: Path, table: Table, comments: Sequence[str] = (), before: Callable[[Path], object] = lambda whole: None
) -> None:
    """Write the rows of a structured array with little-endian fields, and `comments`, lines of ASCII, in the header.

    `before` is what `atomic_file` calls. Raises UserError where `path` is not writable.
    """
    dtype: np.dtype[Any] = table.dtype
    properties = [(name, dtype[name].str[1:]) for name in dtype.names or ()]
    with atomic_file(path, before) as file:
        file.write(header(properties, len(table), comments))
        file.write(np.ascontiguousarray(table).view(np.uint8).data)


def read_table(path: Path) -> Table:
    """The rows of the binary PLY file at `path`, fields named after its properties.

    Raises UserError where it is missing, no binary PLY, or its size is not what its header promises.
    """
    try:
        refuse_special_file(path)
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    layout = _parse_header(content, path)
    expected = layout.start + layout.count * layout.row.itemsize
    if len(content) < expected or (layout.is_last and len(content) > expected):
        raise UserError(
            f"{path} has {len(content)} bytes where its header promises {expected}: it is cut short or damaged"
        )
    return np.frombuffer(content, dtype=layout.row, count=layout.count, offset=layout.start)


def read_comments(path: Path) -> list[str]:
    """The comments in the header of the PLY file at `path`. Raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_HEADER)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    lines = content[: content.find(b"end_header")].decode("ascii", errors="replace").splitlines()
    return [line.removeprefix("comment").strip() for line in lines if line.startswith("comment ")]


def count_rows(path: Path) -> int:
    """The number of rows that the header of the PLY file at `path` gives. Raises UserError as `read_table` does."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_HEADER)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return _parse_header(content, path).count


@dataclass(frozen=True)
class _Layout:
    """Where the vertices lie in a file."""

    row: np.dtype[Any]
    count: int
    start: int  # offset of the first row
    is_last: bool  # whether nothing follows the rows


@dataclass
class _Element:
    """A table of the header."""

    name: str
    count: int
    columns: list[tuple[str, str]] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)  # the lines of the properties whose length differs by row


def _parse_header(content: bytes, path: Path) -> _Layout:
    end = content.find(b"end_header", 0, _LONGEST_HEADER)
    line_end = content.find(b"\n", end)
    if not content.startswith(b"ply") or end < 0 or line_end < 0:
        raise UserError(f"{path} is no PLY file: it has no header")
    order, elements = "", list[_Element]()
    for line in content[:end].decode("ascii", errors="replace").splitlines()[1:]:
        match line.split():
            case ["format", "binary_little_endian", _]:
                order = "<"
            case ["format", "binary_big_endian", _]:
                order = ">"
            case ["element", name, number] if number.isdecimal() and len(number) < _DIGITS:
                elements.append(_Element(name, int(number)))
            case ["property", kind, name] if kind in _TYPE_OF_PROPERTY and elements:
                elements[-1].columns.append((name, order + _TYPE_OF_PROPERTY[kind]))
            case ["property", "list", *_] if elements:
                elements[-1].lists.append(line.strip())
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise UserError(f"{path} has a header line that is not understood: {line.strip()[:_SHOWN]!r}")
    return _layout(path, elements, line_end + 1, has_format=bool(order))


def _layout(path: Path, elements: list[_Element], start: int, *, has_format: bool) -> _Layout:
    """Of the vertices among the elements, whose rows begin at `start`."""
    for index, element in enumerate(elements):
        if element.lists and "vertex" in (element.name, *(later.name for later in elements[index + 1 :])):
            found = element.lists[0][:_SHOWN]
            raise UserError(f"{path} has {found!r} in or before its vertices, which is not read: save the points alone")
        if len({name for name, _ in element.columns}) < len(element.columns):
            raise UserError(f"{path} names a column twice")
        if element.name == "vertex" and element.columns and has_format:
            return _Layout(np.dtype(element.columns), element.count, start, index == len(elements) - 1)
        start += element.count * np.dtype(element.columns).itemsize
    raise UserError(f"{path} names no format or no vertices: save it as a binary PLY file")
