"""The written scene: poses, pixels and points agree with each other, and the same bytes come out twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from gns.demo import capture
from gns.demo.lighting import Material, Thing
from gns.demo.solids import Solid
from gns.demo.textures import dotted_beaker, plain
from gns.scene.camera import Camera
from gns.scene.readers import SceneOptions, read_scene


def small_scene() -> list[Thing]:
    """A dotted ball and a post: enough to recognise where things are, cheap enough for a test."""
    eye = np.eye(3, dtype=np.float32)
    dotted = Material(dotted_beaker((0.9, 0.05, 0.05), (0.05, 0.05, 0.9), 7), 0.0, lightmap=4)
    ball = Solid("ball", np.zeros(3, np.float32), np.full(3, 0.6, np.float32), eye)
    post = Solid("cylinder", np.array([0.9, 0.3, 0.1], np.float32), np.array([0.1, 0.1, 0.7], np.float32), eye)
    return [Thing(ball, dotted), Thing(post, Material(plain((0.05, 0.8, 0.05)), 0.0, lightmap=4))]


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(capture, "still_life", small_scene)
    monkeypatch.setattr(capture, "SUPERSAMPLING", 1)
    monkeypatch.setattr(capture, "POINTS", 480)
    monkeypatch.setattr(capture, "demo_cameras", lambda: [halved(capture._camera(i)) for i in range(8)])
    capture.write_demo_scene(tmp_path / "scene")
    return tmp_path / "scene"


def halved(camera: Camera) -> Camera:
    return camera.resized(camera.width // 2, camera.height // 2)


def project(camera: Camera, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x, y, z = camera.rotation @ points.T + camera.translation[:, None]
    return np.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy])


def test_points_project_onto_pixels_of_their_colour(scene: Path) -> None:
    read = read_scene(scene, SceneOptions(eval=False))
    assert len(read.train) == 8
    assert len(read.points.positions) == 480
    for k, view in enumerate(read.train):
        block = slice(60 * k, 60 * (k + 1))  # the points that this camera's own rays found
        u, v = np.floor(project(view.camera, read.points.positions[block])).astype(int)
        inside = (u >= 0) & (u < view.camera.width) & (v >= 0) & (v < view.camera.height)
        assert inside.mean() > 0.9
        photo = view.image.numpy().astype(int)[v[inside], u[inside]]
        difference = np.abs(photo - read.points.colors[block][inside]).max(axis=1)
        assert np.median(difference) <= 3
        assert (difference < 60).mean() > 0.85


def test_ball_stands_where_its_centre_projects(scene: Path) -> None:
    camera = halved(capture._camera(3))
    photo = np.asarray(Image.open(scene / "images" / "003.png")).astype(int)
    # Only the ball is more red or blue than green.
    columns = np.flatnonzero(((photo[..., 0] - photo[..., 1] > 60) | (photo[..., 2] - photo[..., 1] > 60)).any(axis=0))
    center = project(camera, np.zeros((1, 3)))[:, 0]
    middle = (columns.min() + columns.max() + 1) / 2
    assert middle == pytest.approx(center[0], abs=1.5)
    # A ball's silhouette reaches radius · f / √(d² − radius²) to the side.
    reach = 0.6 * camera.fx / np.sqrt(np.sum(camera.center**2) - 0.36)
    assert (columns.max() + 1 - columns.min()) / 2 == pytest.approx(reach, abs=2)


def test_cameras_read_back_as_they_were(scene: Path) -> None:
    read = read_scene(scene, SceneOptions(eval=False))
    for k, view in enumerate(read.train):
        expected = halved(capture._camera(k))
        assert view.camera.name.startswith(f"{k:03d}")
        np.testing.assert_allclose(view.camera.world_to_camera, expected.world_to_camera, atol=1e-9)
        assert (view.camera.cx, view.camera.cy) == (expected.cx, expected.cy)
        assert view.camera.cx != view.camera.width / 2


def test_same_bytes_twice(scene: Path, tmp_path: Path) -> None:
    capture.write_demo_scene(tmp_path / "again")
    files = sorted(path.relative_to(scene) for path in scene.rglob("*") if path.is_file())
    assert len(files) == 8 + 3
    for name in files:
        assert (scene / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_cameras_are_rigid_upright_and_look_at_the_table() -> None:
    for camera in capture.demo_cameras():
        np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(camera.rotation) == pytest.approx(1)
        assert camera.center[1] < 0  # y points down, and the camera is above the table
        down_in_camera = camera.rotation @ [0, 1, 0]
        assert down_in_camera[1] > 0.5
        assert down_in_camera[0] == pytest.approx(0, abs=1e-9)
        (u,), (v,) = project(camera, np.zeros((1, 3)))
        assert 0.3 < u / camera.width < 0.7
        assert 0.3 < v / camera.height < 0.9


def test_held_out_photos_stand_all_round() -> None:
    held_out = [camera.center for camera in capture.demo_cameras()[::8]]
    azimuths = np.sort(np.degrees([np.arctan2(center[2], center[0]) for center in held_out]) % 360)
    np.testing.assert_allclose(np.diff(azimuths), 60, atol=1e-6)
    heights = [-center[1] / np.linalg.norm(center) for center in held_out]
    assert max(heights) - min(heights) > 0.3
    everything = {tuple(np.round(camera.center, 6)) for camera in capture.demo_cameras()}
    assert len(everything) == capture.PHOTOS


def test_quaternions_are_scipys() -> None:
    for rotation in Rotation.random(20, random_state=0):
        x, y, z, w = rotation.as_quat(canonical=True)
        np.testing.assert_allclose(capture._quaternion(rotation.as_matrix()), [w, x, y, z], atol=1e-12)
    half_turn = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(np.abs(capture._quaternion(half_turn)), [0, 1, 0, 0], atol=1e-12)


def test_supersampling_averages_the_finer_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    things = small_scene()
    camera = halved(capture._camera(5))
    smooth = capture.photograph(things, camera).astype(float)
    monkeypatch.setattr(capture, "SUPERSAMPLING", 1)
    fine = capture.photograph(things, camera.resized(3 * camera.width, 3 * camera.height))
    rough = (fine / 255.0) ** 2.2
    blocks = rough.reshape(camera.height, 3, camera.width, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(255 * blocks ** (1 / 2.2), smooth, atol=1.5)
