"""Nerfstudio and instant-ngp scenes."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gns.errors import UserError
from gns.scene import Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import small_scene, write_nerfstudio, write_ply_points
from gns.utils.undistortion import Lens, undistort, undistorted_lens


def read(folder: Path, options: SceneOptions | None = None) -> Scene:
    return read_scene(folder, options or SceneOptions(), report=lambda line: None)


def edit(folder: Path, common: dict[str, Any] | None = None, frame: dict[str, Any] | None = None) -> Path:
    """Change the file's top level and its second frame; a value of None removes the key."""
    path = folder / "transforms.json"
    content = json.loads(path.read_text())
    for target, changes in ((content, common or {}), (content["frames"][1], frame or {})):
        target.update(changes)
        for key in [key for key, value in changes.items() if value is None]:
            del target[key]
    path.write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("points", ["binary", "ascii"])
def test_round_trip(tmp_path: Path, points: str) -> None:
    small = small_scene()
    scene = read(write_nerfstudio(tmp_path, small, points=points))
    assert [view.camera.name for view in scene.test] == ["images/00.png", "images/08.png"]
    for view in (*scene.train, *scene.test):
        index = int(view.camera.name[-6:-4])
        expected = small.cameras[index]
        np.testing.assert_allclose(view.camera.world_to_camera, expected.world_to_camera, atol=1e-9)
        intrinsics = (view.camera.fx, view.camera.fy, view.camera.cx, view.camera.cy)
        assert intrinsics == pytest.approx((expected.fx, expected.fy, expected.cx, expected.cy))
        assert (view.image.numpy() == small.images[index]).all()
    np.testing.assert_allclose(scene.points.positions, small.points.positions, atol=1e-6)
    np.testing.assert_array_equal(scene.points.colors, small.points.colors)


DISTORTIONS: list[tuple[dict[str, Any], str, tuple[float, ...]]] = [
    ({"camera_model": "OPENCV", "k1": -0.2, "p1": 0.01}, "FULL_OPENCV", (-0.2, 0, 0.01, 0, 0, 0, 0, 0)),
    ({"camera_model": None, "k1": -0.2, "k2": 0.1}, "FULL_OPENCV", (-0.2, 0.1, 0, 0, 0, 0, 0, 0)),
    ({"camera_model": "opencv_fisheye", "k1": 0.1}, "OPENCV_FISHEYE", (0.1, 0, 0, 0)),
    ({"camera_model": "PINHOLE", "k3": -5.0}, "FULL_OPENCV", (0, 0, 0, 0, -5.0, 0, 0, 0)),
    ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.02}, "OPENCV_FISHEYE", (0.1, 0, 0, 0.02)),
    ({"camera_model": None, "is_fisheye": True, "k2": 0.1}, "OPENCV_FISHEYE", (0, 0.1, 0, 0)),
]


@pytest.mark.parametrize(("common", "model", "coefficients"), DISTORTIONS)
def test_distortion(tmp_path: Path, common: dict[str, Any], model: str, coefficients: tuple[float, ...]) -> None:
    small = small_scene(width=160, height=120)
    camera = small.cameras[1]
    view = read(edit(write_nerfstudio(tmp_path, small), common)).train[0]
    lens = Lens(model, 160, 120, camera.fx, camera.fy, camera.cx, camera.cy, coefficients)
    expected = undistorted_lens(lens)
    assert (view.camera.width, view.camera.height) == (expected.width, expected.height) != (160, 120)
    assert (view.image.numpy() == undistort(small.images[1], lens)).all()


def test_distortion_of_one_frame(tmp_path: Path) -> None:
    folder = edit(write_nerfstudio(tmp_path, small_scene(width=160, height=120)), frame={"k1": -0.2})
    widths = [view.camera.width for view in read(folder).train]
    assert widths[0] > 160 and set(widths[1:]) == {160}


def test_plain_opencv_is_not_resampled(tmp_path: Path) -> None:
    small = small_scene()
    view = read(edit(write_nerfstudio(tmp_path, small), {"k1": 0, "k2": 0, "p1": 0, "p2": 0})).train[0]
    assert (view.image.numpy() == small.images[1]).all()


def test_intrinsics_from_angles_and_the_photo(tmp_path: Path) -> None:
    """As instant-ngp writes it: angles only, sizes from the photo, the suffix left out."""
    bare = {"fl_x": None, "fl_y": None, "cx": None, "cy": None, "w": None, "h": None, "file_path": "images/01"}
    angles = {"camera_angle_x": math.pi / 2, "camera_angle_y": 2 * math.atan(0.5), "aabb_scale": 16}
    camera = read(edit(write_nerfstudio(tmp_path, small_scene()), angles, bare)).train[0].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((20, 30, 20, 15))
    assert camera.name == "images/01.png"


@pytest.mark.parametrize("model", ["pinhole", "Pinhole", "simple_pinhole", "OpenCV", "PINHOLE"])
def test_camera_models_in_any_case(tmp_path: Path, model: str) -> None:
    small = small_scene()
    view = read(edit(write_nerfstudio(tmp_path, small), {"camera_model": model})).train[0]
    assert (view.image.numpy() == small.images[1]).all() and view.camera.fx == small.cameras[1].fx


@pytest.mark.parametrize("path", ["cloud/p.ply", ".\\cloud\\p.ply", "/home/me/scene/cloud/p.ply", "../../cloud/p.ply"])
def test_points_are_sought_inside_the_scene(tmp_path: Path, path: str) -> None:
    small = small_scene()
    folder = edit(write_nerfstudio(tmp_path / "a/scene", small), {"ply_file_path": path})
    for place in (tmp_path, folder):
        with pytest.raises(UserError, match="do not exist in the scene: copy them into it"):
            read(folder)
        (place / "cloud").mkdir()
        write_ply_points(place / "cloud/p.ply", small.points, ascii_format=False)
    np.testing.assert_array_equal(read(folder).points.colors, small.points.colors)


@pytest.mark.parametrize("name", ["sparse_pc.ply", "points3D.ply", "points3d.ply"])
def test_points_of_usual_names_need_not_be_listed(tmp_path: Path, name: str) -> None:
    small = small_scene()
    folder = write_nerfstudio(tmp_path, small, points=None)
    write_ply_points(folder / name, small.points, ascii_format=True)
    lines: list[str] = []
    scene = read_scene(folder, SceneOptions(), report=lines.append)
    np.testing.assert_array_equal(scene.points.colors, small.points.colors)
    assert lines[0] == f"points of {name}, which transforms.json does not name"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    folder = write_nerfstudio(tmp_path, small_scene())
    path = folder / "transforms.json"
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    assert len(read(folder).train) == 7


def test_fl_y_defaults_to_fl_x(tmp_path: Path) -> None:
    camera = read(edit(write_nerfstudio(tmp_path, small_scene()), frame={"fl_x": 77, "fl_y": None})).train[0].camera
    assert (camera.fx, camera.fy) == (77, 77)


def test_applied_transform_is_left_in_place(tmp_path: Path) -> None:
    small = small_scene()
    folder = edit(write_nerfstudio(tmp_path, small), {"applied_transform": [[0, 1, 0, 3], [1, 0, 0, 0], [0, 0, -1, 0]]})
    scene = read(folder)
    np.testing.assert_allclose(scene.train[0].camera.center, small.cameras[1].center, atol=1e-9)
    np.testing.assert_allclose(scene.points.positions, small.points.positions, atol=1e-6)


def test_scale_and_rounding_of_a_pose_are_cleaned(tmp_path: Path) -> None:
    small = small_scene()
    folder = write_nerfstudio(tmp_path, small)
    pose = np.array(json.loads((folder / "transforms.json").read_text())["frames"][1]["transform_matrix"])
    pose[:3, :3] = np.round(pose[:3, :3] * 0.5, 5)
    camera = read(edit(folder, frame={"transform_matrix": pose[:3].tolist()})).train[0].camera
    np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(camera.world_to_camera, small.cameras[1].world_to_camera, atol=1e-3)


def test_mask_path_and_masks_folder(tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, small_scene(width=40, height=30))
    mask = np.full((30, 40), 255, np.uint8)
    mask[:, :10] = 0
    Image.fromarray(mask).save(folder / "own.png")
    (folder / "masks").mkdir()
    Image.fromarray(255 - mask).save(folder / "masks/02.png")
    first, second, third = read(edit(folder, frame={"mask_path": "own.png"})).train[:3]
    assert first.mask is not None and (first.mask.numpy() == (mask > 0)).all()
    assert second.mask is not None and (second.mask.numpy() == (mask == 0)).all()
    assert third.mask is None


def test_images_option_replaces_the_folder(tmp_path: Path) -> None:
    small = small_scene()
    folder = write_nerfstudio(tmp_path, small)
    (folder / "images").rename(folder / "images_2")
    assert read(folder, SceneOptions(images="images_2")).train[0].camera.name == "images_2/01.png"


def test_grey_points_where_the_ply_has_no_colours(tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, small_scene())
    (folder / "points.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n1 2 3\n4 5 6\n3 0 1 1\n"
    )
    points = read(folder).points
    assert points.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (points.colors == 128).all()


NOT_RIGID = [[1, 0, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
MIRROR = [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
NAN_POSE = [[1, 0, 0, math.nan], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
BAD_FRAMES: list[tuple[dict[str, Any], str]] = [
    ({"transform_matrix": NAN_POSE}, r"images/01\.png a pose that is not finite"),
    ({"transform_matrix": NOT_RIGID}, r"images/01\.png a transform_matrix that is no rotation"),
    ({"transform_matrix": MIRROR}, r"images/01\.png a transform_matrix that is no rotation"),
    ({"transform_matrix": [[0] * 4] * 4}, r"images/01\.png a transform_matrix that is no rotation"),
    ({"transform_matrix": None}, r"images/01\.png no 4 × 4 transform_matrix"),
    ({"transform_matrix": [[1, 0], [0, 1]]}, r"images/01\.png no 4 × 4 transform_matrix"),
    ({"transform_matrix": "identity"}, r"images/01\.png no 4 × 4 transform_matrix"),
    ({"file_path": "images/00.png"}, r"images/00\.png 2 times"),
    ({"file_path": "images/99.png"}, r"images/99\.png, listed in .*transforms\.json, does not exist"),
    ({"file_path": None}, "has a frame without a file_path"),
    ({"file_path": "."}, "has a frame without a file_path"),
    ({"fl_x": "wide"}, r"images/01\.png fl_x = 'wide'"),
    ({"k1": math.inf}, r"images/01\.png k1 = inf"),
    ({"fl_x": None, "fl_y": None}, r"images/01\.png no focal length"),
    ({"fl_x": -5}, r"images/01\.png no focal length"),
    ({"w": 30, "h": 40}, r"01\.png has 40 × 30 pixels but its camera 30 × 40"),
    ({"mask_path": "none.png"}, r"mask none\.png of the photo images/01\.png"),
    (
        {"camera_model": "EQUIRECTANGULAR"},
        "camera_model EQUIRECTANGULAR: a panorama of the whole sphere .* cut it into perspective views",
    ),
    ({"k4": 0.1}, "k4 = 0.1"),
]


@pytest.mark.parametrize(("frame", "sentence"), BAD_FRAMES)
def test_bad_frames_are_refused(tmp_path: Path, frame: dict[str, Any], sentence: str) -> None:
    folder = edit(write_nerfstudio(tmp_path, small_scene()), frame=frame)
    with pytest.raises(UserError, match=sentence):
        read(folder)


@pytest.mark.parametrize("content", ["", "{", '{"frames": [', "[]", "{}", '{"frames": 3}', '{"frames": [3]}', "\xff"])
def test_bad_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "transforms.json").write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=r"transforms\.json (is cut short|has (no list|a frame))"):
        read(tmp_path)


def test_no_frames_are_refused(tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text('{"frames": []}')
    with pytest.raises(UserError, match="lists no photos"):
        read(tmp_path)


@pytest.mark.parametrize("points", ["binary", "ascii"])
def test_damaged_points_are_refused(tmp_path: Path, points: str) -> None:
    small = small_scene()
    folder = write_nerfstudio(tmp_path, small, points=points)
    content = (folder / "points.ply").read_bytes()
    for kept in (0, 30, 150, len(content) - 20):
        (folder / "points.ply").write_bytes(content[:kept])
        with pytest.raises(UserError, match=r"points\.ply"):
            read(folder)
    small.points.positions[3, 1] = np.nan
    write_ply_points(folder / "points.ply", small.points, ascii_format=points == "ascii")
    with pytest.raises(UserError, match=r"points\.ply holds 1 points that are not finite"):
        read(folder)
    (folder / "points.ply").unlink()
    with pytest.raises(UserError, match=r"points points\.ply, listed in .* do not exist"):
        read(folder)


FACES = "element face 2\nproperty list uchar int vertex_indices\n"
CAMERAS = "element camera 2\nproperty double focal\nproperty int id\n"
XYZ = "property float x\nproperty float y\nproperty float z\n"


@pytest.mark.parametrize("order", ["little", "big", "ascii"])
@pytest.mark.parametrize("before", ["", CAMERAS])
@pytest.mark.parametrize("after", ["", CAMERAS.replace("camera", "view"), FACES])
def test_ply_files_with_other_elements(tmp_path: Path, order: str, before: str, after: str) -> None:
    folder = write_nerfstudio(tmp_path, small_scene())
    kind = order if order == "ascii" else f"binary_{order}_endian"
    header = f"ply\nformat {kind} 1.0\ncomment Z\u00fcrich\n{before}element vertex 2\n{XYZ}{after}end_header\n"
    if order == "ascii":
        cameras, faces = "0.5 1\n0.6 2\n", "3 0 1 1\n0\n"
        body = (
            cameras * bool(before) + "1 2 3\n4 5 6\n" + (faces if after == FACES else cameras * bool(after))
        ).encode()
    else:
        sign = "<" if order == "little" else ">"
        cameras_ = struct.pack(sign + "didi", 0.5, 1, 0.6, 2)
        faces_ = struct.pack(sign + "BiiiB", 3, 0, 1, 1, 0)
        body = cameras_ * bool(before) + struct.pack(sign + "6f", 1, 2, 3, 4, 5, 6)
        body += faces_ if after == FACES else cameras_ * bool(after)
    (folder / "points.ply").write_bytes(header.encode("latin-1") + body)
    assert read(folder).points.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    if not after:
        (folder / "points.ply").write_bytes(header.encode("latin-1") + body[:-3])
        with pytest.raises(UserError, match=r"points\.ply"):
            read(folder)


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian"])
def test_a_list_among_the_columns_of_points_is_refused(tmp_path: Path, kind: str) -> None:
    folder = write_nerfstudio(tmp_path, small_scene())
    listed = FACES.splitlines()[1] + "\n"
    header = f"ply\nformat {kind} 1.0\nelement vertex 1\n{listed}{XYZ}end_header\n"
    (folder / "points.ply").write_text(header + "1 2 3 4 5\n")
    with pytest.raises(UserError, match=r"points\.ply .*list"):
        read(folder)


def test_points_without_positions_are_refused(tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, small_scene(), points="ascii")
    content = (folder / "points.ply").read_text()
    (folder / "points.ply").write_text(content.replace("property float y", "property float why"))
    with pytest.raises(UserError, match="no columns x, y and z"):
        read(folder)
