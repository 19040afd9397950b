"""Photos of every kind become the right 8-bit RGB; sizes follow -r."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from gns.errors import UserError
from gns.utils.images import compose, read_image, read_mask, resize, target_size

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [(-1, (1600, 1036)), (1, (5187, 3361)), (2, (2594, 1680)), (4, (1297, 840)), (8, (648, 420)), (1000, (1000, 647))],
)
def test_target_size(resolution: int, expected: tuple[int, int]) -> None:
    assert target_size(5187, 3361, resolution) == expected  # 5187 / 2 and 3361 / 2 round to even, as in the original


def test_small_photos_keep_their_size_by_default() -> None:
    assert target_size(1600, 1200, -1) == (1600, 1200)
    assert target_size(640, 480, -1) == (640, 480)


@pytest.mark.parametrize("resolution", [0, -2, 8])
def test_sizes_of_nothing_are_refused(resolution: int) -> None:
    with pytest.raises(UserError, match=f"-r {resolution}"):
        target_size(3, 3, resolution)


def test_colour_passes_unchanged(tmp_path: Path) -> None:
    pixels = GENERATOR.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == pixels).all()


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_by_257(tmp_path: Path, suffix: str) -> None:
    values = GENERATOR.integers(0, 65536, (7, 5, 3)).astype(np.uint16)
    values[0, :3, 0] = [0, 300, 65535]
    cv2.imwrite(str(tmp_path / f"c{suffix}"), values[:, :, ::-1])  # OpenCV writes blue, green, red
    cv2.imwrite(str(tmp_path / f"g{suffix}"), values[:, :, 0])
    expected = np.round(values / 257.0).astype(np.uint8)
    assert (read_image(tmp_path / f"c{suffix}") == expected).all()
    assert (read_image(tmp_path / f"g{suffix}") == expected[:, :, :1]).all()


def test_sixteen_bit_alpha(tmp_path: Path) -> None:
    values = GENERATOR.integers(0, 65536, (7, 5, 4)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values[:, :, [2, 1, 0, 3]])
    assert (read_image(tmp_path / "a.png") == np.round(values / 257.0).astype(np.uint8)).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(GENERATOR.integers(0, 256, (7, 5, 3), dtype=np.uint8)).convert(mode)
    path = tmp_path / "a.tiff"
    picture.save(path)
    assert (read_image(path) == np.array(picture.convert("RGB"))).all()


def test_grey_with_alpha_and_transparent_palette(tmp_path: Path) -> None:
    pixels = GENERATOR.integers(0, 256, (7, 5, 2), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "la.png")
    assert (read_image(tmp_path / "la.png") == pixels[:, :, [0, 0, 0, 1]]).all()
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=1)
    assert read_image(tmp_path / "p.png").tolist() == [[[10, 20, 30, 255], [40, 50, 60, 0]]]


def test_orientation_tag_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90°
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (4, 8, 3)


def test_alpha_is_composed_with_rounding() -> None:
    rgba = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 127]]], np.uint8)
    assert compose(rgba, 0).tolist() == [[[200, 100, 0], [0, 0, 0], [100, 50, 0]]]
    assert compose(rgba, 255).tolist() == [[[200, 100, 0], [255, 255, 255], [228, 178, 128]]]


def test_resize_is_pillow_bicubic() -> None:
    pixels = GENERATOR.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    assert (resize(pixels, (5, 3)) == np.array(Image.fromarray(pixels).resize((5, 3)))).all()
    assert resize(pixels, (12, 8)) is pixels


def test_mask_is_grey(tmp_path: Path) -> None:
    Image.new("1", (2, 1), 1).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[255, 255]]
    Image.fromarray(np.array([[[255, 255, 255, 0]]], np.uint8)).save(tmp_path / "t.png")
    assert read_mask(tmp_path / "t.png").tolist() == [[0]]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".webp"])
def test_cut_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(GENERATOR.integers(0, 256, (60, 60, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    for kept in (0, 1, 20, len(content) // 2):
        path.write_bytes(content[:kept])
        with pytest.raises(UserError, match=f"a{suffix} cannot be read as an image"):
            read_image(path)


def test_cut_sixteen_bit_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), GENERATOR.integers(0, 65536, (60, 60, 3)).astype(np.uint16))
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(UserError, match="cannot be read"):
        read_image(path)


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4)).save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match="32-bit"):
        read_image(tmp_path / "a.tiff")


def test_a_part_of_a_png_that_claims_gigabytes_is_refused_before_room_is_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by fuzzing: OpenCV took four gigabytes for such a file of 62 bytes."""
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(path)
    whole = path.read_bytes()
    start = whole.index(b"IDAT") - 4
    path.write_bytes(whole[:start] + b"\xff\0\0\x71" + whole[start + 4 :])
    with monkeypatch.context() as patched, pytest.raises(UserError, match="cut short"):
        patched.setattr(cv2, "imdecode", None)  # a call would fail
        read_image(path)
    path.write_bytes(whole + b"more")
    assert read_image(path).shape == (6, 8, 3)


def test_what_lies_behind_the_last_part_of_a_png_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by fuzzing: OpenCV reads on behind an IEND that is not empty, and made room for what came there."""
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(path)
    whole = path.read_bytes()
    end = whole[: whole.index(b"IEND") - 4] + b"\0\0\0\x02IEND??\xae\x42\x60\x82"
    path.write_bytes(end + b"\xff\xff\xff\xffIEND\xae\x42\x60\x82")
    shown: list[bytes] = []

    def decoded(content: Any, flags: int) -> None:
        shown.append(content.tobytes())

    monkeypatch.setattr(cv2, "imdecode", decoded)
    with pytest.raises(UserError, match="cannot be decoded"):
        read_image(path)
    assert shown == [end]
