"""What a compiled kernel says of its parameters: sizes and offsets, from the notes that NVRTC puts into a cubin."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_NO_BITS = 8  # type of a section without contents
_WITH_PAYLOAD = 4  # form of a note: its length and as many bytes follow
_PARAMETER = 0x17  # EIATTR_KPARAM_INFO
_KERNEL_NOTES = ".nv.info."


@dataclass(frozen=True)
class Parameter:
    """Where a parameter lies among a kernel's, in bytes."""

    offset: int
    size: int


def parameters_of(cubin: bytes) -> dict[str, list[Parameter]]:
    """The parameters of every kernel, in order. Raises ValueError for what is no cubin."""
    return {
        name.removeprefix(_KERNEL_NOTES): _parameters(contents)
        for name, contents in _sections(cubin)
        if name.startswith(_KERNEL_NOTES)
    }


def _sections(elf: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and contents of each section of a 64-bit ELF file."""
    if elf[:5] != b"\x7fELF\x02":
        raise ValueError("no cubin")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + index * size) for index in range(count)]
    for name, kind, _, _, offset, length in headers:
        begin = headers[names][4] + name
        text = elf[begin : elf.index(b"\0", begin)].decode()
        yield text, b"" if kind == _NO_BITS else elf[offset : offset + length]


def _parameters(notes: bytes) -> list[Parameter]:
    found: dict[int, Parameter] = {}
    position = 0
    while position + 4 <= len(notes):
        form, attribute, length = struct.unpack_from("<BBH", notes, position)
        position += 4
        if form != _WITH_PAYLOAD:
            continue
        if attribute == _PARAMETER:
            _, ordinal, offset, flags = struct.unpack_from("<IHHI", notes, position)
            found[ordinal] = Parameter(offset, flags >> 18)
        position += length
    return [found[ordinal] for ordinal in sorted(found)]
