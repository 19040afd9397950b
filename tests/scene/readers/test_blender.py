"""Scenes in the format of the original NeRF release."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gns.errors import UserError
from gns.scene import Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import SmallScene, small_scene, write_blender, write_ply_points


def read(folder: Path, options: SceneOptions | None = None) -> Scene:
    return read_scene(folder, options or SceneOptions(), report=lambda line: None)


def test_round_trip(tmp_path: Path) -> None:
    small = small_scene()
    scene = read(write_blender(tmp_path, small))
    assert [view.camera.name for view in scene.train] == [f"train/0{index}.png" for index in range(6)]
    assert [view.camera.name for view in scene.test] == [f"test/0{index}.png" for index in range(6, 9)]
    for view in (*scene.train, *scene.test):
        index = int(view.camera.name[-6:-4])
        expected = small.cameras[index]
        np.testing.assert_allclose(view.camera.world_to_camera, expected.world_to_camera, atol=1e-9)
        assert (view.camera.fx, view.camera.fy) == pytest.approx((expected.fx, expected.fx))
        assert (view.camera.cx, view.camera.cy) == (20, 15)  # the format has no principal point: the centre
        assert (view.image.numpy() == small.images[index]).all()


def test_a_point_lies_where_the_opengl_axes_put_it(tmp_path: Path) -> None:
    """By hand: a camera at (0, 0, 5) with OpenGL's identity rotation looks along −z, y up."""
    Image.new("RGB", (100, 80)).save(tmp_path / "a.png")
    pose = np.eye(4)
    pose[2, 3] = 5
    content = {"camera_angle_x": np.pi / 2, "frames": [{"file_path": "a", "transform_matrix": pose.tolist()}]}
    (tmp_path / "transforms_train.json").write_text(json.dumps(content))
    camera = read(tmp_path, SceneOptions(eval=False)).train[0].camera
    np.testing.assert_allclose(camera.center, [0, 0, 5])
    x, y, z = camera.rotation @ [1, 1, 0] + camera.translation
    assert camera.fx == pytest.approx(50)
    assert (camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy) == pytest.approx((60, 30))


def test_without_eval_test_frames_train_too(tmp_path: Path) -> None:
    scene = read(write_blender(tmp_path, small_scene()), SceneOptions(eval=False))
    assert (len(scene.train), len(scene.test)) == (9, 0)
    assert scene.train[0].camera.name == "test/06.png"


def test_without_a_test_file_every_eighth_is_held_out(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, small_scene(count=12), test_count=2)
    (folder / "transforms_test.json").unlink()
    scene = read(folder)
    assert [view.camera.name for view in scene.test] == ["train/00.png", "train/08.png"]


@pytest.mark.parametrize(("white", "level"), [(False, 0), (True, 255)])
def test_alpha_is_composed_on_the_background(tmp_path: Path, white: bool, level: int) -> None:
    small = small_scene(count=4)
    rgba = np.dstack([small.images[0], np.full((30, 40), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    folder = write_blender(tmp_path, SmallScene(small.cameras, [rgba, *small.images[1:]], small.points), test_count=1)
    scene = read(folder, SceneOptions(white_background=white))
    image = scene.train[0].image.numpy()
    assert (image[:10] == level).all()
    assert (image[10:] == small.images[0][10:]).all()
    assert scene.train[0].mask is None
    assert scene.background == (level / 255,) * 3


def test_random_points_depend_on_the_seed_only(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, small_scene())
    first, again, other = (read(folder, SceneOptions(seed=seed)).points.positions for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_name_in_both_files_is_refused(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, small_scene())
    content = json.loads((folder / "transforms_test.json").read_text())
    content["frames"] += json.loads((folder / "transforms_train.json").read_text())["frames"][:2]
    (folder / "transforms_test.json").write_text(json.dumps(content))
    sentence = (
        r"2 of the photos \(train/00\.png, train/01\.png\) are listed both in transforms_train\.json and in transf"
    )
    with pytest.raises(UserError, match=sentence):
        read(folder)


@pytest.mark.parametrize("name", ["points3d.ply", "points3D.ply", "listed.ply"])
def test_points_beside(tmp_path: Path, name: str) -> None:
    small = small_scene()
    folder = write_blender(tmp_path, small)
    write_ply_points(folder / name, small.points, ascii_format=False)
    if name == "listed.ply":
        listing = folder / "transforms_train.json"
        listing.write_text(json.dumps({**json.loads(listing.read_text()), "ply_file_path": "./listed.ply"}))
    points = read(folder).points
    np.testing.assert_allclose(points.positions, small.points.positions, atol=1e-6)
    np.testing.assert_array_equal(points.colors, small.points.colors)


def test_missing_photo_is_refused(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, small_scene())
    (folder / "train/03.png").unlink()
    with pytest.raises(UserError, match=r"train/03, listed in .*transforms_train\.json, does not exist"):
        read(folder)


def test_photo_named_with_a_dot(tmp_path: Path) -> None:
    small = small_scene(count=4)
    cameras = [replace(small.cameras[0], name="v1.5.png"), *small.cameras[1:]]
    scene = read(write_blender(tmp_path, SmallScene(cameras, small.images, small.points), test_count=1))
    assert scene.train[-1].camera.name == "train/v1.5.png"
