"""Photos and masks: file to 8-bit pixels, and their size."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from gns.errors import UserError
from gns.utils.jpeg import completed_jpeg
from gns.utils.open_picture import opened_picture

Pixels = npt.NDArray[np.uint8]

# The size published results were made at; wider photos are reduced to it unless -r says otherwise.
MAX_DEFAULT_WIDTH = 1600
# Photos of more pixels are reduced while they are decoded, as far as they will be reduced anyway.
LARGE = 178_956_970
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BAND = 256  # rows at a time, where arithmetic takes several times the memory of the pixels


def target_size(width: int, height: int, resolution: int) -> tuple[int, int]:
    """Size in pixels (width, height) at which a photo is used, as `-r` has it in 3DGS.

    −1: as it is, or 1600 wide where wider; 1, 2, 4, 8: divided by it, rounded; any other: the target width. Raises
    UserError for zero and other negative values, and where nothing is left of the photo. Truncation makes a width one
    less at times (1601 becomes 1599): kept, since published renders have those sizes.
    """
    if resolution == -1:
        scale = max(width / MAX_DEFAULT_WIDTH, 1.0)
        size = int(width / scale), int(height / scale)
    elif resolution in (1, 2, 4, 8):
        size = round(width / resolution), round(height / resolution)
    elif resolution > 0:
        scale = width / resolution
        size = int(width / scale), int(height / scale)
    else:
        raise UserError(f"-r {resolution} is no size: give -1, 1, 2, 4, 8 or a width in pixels")
    if min(size) < 1:
        raise UserError(f"-r {resolution} leaves nothing of a photo of {width} × {height} pixels: give a larger size")
    return size


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) from the file's header alone. Raises UserError where it cannot be read."""
    try:
        with opened_picture(path) as picture:
            width, height = picture.size
            return width, height
    except Exception as error:
        raise _undecodable(path, error) from error


def read_image(path: Path, reducible: int = 1, remark: Callable[[str], object] = lambda _: None) -> Pixels:
    """A photo as uint8 RGB [H, W, 3], or RGBA [H, W, 4] where it has transparency.

    The orientation tag (EXIF) is ignored on purpose: structure from motion works on the pixel array as stored, so a
    camera describes that array and not the picture as a viewer turns it. Sixteen-bit values are divided by 257, so that
    65535 becomes 255.

    A photo of more than `LARGE` pixels comes back with its sides divided by 2, 4, 8 … until it has no more, or until
    `reducible`, the most that the caller can do with. `remark` is told in a sentence of what had to be mended.

    Raises UserError where the file is cut short, garbage or of floating-point values, or too large for this machine.
    """
    try:
        try:
            return _decoded(path, reducible)
        except OSError:
            completed = completed_jpeg(path.read_bytes())
            if completed is None:
                raise
            pixels = _decoded(io.BytesIO(completed), reducible)
    except Exception as error:
        raise _undecodable(path, error) from error
    remark(f"{path} lacks the two bytes that end a JPEG, and nothing else: all of its pixels were read")
    return pixels


def _decoded(source: Path | BinaryIO, reducible: int) -> Pixels:
    """`read_image` without its sentences. Raises whatever the decoders raise."""
    with opened_picture(source) as picture:
        size = _reduced_size(picture.size, reducible)
        if _is_sixteen_bit(picture):
            content = source.read_bytes() if isinstance(source, Path) else source.read()
            return _shrunk(_sixteen_bit_pixels(content), size)
        if picture.mode in ("I", "F"):
            raise ValueError("its pixels are 32-bit numbers")
        drafted = None if size == picture.size else picture.draft(None, size)  # a JPEG's decoder can reduce by itself
        transparent = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
        mode = "RGBA" if transparent else "RGB"
        colours: Image.Image = picture if picture.mode == mode else picture.convert(mode)
        if size != picture.size:
            colours = colours.resize(size, Image.Resampling.BOX, box=drafted[1] if drafted else None)
        return np.array(colours)


def _reduced_size(size: tuple[int, int], reducible: int) -> tuple[int, int]:
    (width, height), factor = size, 1
    while width * height > factor**2 * LARGE and 2 * factor <= reducible:
        factor *= 2
    return width // factor, height // factor


def _shrunk(image: Pixels, size: tuple[int, int]) -> Pixels:
    """`image` [H, W, 3 or 4] averaged down to (width, height)."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def read_mask(path: Path, reducible: int = 1) -> Pixels:
    """A mask as grey levels, uint8 [H, W]; transparent pixels are black. Raises UserError as `read_image` does."""
    rgb = compose(read_image(path, reducible), 0)
    return np.array(Image.fromarray(rgb).convert("L"))


def compose(image: Pixels, background: int | Sequence[int]) -> Pixels:
    """RGBA [H, W, 4] over a grey level or RGB of 0..255, rounded to uint8 [H, W, 3]; RGB passes through."""
    if image.shape[2] == 3:
        return image
    composed = np.empty((*image.shape[:2], 3), np.uint8)
    for start in range(0, len(image), _BAND):
        rows = image[start : start + _BAND]
        alpha = rows[:, :, 3:].astype(np.uint32)
        mixed = rows[:, :, :3] * alpha + np.asarray(background, np.uint32) * (255 - alpha)
        composed[start : start + _BAND] = (mixed + 127) // 255
    return composed


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """`image` [H, W] or [H, W, 3] resampled to (width, height): bicubic on 8 bits as Pillow does by default."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def decoded_as_stored(content: bytes) -> npt.NDArray[Any] | None:
    """The values of a picture in whatever depth it stores them, colours in OpenCV's order; None for no such picture.

    Raises ValueError where a PNG is cut short: OpenCV makes room for as much as its parts claim to have, four gigabytes
    for a file of 62 bytes. It reads on behind a last part that is not empty, so it is not shown what comes there.
    """
    if content.startswith(PNG_SIGNATURE):
        at, name = len(PNG_SIGNATURE), b""
        while name != b"IEND":  # a part is its length, its name, its content and a checksum
            name = content[at + 4 : at + 8]
            at += 12 + int.from_bytes(content[at : at + 4], "big")
            if at > len(content):
                raise ValueError("it is cut short")
        content = content[:at]
    values: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return values


def _is_sixteen_bit(picture: ImageFile.ImageFile) -> bool:
    """Of a picture that is open but not loaded yet: loading empties the list of tiles."""
    # Pillow gives 16-bit colour an 8-bit mode and drops the low byte; only the raw mode, such as "RGB;16B", tells.
    return any(";16" in str(tile[3]) for tile in picture.tile)


def _sixteen_bit_pixels(content: bytes) -> Pixels:
    values = decoded_as_stored(content)
    if values is None or values.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    reduced: Pixels = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _BAND):
        reduced[start : start + _BAND] = (values[start : start + _BAND].astype(np.uint32) + 128) // 257
    if reduced.ndim == 2:
        return np.repeat(reduced[:, :, None], 3, axis=2)
    return np.ascontiguousarray(reduced[:, :, [2, 1, 0, 3][: reduced.shape[2]]])  # OpenCV's order is blue, green, red


def _undecodable(path: Path, error: Exception) -> UserError:
    advice = "reduce it" if isinstance(error, MemoryError) else "replace the file"
    return UserError(f"{path} cannot be read as an image ({error}): {advice}")
