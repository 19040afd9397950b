"""The .sog file of PlayCanvas (version 2): lossless WebP pictures in a zip, a pixel a Gaussian, and code books.

Positions have 16 bits on a logarithmic scale, rotations 26, opacities 8; scales and colours are entries of a code book
of 256 each. The coefficients above degree 0 of a Gaussian are one entry of a palette of up to 65,536, whose values are
entries of a code book of 256 in turn.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from gns.errors import UserError
from gns.exports.packing import (
    Columns,
    Floats,
    from_smallest_three,
    morton_order,
    opacity_bytes,
    read_whole,
    smallest_three,
)
from gns.scene.gaussians import Gaussians
from gns.utils.atomic_files import write_bytes
from gns.utils.clusters import clusters, code_book

Bytes = npt.NDArray[np.uint8]

_ROW = 64  # palette entries in a row of their picture
_LARGEST_PALETTE = 64 * 1024
_TAG = 252  # of the largest component of a rotation, w first
_NEVER = (1980, 1, 1, 0, 0, 0)  # zip's first moment: the same model gives the same bytes


def save_sog(gaussians: Gaussians, path: Path) -> None:
    """Write the model along a curve through space. Raises UserError where a value is not finite or `path` not writable.

    Finding a palette of harmonics takes most of the time. A model too far from the origin for float32 is written
    relative to its frame's offset.
    """
    columns = Columns.of(gaussians, path)
    columns = columns.rows(morton_order(columns.means))
    count = len(columns)
    side = _Sides.of(count)
    log_means = np.sign(columns.means) * np.log1p(np.abs(columns.means.astype(np.float64)))
    low, high = (log_means.min(axis=0), log_means.max(axis=0)) if count else (np.zeros(3), np.zeros(3))
    fixed = np.rint(65535 * (log_means - low) / np.maximum(high - low, 1e-30)).astype(np.uint16)
    largest, others = smallest_three(columns.quats)
    rotations = np.rint(255 * (others / 2 + 0.5)).clip(0, 255).astype(np.uint8)
    scale_book, scales = code_book(columns.log_scales)
    color_book, colors = code_book(columns.sh_dc)
    pictures = {
        "means_l.webp": side.picture((fixed & 255).astype(np.uint8)),
        "means_u.webp": side.picture((fixed >> 8).astype(np.uint8)),
        "quats.webp": side.picture(rotations, (_TAG + largest).astype(np.uint8)),
        "scales.webp": side.picture(scales),
        "sh0.webp": side.picture(colors, opacity_bytes(columns.opacities)),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "gns"},
        "count": count,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scale_book.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": color_book.tolist(), "files": ["sh0.webp"]},
    }
    if columns.sh_degree and count:
        palette, labels = clusters(torch.from_numpy(columns.sh_rest.reshape(count, -1)), palette_size(count))
        harmonics_book, entries = code_book(palette.numpy())
        pictures["shN_centroids.webp"] = _palette_picture(entries.reshape(len(palette), -1, 3))
        low_high = np.stack([labels & 255, labels >> 8, 0 * labels], axis=1).astype(np.uint8)
        pictures["shN_labels.webp"] = side.picture(low_high)
        meta["shN"] = {
            "count": len(palette),
            "bands": columns.sh_degree,
            "codebook": harmonics_book.tolist(),
            "files": ["shN_centroids.webp", "shN_labels.webp"],
        }
    write_bytes(path, _zipped({**pictures, "meta.json": json.dumps(meta).encode()}))


def load_sog(path: Path) -> Gaussians:
    """Read a .sog file of version 2. Raises UserError where it is missing, damaged or of another version."""
    content = read_whole(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _columns(archive).gaussians()
    except (zipfile.BadZipFile, OSError, KeyError, ValueError, IndexError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged or no SOG file of version 2 ({error})") from None


def palette_size(count: int) -> int:
    """How many sets of coefficients so many Gaussians share: as many as PlayCanvas gives them."""
    return min(_LARGEST_PALETTE, 1 << (count.bit_length() - 1)) if count else 0


class _Sides:
    """Width and height of the pictures with a pixel a Gaussian, multiples of four."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height

    @classmethod
    def of(cls, count: int) -> _Sides:
        width = max(4, 4 * int(np.ceil(np.sqrt(count) / 4)))
        return cls(width, max(4, 4 * -(-count // (4 * width))))

    def picture(self, rgb: Bytes, alpha: Bytes | None = None) -> bytes:
        """Of bytes [N, 3], and [N] for the fourth channel."""
        pixels = np.zeros((self._height * self._width, 4), np.uint8)
        pixels[: len(rgb), :3] = rgb
        pixels[: len(rgb), 3] = 255 if alpha is None else alpha
        return _webp(pixels.reshape(self._height, self._width, 4))


def _palette_picture(entries: Bytes) -> bytes:
    """Of palette entries [P, K, 3]: 64 in a row, the K coefficients side by side."""
    count, coefficients = entries.shape[:2]
    pixels = np.zeros((-(-count // _ROW), _ROW, coefficients, 4), np.uint8)
    pixels.reshape(-1, coefficients, 4)[:count] = np.concatenate(
        [entries, np.full((count, coefficients, 1), 255, np.uint8)], axis=2
    )
    return _webp(pixels.reshape(len(pixels), _ROW * coefficients, 4))


def _webp(pixels: Bytes) -> bytes:
    file = io.BytesIO()
    # exact: colours are data, also where the fourth channel is 0.
    Image.fromarray(pixels, "RGBA").save(file, "WEBP", lossless=True, exact=True, quality=100)
    return file.getvalue()


def _zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # WebP is packed already
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, _NEVER), content)
    return file.getvalue()


def _columns(archive: zipfile.ZipFile) -> Columns:
    """What an archive holds. Raises what its parts raise where they are damaged."""
    meta = json.loads(archive.read("meta.json"))
    if meta.get("version") != 2:
        raise ValueError(f"its version is {meta.get('version')}")
    count = int(meta["count"])

    def pixels(part: str, index: int = 0) -> Bytes:
        with Image.open(io.BytesIO(archive.read(meta[part]["files"][index]))) as picture:
            return np.asarray(picture.convert("RGBA"))

    def rows(part: str, index: int = 0) -> Bytes:
        found = pixels(part, index).reshape(-1, 4)[:count]
        if len(found) < count:
            raise ValueError(f"{meta[part]['files'][index]} is too small")
        return found

    def booked(part: str, entries: Bytes) -> Floats:
        return np.array(meta[part]["codebook"], np.float32)[entries]

    fixed = rows("means", 0)[:, :3].astype(np.float64) + 256.0 * rows("means", 1)[:, :3]
    low, high = (np.array(meta["means"][end], np.float64) for end in ("mins", "maxs"))
    log_means = low + (high - low) * fixed / 65535
    quats, colors = rows("quats"), rows("sh0")
    rest: Floats = np.zeros((count, 0, 3), np.float32)
    if "shN" in meta:
        coefficients = (int(meta["shN"]["bands"]) + 1) ** 2 - 1
        palette = booked("shN", pixels("shN", 0)[..., :3].reshape(-1, coefficients, 3))
        labels = rows("shN", 1).astype(np.int64)
        rest = palette[labels[:, 0] + 256 * labels[:, 1]]
    return Columns(
        means=(np.sign(log_means) * np.expm1(np.abs(log_means))).astype(np.float32),
        log_scales=booked("scales", rows("scales")[:, :3]),
        quats=from_smallest_three(quats[:, 3].astype(np.int64).clip(_TAG) - _TAG, quats[:, :3] / 127.5 - 1),
        opacities=(colors[:, 3].clip(1, 254) / np.float32(255)).astype(np.float32),
        sh_dc=booked("sh0", colors[:, :3]),
        sh_rest=rest,
    )
