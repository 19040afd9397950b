"""A JPEG without its end is completed exactly where all of its pixels are there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gns.errors import UserError
from gns.utils.images import Pixels, read_image
from gns.utils.jpeg import completed_jpeg

KINDS: list[dict[str, Any]] = [
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"quality": 30},
    {"restart_marker_rows": 1},
    {"optimize": True},
]


def photo() -> Pixels:
    """A smooth picture of 67 × 50 pixels, no multiple of a block."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((67, 50), Image.Resampling.BICUBIC))


def jpeg(kind: dict[str, Any], *, grey: bool = False) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo()).convert("L" if grey else "RGB").save(file, "JPEG", **kind)
    return file.getvalue()


def decoded(content: bytes) -> Pixels:
    return np.array(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("missing", [1, 2])
def test_without_end_marker_every_pixel_is_read(tmp_path: Path, kind: dict[str, Any], grey: bool, missing: int) -> None:
    content = jpeg(kind, grey=grey)
    path = tmp_path / "a.jpg"
    for tail in (b"", bytes(4096)):  # a download may have reserved more space than it filled
        path.write_bytes(content[:-missing] + tail)
        assert np.array_equal(read_image(path), decoded(content))


def test_what_was_mended_is_said(tmp_path: Path) -> None:
    remarks: list[str] = []
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg({}))
    read_image(path, remark=remarks.append)
    assert remarks == []
    path.write_bytes(jpeg({})[:-2])
    read_image(path, remark=remarks.append)
    assert remarks == [f"{path} lacks the two bytes that end a JPEG, and nothing else: all of its pixels were read"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_picture_that_lacks_anything_is_never_completed(kind: dict[str, Any]) -> None:
    """At every single length: refused, or every pixel is right."""
    content = jpeg(kind)
    whole, mended = decoded(content), 0
    for length in range(len(content) - 1):
        completed = completed_jpeg(content[:length])
        if completed is not None:
            assert np.array_equal(decoded(completed), whole), length
            mended += 1
    assert mended <= 2  # all but the marker, or all but a byte of padding besides


def test_cut_photos_are_refused(tmp_path: Path) -> None:
    content = jpeg({})
    path = tmp_path / "a.jpg"
    for missing in (10, 100, len(content) // 2, len(content) - 20):
        path.write_bytes(content[:-missing])
        with pytest.raises(UserError, match=r"a\.jpg cannot be read as an image .*: replace the file"):
            read_image(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"no picture", b"\xff\xd8\xff\xda\x00"])
def test_what_is_no_jpeg_is_none(content: bytes) -> None:
    assert completed_jpeg(content) is None


def test_a_picture_of_other_kind_is_none() -> None:
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, "PNG")
    assert completed_jpeg(file.getvalue()) is None
