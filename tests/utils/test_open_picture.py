"""Files that claim more pixels than they have bytes for are refused before room is made for them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from gns.errors import UserError
from gns.scene.readers.depth_maps import read_depth_map
from gns.scene.readers.frames import DepthMap
from gns.utils.images import image_size, read_image
from gns.utils.open_picture import opened_picture
from gns.utils.png import read_png

# Found by fuzzing: a brush of GIMP, of which Pillow makes 4.8 GB before it misses them.
BRUSH = bytes.fromhex("3200090000000001000000014801710100000001")


def deep_png(width: int, height: int) -> bytes:
    """The head of a PNG of 16-bit greys, and next to nothing behind it."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(b"")) + part(b"IEND", b"")


def test_a_brush_of_a_gigapixel_in_twenty_bytes(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    path.write_bytes(BRUSH)
    for read in (read_png, image_size, read_image):
        with pytest.raises(UserError, match="cannot be in 20 bytes"):
            read(path)


def test_a_depth_map_of_a_gigapixel(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    path.write_bytes(deep_png(32_000, 24_000))
    with pytest.raises(UserError, match="32000 × 24000 pixels cannot be in"):
        read_depth_map(DepthMap(path, 1.0, 0.0), (8, 6))


def test_from_a_stream() -> None:
    with pytest.raises(ValueError, match="cannot be in 20 bytes"), opened_picture(io.BytesIO(BRUSH)):
        pass


def test_what_compresses_well_is_none() -> None:
    stream = io.BytesIO()
    Image.new("1", (6_000, 5_000)).save(stream, "PNG")
    stream.seek(0)
    assert 30_000_000 / len(stream.getvalue()) > 6_000
    with opened_picture(stream) as picture:
        assert picture.size == (6_000, 5_000)
