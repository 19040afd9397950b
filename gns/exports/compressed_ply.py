"""The .compressed.ply file of PlayCanvas and SuperSplat: 16 bytes a Gaussian, and one for each further coefficient.

256 neighbours share a chunk with the ranges of their positions, scales and colours, in which each has 11, 10 and 11 or
8 bits; rotations have 32 bits. Harmonics above degree 0 are bytes from −4 to 4.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.exports.packing import (
    Columns,
    Floats,
    Words,
    from_smallest_three,
    morton_order,
    opacity_bytes,
    read_whole,
    smallest_three,
)
from gns.scene.gaussians import SH_C0, Gaussians
from gns.utils.atomic_files import write_bytes

CHUNK = 256
_RANGES = [f"{end}_{of}" for of in ("{}", "scale_{}") for end in ("min", "max")]
_CHUNK_COLUMNS = [
    *(name.format(axis) for name in _RANGES for axis in "xyz"),
    *(f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"),
]
_VERTEX_COLUMNS = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
_SH_RANGE = 8.0
_LARGEST_SCALE = 20.0  # of a logarithm, as other writers clamp it


def save_compressed_ply(gaussians: Gaussians, path: Path) -> None:
    """Write the model along a curve through space. Raises UserError where a value is not finite or `path` not writable.

    A model too far from the origin for float32 is written relative to its frame's offset.
    """
    columns = Columns.of(gaussians, path)
    columns = columns.rows(morton_order(columns.means))
    count, coefficients = len(columns), columns.sh_rest.shape[1]
    colors = 0.5 + SH_C0 * columns.sh_dc
    position, of_position = _packed(columns.means)
    scale, of_scale = _packed(columns.log_scales.clip(-_LARGEST_SCALE, _LARGEST_SCALE))
    low, high = _ranges(colors)
    rgb = np.rint(255 * _within(colors, low, high)).astype(np.uint32)
    alpha = opacity_bytes(columns.opacities).astype(np.uint32)
    color = rgb[:, 0] << 24 | rgb[:, 1] << 16 | rgb[:, 2] << 8 | alpha
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"element chunk {_chunks(count)}",
        *(f"property float {name}" for name in _CHUNK_COLUMNS),
        f"element vertex {count}",
        *(f"property uint {name}" for name in _VERTEX_COLUMNS),
        *([f"element sh {count}"] if coefficients else []),
        *(f"property uchar f_rest_{index}" for index in range(3 * coefficients)),
        "end_header\n",
    ]
    rest = columns.sh_rest.transpose(0, 2, 1).reshape(
        count, 3 * coefficients
    )  # all of red, then of green, then of blue
    pieces = [
        np.concatenate([of_position, of_scale, low, high], axis=1).astype("<f4"),
        np.stack([position, _packed_rotations(columns.quats), scale, color], axis=1).astype("<u4"),
        np.floor((rest / _SH_RANGE + 0.5) * 256).clip(0, 255).astype(np.uint8),
    ]
    write_bytes(path, "\n".join(header).encode() + b"".join(piece.tobytes() for piece in pieces))


def load_compressed_ply(path: Path) -> Gaussians:
    """Read such a file of any SH degree. Raises UserError where it is missing, cut short or another kind of PLY."""
    content = read_whole(path)
    end = content.find(b"end_header\n")
    text = content[: max(end, 0)].decode("ascii", errors="replace")
    sizes = {name: int(number) for name, number in re.findall(r"^element (chunk|vertex|sh) (\d{1,9})$", text, re.M)}
    properties = re.findall(r"^property (?:float|uint|uchar) (\w+)$", text, re.M)
    rest = len(properties) - len(_CHUNK_COLUMNS) - len(_VERTEX_COLUMNS)
    if properties[: len(_CHUNK_COLUMNS) + 4] != [*_CHUNK_COLUMNS, *_VERTEX_COLUMNS] or rest not in (0, 9, 24, 45):
        raise UserError(f"{path} is no compressed PLY of Gaussians: its header names other properties")
    count = sizes.get("vertex", 0)
    shapes = [(_chunks(count), 18), (count, 4), (count, rest)]
    lengths = [4 * shapes[0][0] * 18, 16 * count, count * rest]
    body = content[end + len(b"end_header\n") :]
    if (
        len(body) != sum(lengths)
        or sizes.get("chunk") != _chunks(count)
        or sizes.get("sh", 0) != (count if rest else 0)
    ):
        raise UserError(f"{path} is cut short or damaged: its size is not what its header promises")
    starts = np.cumsum([0, *lengths])
    ranges, words, bytes_ = (
        np.frombuffer(body, kind, offset=start, count=int(np.prod(shape))).reshape(shape)
        for kind, start, shape in zip(("<f4", "<u4", "u1"), starts, shapes, strict=False)
    )
    ranges = np.repeat(ranges, CHUNK, axis=0)[:count]
    position, rotation, scale, color = words.T
    channels = np.stack([color >> 24, color >> 16 & 255, color >> 8 & 255], axis=1) / 255
    harmonics = (bytes_.astype(np.float32) + np.float32(0.5)) / np.float32(256)
    harmonics[bytes_ == 0], harmonics[bytes_ == 255] = 0, 1  # as PlayCanvas reads the ends
    return Columns(
        means=_unpacked(position, ranges[:, 0:6]),
        log_scales=_unpacked(scale, ranges[:, 6:12]),
        quats=_unpacked_rotations(rotation),
        opacities=((color & 255) / 255).astype(np.float32),
        sh_dc=(_between(channels, ranges[:, 12:15], ranges[:, 15:18]) - 0.5) / np.float32(SH_C0),
        sh_rest=((harmonics - np.float32(0.5)) * np.float32(_SH_RANGE)).reshape(count, 3, rest // 3).transpose(0, 2, 1),
    ).gaussians()


def _chunks(count: int) -> int:
    return -(-count // CHUNK)


def _ranges(values: Floats) -> tuple[Floats, Floats]:
    """The least and the largest of each chunk, [chunks, 3] each."""
    starts = np.arange(0, len(values), CHUNK)
    if len(values) == 0:
        return values, values
    return np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)


def _within(values: Floats, low: Floats, high: Floats) -> Floats:
    """Where values [N, 3] lie in the ranges of their chunks, 0 to 1."""
    low, high = (np.repeat(ends, CHUNK, axis=0)[: len(values)] for ends in (low, high))
    extent = high - low
    return np.where(extent < 1e-5, 0, (values - low) / np.maximum(extent, 1e-5)).clip(0, 1)


def _between(parts: npt.NDArray[np.float64], low: Floats, high: Floats) -> Floats:
    """The inverse of `_within`, with ranges by Gaussian."""
    return (low * (1 - parts) + high * parts).astype(np.float32)


_BITS = ((21, 2047), (11, 1023), (0, 2047))


def _packed(values: Floats) -> tuple[Words, Floats]:
    """Values [N, 3] as one word each, [N], and the ranges of the chunks, [chunks, 6]."""
    low, high = _ranges(values)
    parts = _within(values, low, high)
    word = np.zeros(len(values), np.uint32)
    for axis, (shift, largest) in enumerate(_BITS):
        word |= np.rint(parts[:, axis] * largest).astype(np.uint32) << np.uint32(shift)
    return word, np.concatenate([low, high], axis=1)


def _unpacked(words: Words, ranges: Floats) -> Floats:
    parts = np.stack([(words >> np.uint32(shift) & np.uint32(largest)) / largest for shift, largest in _BITS], axis=1)
    return _between(parts, ranges[:, :3], ranges[:, 3:])


def _packed_rotations(quats: Floats) -> Words:
    """2 bits for the largest of w, x, y, z, and 10 for each other, from −1/√2 to 1/√2."""
    largest, others = smallest_three(quats)
    parts = np.rint((others / 2 + 0.5) * 1023).clip(0, 1023).astype(np.uint32)
    word: Words = largest.astype(np.uint32) << np.uint32(30)
    for axis, shift in enumerate((20, 10, 0)):
        word |= parts[:, axis] << np.uint32(shift)
    return word


def _unpacked_rotations(words: Words) -> Floats:
    parts = np.stack([words >> 20 & 1023, words >> 10 & 1023, words & 1023], axis=1) / 1023
    return from_smallest_three(words >> 30, 2 * parts - 1)
