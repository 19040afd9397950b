"""Opening image files of any size."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile

from gns.utils.main_memory import main_memory

_DECODED_BYTES = 4  # Pillow keeps RGB pixels in four bytes
# A PNG of one bit a pixel, all alike, has 8,256 pixels a byte, the most that its compression can do; photos have a few.
# Small pictures are let through: their decoders take no harm.
_MOST_PIXELS_A_BYTE = 10_000
_SMALL = 1 << 24


class _PillowLimit:
    """Pillow's limit of pixels, a global variable: away while one thread at least is in a `lifted` block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._limit: int | None = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        with self._lock:
            if self._blocks == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if self._blocks == 0:
                    Image.MAX_IMAGE_PIXELS = self._limit


_PILLOW_LIMIT = _PillowLimit()


@contextmanager
def opened_picture(source: Path | BinaryIO) -> Iterator[ImageFile.ImageFile]:
    """The picture, its header read and its pixels not yet.

    Pillow takes more than 178 megapixels for an attack. A panorama is none: here the machine's memory is the limit, and
    what the file's bytes can tell. Decoders make room for what a header claims, whatever comes behind it.
    Raises MemoryError where the pixels cannot fit, ValueError where the file is too short for them, and what Pillow
    raises for a file that is no image.
    """
    length = source.stat().st_size if isinstance(source, Path) else _length(source)
    with _PILLOW_LIMIT.lifted(), Image.open(source) as picture:
        if picture.width * picture.height > max(_SMALL, _MOST_PIXELS_A_BYTE * length):
            raise ValueError(f"its {picture.width} × {picture.height} pixels cannot be in {length:,} bytes")
        needed = _DECODED_BYTES * picture.width * picture.height
        if needed > main_memory():
            raise MemoryError(
                f"its {picture.width} × {picture.height} pixels take {needed / 1e9:.0f} GB and this machine has "
                f"{main_memory() / 1e9:.0f}"
            )
        yield picture


def _length(file: BinaryIO) -> int:
    """All its bytes; it is read from its beginning next."""
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    return end
