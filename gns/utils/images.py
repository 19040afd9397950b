"""Photos and masks: file to 8-bit pixels, and their size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from gns.errors import UserError

Pixels = npt.NDArray[np.uint8]

# The size published results were made at; wider photos are reduced to it unless -r says otherwise.
MAX_DEFAULT_WIDTH = 1600


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
        with Image.open(path) as picture:
            width, height = picture.size
            return width, height
    except Exception as error:
        raise _undecodable(path, error) from error


def read_image(path: Path) -> Pixels:
    """A photo as uint8 RGB [H, W, 3], or RGBA [H, W, 4] where it has transparency.

    The orientation tag (EXIF) is ignored on purpose: structure from motion works on the pixel array as stored, so a
    camera describes that array and not the picture as a viewer turns it. Sixteen-bit values are divided by 257, so that
    65535 becomes 255. Raises UserError where the file is cut short, garbage or of floating-point values.
    """
    try:
        with Image.open(path) as picture:
            if _is_sixteen_bit(picture):
                return _read_sixteen_bit(path)
            if picture.mode in ("I", "F"):
                raise ValueError("its pixels are 32-bit numbers")
            transparent = picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info
            return np.array(picture.convert("RGBA" if transparent else "RGB"))
    except Exception as error:
        raise _undecodable(path, error) from error


def read_mask(path: Path) -> Pixels:
    """A mask as grey levels, uint8 [H, W]; transparent pixels are black. Raises UserError as `read_image` does."""
    rgb = compose(read_image(path), 0)
    return np.array(Image.fromarray(rgb).convert("L"))


def compose(image: Pixels, background: int | Sequence[int]) -> Pixels:
    """RGBA [H, W, 4] over a grey level or RGB of 0..255, rounded to uint8 [H, W, 3]; RGB passes through."""
    if image.shape[2] == 3:
        return image
    alpha = image[:, :, 3:].astype(np.uint32)
    mixed = image[:, :, :3] * alpha + np.asarray(background, np.uint32) * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def resize(image: Pixels, size: tuple[int, int]) -> Pixels:
    """`image` [H, W] or [H, W, 3] resampled to (width, height): bicubic on 8 bits as Pillow does by default."""
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def _is_sixteen_bit(picture: ImageFile.ImageFile) -> bool:
    """Of a picture that is open but not loaded yet: loading empties the list of tiles."""
    # Pillow gives 16-bit colour an 8-bit mode and drops the low byte; only the raw mode, such as "RGB;16B", tells.
    return any(";16" in str(tile[3]) for tile in picture.tile)


def _read_sixteen_bit(path: Path) -> Pixels:
    values = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        raise ValueError("its 16-bit pixels cannot be decoded")
    reduced = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if reduced.ndim == 2:
        return np.repeat(reduced[:, :, None], 3, axis=2)
    return np.ascontiguousarray(reduced[:, :, [2, 1, 0, 3][: reduced.shape[2]]])  # OpenCV's order is blue, green, red


def _undecodable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read as an image ({error}): replace the file")
