"""What holds for every format: recognition, split, extent, masks, background, the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from gns.errors import UserError
from gns.scene import PointCloud, Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.scene import scene_extent
from gns.testing.scene_files import SmallScene, small_scene, write_colmap, write_nerfstudio


def read(folder: Path, options: SceneOptions | None = None) -> Scene:
    return read_scene(folder, options or SceneOptions(), report=lambda line: None)


def test_unrecognised_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sparse/0 or sparse .*transforms_train\.json .*transforms\.json"):
        read(tmp_path)
    with pytest.raises(UserError, match="nowhere does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=r"sparse/0 or sparse"):
        read(tmp_path)
    (tmp_path / "sparse").mkdir()
    with pytest.raises(UserError, match=r"sparse has neither cameras\.bin nor cameras\.txt"):
        read(tmp_path)


def test_colmap_is_preferred(tmp_path: Path) -> None:
    write_nerfstudio(tmp_path, small_scene())
    write_colmap(tmp_path, small_scene())
    assert read(tmp_path).train[0].camera.name == "01.png"


def test_split(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(count=18))
    scene = read(folder)
    assert [view.camera.name for view in scene.test] == ["00.png", "08.png", "16.png"]
    assert len(scene.train) == 15
    everything = read(folder, SceneOptions(eval=False))
    assert [view.camera.name for view in everything.train] == [f"{index:02}.png" for index in range(18)]
    assert everything.test == []
    assert scene.name == folder.name


def test_extent_is_of_the_training_cameras(tmp_path: Path) -> None:
    small = small_scene()
    scene = read(write_colmap(tmp_path, small))
    centers = np.stack([camera.center for camera in small.cameras[1:8]])
    expected = 1.1 * max(np.linalg.norm(center - centers.mean(axis=0)) for center in centers)
    assert scene.extent == pytest.approx(expected, rel=1e-12)


def test_extent_of_cameras_at_one_place(tmp_path: Path) -> None:
    scene = read(write_colmap(tmp_path, small_scene(count=2)))  # one trains
    center = scene.train[0].camera.center
    distances = np.linalg.norm(scene.points.positions - center, axis=1)
    assert scene.extent == pytest.approx(np.median(distances))
    assert scene_extent(scene.train, PointCloud(center[None], np.zeros((1, 3), np.uint8))) == 1.0


def test_one_photo(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(count=1))
    with pytest.raises(UserError, match="single photo and --eval holds it out"):
        read(folder)
    scene = read(folder, SceneOptions(eval=False))
    assert [view.camera.name for view in scene.train] == ["00.png"]
    distances = np.linalg.norm(scene.points.positions - scene.train[0].camera.center, axis=1)
    assert scene.extent == pytest.approx(np.median(distances))


@pytest.mark.parametrize(("white", "background"), [(False, (0.0, 0.0, 0.0)), (True, (1.0, 1.0, 1.0))])
def test_background(tmp_path: Path, white: bool, background: tuple[float, ...]) -> None:
    small = small_scene(count=2)
    clear = np.zeros((30, 40, 4), np.uint8)
    folder = write_colmap(tmp_path, SmallScene(small.cameras, [clear, clear], small.points))
    scene = read(folder, SceneOptions(white_background=white))
    assert scene.background == background
    assert (scene.train[0].image.numpy() == 255 * background[0]).all()


def test_grey_and_sixteen_bit_photos(tmp_path: Path) -> None:
    small = small_scene(count=3)
    folder = write_colmap(tmp_path, small)
    values = np.random.default_rng(0).integers(0, 65536, (30, 40, 3)).astype(np.uint16)
    cv2.imwrite(str(folder / "images/01.png"), values[:, :, ::-1])
    Image.fromarray(small.images[2]).convert("L").save(folder / "images/02.png")
    first, second = read(folder).train
    assert (first.image.numpy() == np.round(values / 257.0)).all()
    assert (second.image.numpy() == np.array(Image.fromarray(small.images[2]).convert("L"))[:, :, None]).all()


@pytest.mark.parametrize("name", ["01.png", "01.png.png"])
def test_masks(tmp_path: Path, name: str) -> None:
    folder = write_colmap(tmp_path, small_scene(width=40, height=30))
    mask = np.full((30, 40), 128, np.uint8)
    mask[5:20, 7:] = 127
    (folder / "masks").mkdir()
    Image.fromarray(mask).save(folder / "masks" / name)
    lines: list[str] = []
    first, second = read_scene(folder, SceneOptions(), report=lines.append).train[:2]
    assert first.mask is not None and (first.mask.numpy() == (mask == 128)).all()
    assert second.mask is None
    assert lines == [
        "8 of 9 photos have no mask (00.png, 02.png, 03.png, …): all their pixels count",
        "9 images, 1 MB; 1 with a mask",
    ]


def test_a_mask_follows_its_photo(tmp_path: Path) -> None:
    """Undistortion and resizing move mask and photo alike: the mask here is where the photo is white."""
    small = small_scene(count=2, width=160, height=120)
    photo = np.zeros((120, 160, 3), np.uint8)
    photo[20:70, 90:150] = 255
    folder = write_colmap(
        tmp_path,
        SmallScene(small.cameras, [photo, photo], small.points),
        model="OPENCV_FISHEYE",
        coefficients=(0.05, 0.01, 0, 0),
    )
    (folder / "masks").mkdir()
    Image.fromarray(photo[:, :, 0]).save(folder / "masks/01.png")
    view = read(folder, SceneOptions(resolution=2)).train[0]
    assert view.mask is not None and view.mask.shape == view.image.shape[:2]
    assert (view.mask.numpy() == (view.image[:, :, 0].numpy() >= 128)).all()
    assert 0.05 < view.mask.float().mean() < 0.5


def test_masks_drawn_at_another_size(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(width=40, height=30))
    (folder / "masks").mkdir()
    mask = np.zeros((60, 80), np.uint8)
    mask[:, 40:] = 255
    Image.fromarray(mask).save(folder / "masks/01.png")
    view = read(folder).train[0]
    assert view.mask is not None and (view.mask.numpy() == (np.arange(40) >= 20)).all()
    Image.fromarray(mask.T).save(folder / "masks/01.png")
    with pytest.raises(UserError, match=r"masks/01\.png has 60 × 80 pixels but its photo 40 × 30"):
        read(folder)


def test_a_mask_of_zeros_and_ones_is_refused(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(width=40, height=30))
    (folder / "masks").mkdir()
    Image.fromarray(np.ones((30, 40), np.uint8)).save(folder / "masks/01.png")
    with pytest.raises(UserError, match=r"masks/01\.png hides the whole photo"):
        read(folder)


def test_wide_photos_are_reduced_with_a_note(tmp_path: Path) -> None:
    small = small_scene(count=2, width=1700, height=20, points=3)
    folder = write_colmap(tmp_path, small)
    lines: list[str] = []
    view = read_scene(folder, SceneOptions(), report=lines.append).train[0]
    assert (view.camera.width, view.camera.height) == (1600, 18) == view.image.shape[1::-1]
    assert view.camera.fx == pytest.approx(small.cameras[1].fx * 1600 / 1700)
    assert lines == ["2 images, 1 MB; 2 reduced to 1600 pixels wide (-r 1 keeps their size)"]
    lines.clear()
    assert read_scene(folder, SceneOptions(resolution=1), report=lines.append).train[0].camera.width == 1700
    assert lines == ["2 images, 1 MB"]


def test_undistortion_is_reported(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(), model="SIMPLE_RADIAL", coefficients=(-0.2,))
    lines: list[str] = []
    read_scene(folder, SceneOptions(), report=lines.append)
    assert lines == ["9 images, 1 MB; undistorted from SIMPLE_RADIAL"]


def test_photos_of_different_sizes(tmp_path: Path) -> None:
    small, large = small_scene(count=3), small_scene(count=3, width=64, height=20)
    cameras = [small.cameras[0], large.cameras[1], small.cameras[2]]
    images = [small.images[0], large.images[1], small.images[2]]
    scene = read(write_colmap(tmp_path, SmallScene(cameras, images, small.points)))
    assert [tuple(view.image.shape) for view in scene.train] == [(20, 64, 3), (30, 40, 3)]
    assert [view.camera.width for view in scene.train] == [64, 40]


def test_points_that_no_photo_sees_are_refused(tmp_path: Path) -> None:
    small = small_scene()
    away = PointCloud(small.points.positions + np.array([448262.0, 5411932.0, 120.0]), small.points.colors)
    folder = write_colmap(tmp_path, SmallScene(small.cameras, small.images, away))
    with pytest.raises(UserError, match="the median photo sees 0 of the 60 points"):
        read(folder)


def test_absurd_points_and_stray_cameras_are_named_and_do_no_harm(tmp_path: Path) -> None:
    """A point beyond the squares of float32 once broke the search for neighbours."""
    small = small_scene(count=12)
    positions = small.points.positions.copy()
    positions[7] = [3e19, 0, 0]
    pose = small.cameras[5].world_to_camera.copy()
    pose[0, 3] += 1e5
    cameras = [*small.cameras[:5], replace(small.cameras[5], world_to_camera=pose), *small.cameras[6:]]
    changed = SmallScene(cameras, small.images, PointCloud(positions, small.points.colors))
    lines: list[str] = []
    scene = read_scene(write_colmap(tmp_path / "a", changed), SceneOptions(), report=lines.append)
    sound = read(write_colmap(tmp_path / "b", small))
    assert scene.extent == pytest.approx(sound.extent, rel=0.3)
    np.testing.assert_array_equal(scene.points.positions, np.delete(small.points.positions, 7, axis=0))
    assert lines[1].startswith("warning: the camera of 05.png stands 1e+05 from the middle")
    assert lines[2].startswith("warning: 1 of 60 points lie more than a million times")
