"""Photos of every size become views, without more memory than they need."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gns.scene.readers.views
import gns.utils.images
from gns.errors import UserError
from gns.scene import Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.readers.frames import Frame
from gns.testing.scene_files import SmallScene, small_scene, write_colmap
from gns.utils import open_picture
from gns.utils.images import Pixels, image_size, read_image, read_mask
from gns.utils.undistortion import Lens

QUALITY: dict[str, dict[str, Any]] = {"a.jpg": {"quality": 95, "subsampling": 0}}
GENERATOR = np.random.default_rng(0)


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every photo of more than 2,000 pixels is a large one, which Pillow alone refuses."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(gns.utils.images, "LARGE", 2000)


def smooth(width: int, height: int, channels: int = 3) -> Pixels:
    coarse = GENERATOR.integers(0, 256, (5, 6, channels), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def block_means(image: Pixels, side: int) -> Any:
    height, width = image.shape[0] // side, image.shape[1] // side
    blocks = image[: height * side, : width * side].reshape(height, side, width, side, -1)
    return blocks.astype(np.float64).mean(axis=(1, 3)).squeeze()


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.jpg", "a.webp"])
def test_large_photos_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(smooth(120, 80)).save(path)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert image_size(path) == (120, 80)
    assert read_image(path).shape == (80, 120, 3)
    assert Image.MAX_IMAGE_PIXELS == 1000  # other programs keep their limit


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize(("reducible", "side"), [(1, 1), (2, 2), (3, 2), (7, 4), (100, 4)])
def test_large_photos_are_averaged_as_far_as_needed_and_allowed(tmp_path: Path, reducible: int, side: int) -> None:
    pixels = smooth(160, 120)  # 19,200: a quarter is still too many, a sixteenth is not
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, subsampling=0)
    expected = block_means(pixels, side)
    assert np.abs(read_image(tmp_path / "a.png", reducible) - expected).max() <= 1  # rounded by rows and by columns
    difference = read_image(tmp_path / "a.jpg", reducible) - expected
    assert np.abs(difference).mean() < 1.5 and np.abs(difference.mean()) < 0.3
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "m.png")
    assert np.abs(read_mask(tmp_path / "m.png", reducible) - block_means(pixels[:, :, 0], side)).max() <= 1


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_sides_that_do_not_divide_shift_nothing(tmp_path: Path, name: str) -> None:
    """161 columns become 40: each is 4.025 wide, from first to last, also where the decoder makes 41 of them."""
    ramp = np.repeat(np.round(1.5 * (np.arange(161) + 0.5))[None], 121, axis=0).astype(np.uint8)
    Image.fromarray(np.repeat(ramp[:, :, None], 3, axis=2)).save(tmp_path / name, **QUALITY.get(name, {}))
    expected = 1.5 * 4.025 * (np.arange(40) + 0.5)
    assert np.abs(read_image(tmp_path / name, 4) - expected[:, None]).max() < 2  # 4.4 at the right border else


@pytest.mark.usefixtures("small_limits")
def test_hidden_colours_stay_hidden_in_reduced_photos(tmp_path: Path) -> None:
    pixels = np.full((60, 80, 4), 255, np.uint8)
    pixels[:, 1::2] = (10, 0, 0, 0)  # transparent columns between white ones
    Image.fromarray(pixels).save(tmp_path / "a.png")
    reduced = read_image(tmp_path / "a.png", 2)
    assert reduced.shape == (30, 40, 4)
    assert (reduced[:, :, :3] == 255).all()
    assert (np.abs(reduced[:, :, 3].astype(int) - 128) <= 1).all()


@pytest.mark.usefixtures("small_limits")
def test_ordinary_photos_are_never_reduced_on_the_way(tmp_path: Path) -> None:
    pixels = smooth(50, 40)  # exactly the limit
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png", 8) == pixels).all()


def read(folder: Path, resolution: int = -1) -> Scene:
    return read_scene(folder, SceneOptions(resolution=resolution), report=lambda line: None)


@pytest.mark.parametrize("model", ["PINHOLE", "OPENCV_FISHEYE"])
@pytest.mark.parametrize("size", [(640, 480), (643, 485)])
@pytest.mark.parametrize("resolution", [4, 8, 120])
def test_a_large_photo_makes_the_same_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, size: tuple[int, int], resolution: int
) -> None:
    small = small_scene(count=2, width=size[0], height=size[1])
    images = [smooth(*size), smooth(*size)]
    coefficients = () if model == "PINHOLE" else (0.05, 0.01, 0.0, 0.0)
    folder = write_colmap(
        tmp_path, SmallScene(small.cameras, images, small.points), model=model, coefficients=coefficients
    )
    (folder / "masks").mkdir()
    Image.fromarray(images[1][:, :, 0]).save(folder / "masks/01.png")
    ordinary = read(folder, resolution).train[0]
    monkeypatch.setattr(gns.utils.images, "LARGE", 30_000)
    large = read(folder, resolution).train[0]
    assert large.image.shape == ordinary.image.shape
    for name in ("width", "height", "fx", "fy", "cx", "cy"):
        assert getattr(large.camera, name) == pytest.approx(getattr(ordinary.camera, name), rel=0.01)
    difference = (large.image.float() - ordinary.image.float()).abs()
    assert 0 < difference.mean() < 1.5  # other rounding, same picture
    assert large.mask is not None and ordinary.mask is not None
    assert (large.mask != ordinary.mask).float().mean() < 0.05


def test_a_photo_of_the_wrong_size_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_colmap(tmp_path, small_scene(count=3))
    Image.new("1", (13_000, 14_000)).save(folder / "images/01.png")  # 182 megapixels in 23 kB
    monkeypatch.setattr(gns.scene.readers.views, "read_image", None)  # a call would fail
    frame = Frame("01.png", folder / "images/01.png", None, Lens("PINHOLE", 40, 30, 40, 40, 20, 15), np.eye(4))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"01\.png has 13000 × 14000 pixels but its camera 40 × 30"):
        gns.scene.readers.views._load_view(frame, SceneOptions())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6


def test_a_photo_beyond_the_memory_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(smooth(60, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(open_picture, "main_memory", lambda: 9599)
    with pytest.raises(UserError, match=r"a\.png cannot be read as an image \(its 60 × 40 pixels take .*\): reduce it"):
        read_image(tmp_path / "a.png")
    monkeypatch.setattr(open_picture, "main_memory", lambda: 9600)
    read_image(tmp_path / "a.png")


def test_photos_without_end_marker_are_read_and_counted(tmp_path: Path) -> None:
    small = small_scene(count=4)
    folder = write_colmap(tmp_path, small)
    for name in ("01.png", "02.png", "03.png"):
        path = folder / "images" / name
        Image.open(path).save(path, "JPEG")
        if name != "03.png":
            path.write_bytes(path.read_bytes()[:-2])
    lines: list[str] = []
    scene = read_scene(folder, SceneOptions(), report=lines.append)
    assert len(scene.train) == 3
    mended = folder / "images/01.png"
    assert lines[1:] == [
        f"{mended} lacks the two bytes that end a JPEG, and nothing else: all of its pixels were read (and 1 more such)"
    ]
