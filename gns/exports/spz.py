"""The .spz file of Niantic, in version 3: a tenth of the PLY. Versions 2 and 3 are read.

A gzip stream: a header, then by property positions of 24 bits, bytes for opacities, colours and scales, rotations of 32
bits (of 24 in version 2) and bytes for spherical harmonics, of which fewer bits are used so that they pack. Its axes
are right, up, back.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.exports.packing import Columns, Floats, from_smallest_three, opacity_bytes, read_whole, smallest_three
from gns.scene.gaussians import Gaussians
from gns.utils.atomic_files import write_bytes

Bytes = npt.NDArray[np.uint8]

VERSION = 3
_MAGIC = 0x5053474E
_HEADER = struct.Struct("<IIIBBBB")  # magic, version, Gaussians, SH degree, bits of the fraction, flags, nothing
_COLOR_SCALE = 0.15
_SCALE_OFFSET, _SCALE_STEPS = 10.0, 16.0  # of a logarithm; a byte reaches from −10 to 5.9
_FINEST = 20  # bits of a position's fraction; a millionth of the unit is finer than float32 at 16 units
_DEGREE_1 = 9  # coefficients of degree 1, which have more bits
# In degree 1 and above, a bucket's part of 256: here 6 and 5 bits. With 5 and 4, as Niantic's own writer has them,
# files are a sixth smaller and lose 0.7 dB of 28 on fox480; these lose 0.1, and the finer ones 0.02.
BUCKETS = (4, 8)
FINE_BUCKETS = (2, 4)
_RUB = (1, -1, -1)  # the axes of 3DGS models are right, down, forward


def save_spz(gaussians: Gaussians, path: Path) -> None:
    """Write the model. Raises UserError where a value is not finite, does not fit, or `path` is not writable.

    A model too far from the origin for float32 is written relative to its frame's offset.
    """
    log_scales = gaussians.log_scales.detach().float()
    sizes = log_scales.quantile(log_scales.new_tensor([0.01, 0.99])).tolist() if len(gaussians) else [0.0, 0.0]
    if sizes[0] < -_SCALE_OFFSET or sizes[1] > 255 / _SCALE_STEPS - _SCALE_OFFSET:
        raise UserError(
            f"{path} holds Gaussians of 4.5e-5 to 380 units, and the model's are not all so: write it as .ply, .sog or "
            ".compressed.ply"
        )
    write_bytes(path, spz_bytes(gaussians, path))


def spz_bytes(gaussians: Gaussians, path: Path, buckets: tuple[int, int] = BUCKETS) -> bytes:
    """The content of the file `path`, harmonics in these `buckets` (`BUCKETS`).

    Sizes beyond what the format holds are brought to its ends. Raises UserError where a value is not finite.
    """
    columns = Columns.of(gaussians, path).turned(*_RUB)
    largest = float(np.abs(columns.means).max(initial=0))
    fraction = int(np.clip(23 - np.frexp(largest)[1], 0, _FINEST))
    header = _HEADER.pack(_MAGIC, VERSION, len(columns), columns.sh_degree, fraction, 0, 0)
    planes = [
        _fixed_point(columns.means, fraction),
        opacity_bytes(columns.opacities),
        _byte(255 * (_COLOR_SCALE * columns.sh_dc + 0.5)),
        _byte(_SCALE_STEPS * (columns.log_scales + _SCALE_OFFSET)),
        _packed_rotations(columns.quats),
        _harmonics(columns.sh_rest.reshape(len(columns), 3 * columns.sh_rest.shape[1]), buckets),
    ]
    # mtime: the same model gives the same bytes.
    return gzip.compress(header + b"".join(plane.tobytes() for plane in planes), 9, mtime=0)


def load_spz(path: Path) -> Gaussians:
    """Read a file of version 2 or 3. Raises UserError where it is missing, damaged or of another version."""
    return read_spz(read_whole(path), path)


def read_spz(content: bytes, path: Path) -> Gaussians:
    """The model in the `content` of `path`. Raises UserError as `load_spz` does."""
    try:
        data = gzip.decompress(content)
        magic, version, count, degree, fraction, _, _ = _HEADER.unpack_from(data)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"{path} is damaged or no SPZ file ({error})") from None
    if magic != _MAGIC or version not in (2, 3) or degree > 3:
        raise UserError(f"{path} is no SPZ file of version 2 or 3: convert it with the program that wrote it")
    coefficients = (degree + 1) ** 2 - 1
    widths = [9, 1, 3, 3, 3 if version == 2 else 4, 3 * coefficients]
    if len(data) != _HEADER.size + count * sum(widths):
        raise UserError(f"{path} is cut short or damaged: its size is not what its header promises")
    starts = _HEADER.size + count * np.cumsum([0, *widths])
    planes = [
        np.frombuffer(data, np.uint8, count * width, start).reshape(count, width)
        for width, start in zip(widths, starts, strict=False)
    ]
    positions, opacities, colors, scales, rotations, harmonics = planes
    limbs = positions.reshape(count, 3, 3).astype(np.int32)
    fixed = limbs[..., 0] | limbs[..., 1] << 8 | limbs[..., 2] << 16
    fixed -= (fixed >> 23) << 24  # the sign of 24 bits
    return (
        Columns(
            means=(fixed / 2.0**fraction).astype(np.float32),
            log_scales=scales.astype(np.float32) / np.float32(_SCALE_STEPS) - np.float32(_SCALE_OFFSET),
            quats=_unpacked_rotations(rotations) if version == 3 else _unpacked_rotations_2(rotations),
            opacities=(opacities[:, 0].clip(1, 254) / np.float32(255)).astype(np.float32),
            sh_dc=((colors / 255 - 0.5) / _COLOR_SCALE).astype(np.float32),
            sh_rest=(harmonics.reshape(count, coefficients, 3).astype(np.float32) - np.float32(128)) / np.float32(128),
        )
        .turned(*_RUB)
        .gaussians()
    )


def _byte(values: Floats) -> Bytes:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _fixed_point(means: Floats, fraction: int) -> Bytes:
    """Positions [N, 3] as little-endian numbers of 24 bits, [N, 3, 3]."""
    fixed = np.rint(means.astype(np.float64, order="C") * 2.0**fraction).clip(-(2**23), 2**23 - 1).astype("<i4")
    limbs: Bytes = fixed.view(np.uint8).reshape(-1, 3, 4)
    return limbs[..., :3]


def _harmonics(rest: Floats, buckets: tuple[int, int]) -> Bytes:
    """Coefficients [N, 3K], all colours of one after the other, as bytes from −1 to 1 in buckets."""
    bucket = np.where(np.arange(rest.shape[1]) < _DEGREE_1, *buckets)
    fine = np.rint(128 * rest) + 128
    held: Bytes = (np.floor((fine + bucket // 2) / bucket) * bucket).clip(0, 255).astype(np.uint8)
    return held


def _packed_rotations(quats: Floats) -> Bytes:
    """2 bits for the largest of x, y, z, w, and a sign and 9 bits for each other; little-endian, [N, 4]."""
    largest, others = smallest_three(np.roll(quats, -1, axis=1))
    word = largest.astype("<u4")
    for component in others.T:
        size = np.rint(511 * np.abs(component)).clip(0, 511).astype("<u4")
        word = word << 10 | (component < 0).astype("<u4") << 9 | size
    packed: Bytes = word.view(np.uint8).reshape(-1, 4)
    return packed


def _unpacked_rotations(planes: Bytes) -> Floats:
    word = np.ascontiguousarray(planes).view("<u4")[:, 0]
    parts = [word >> shift & 1023 for shift in (20, 10, 0)]
    others = np.stack([np.where(part & 512, -1, 1) * (part & 511) / 511 for part in parts], axis=1)
    return np.roll(from_smallest_three(word >> 30, others), 1, axis=1)


def _unpacked_rotations_2(planes: Bytes) -> Floats:
    """x, y and z in a byte each; w is not negative."""
    vector = planes.astype(np.float32) / np.float32(127.5) - 1
    w = np.sqrt(np.maximum(0, 1 - (vector**2).sum(axis=1, keepdims=True)))
    return np.concatenate([w, vector], axis=1)
