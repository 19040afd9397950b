"""JPEG files that lack their end."""

from __future__ import annotations

import io
import struct

import numpy as np
import numpy.typing as npt

from gns.utils.open_picture import opened_picture

_END = b"\xff\xd9"
_DATA = bytes(range(1, 200))
_RESTARTS = b"".join(bytes((0xFF, 0xD0 + number)) + _DATA for number in range(8))  # marks between parts of a picture
_TAILS = (b"\x55" * 64, b"\xaa" * 64, _DATA, 2 * _RESTARTS)
_STARTS_OF_FRAME = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_START_OF_SCAN = 0xDA


def completed_jpeg(content: bytes) -> bytes | None:
    """`content` with an end marker, where a JPEG lacks that and nothing else. None for all other files.

    Decoders fill up what is missing without a word, but with whatever follows: all pixels are there exactly if they
    come out the same whatever follows. In a progressive file, whole scans could be missing besides.
    """
    kept = content.rstrip(b"\0").rstrip(b"\xff")  # half a marker
    if not content.startswith(b"\xff\xd8") or not _has_all_scans(kept):
        return None
    completed = kept + _END
    try:
        pixels = _decoded(completed)
        same = all(np.array_equal(pixels, _decoded(kept + tail + _END)) for tail in _TAILS)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for damaged files
        return None
    return completed if same else None


def _decoded(content: bytes) -> npt.NDArray[np.uint8]:
    with opened_picture(io.BytesIO(content)) as picture:
        return np.array(picture)


def _has_all_scans(content: bytes) -> bool:
    """Whether every coefficient of every component has come to its last bit, as the headers of the scans say.

    Sequential files have each component in one scan; progressive ones (ITU-T T.81, annex G) send bands of coefficients,
    bit by bit.
    """
    exact: dict[int, set[int]] = {}  # by component: the coefficients whose last bit is there
    progressive = False
    for marker, segment in _segments(content):
        if marker in _STARTS_OF_FRAME and len(segment) >= 6:
            progressive = marker in _PROGRESSIVE
            exact = {component: set() for component in segment[6::3][: segment[5]]}
        elif marker == _START_OF_SCAN and len(segment) >= 4:
            first, last, bits = segment[-3:]
            for component in segment[1:-3:2]:
                band = range(first, last + 1) if progressive else range(64)
                if bits & 0xF == 0 or not progressive:  # the low half counts the bits still to come
                    exact.setdefault(component, set()).update(band)
    return bool(exact) and all(len(coefficients) == 64 for coefficients in exact.values())


def _segments(content: bytes) -> list[tuple[int, bytes]]:
    """(marker, what follows its length) of all whole segments; compressed data in between is passed over."""
    segments, position = [], 2
    while (position := content.find(b"\xff", position)) >= 0 and position + 4 <= len(content):
        marker = content[position + 1]
        if marker == 0xFF:
            position += 1
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # a stuffed byte, or a marker without a segment
            position += 2
        else:
            (length,) = struct.unpack_from(">H", content, position + 2)
            if position + 2 + length <= len(content):
                segments.append((marker, content[position + 4 : position + 2 + length]))
            position += 2 + max(length, 2)
    return segments
