"""Stray cameras, and what the layout of cameras tells of what they look at."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from gns.scene import Camera, PointCloud, View
from gns.scene.layout import depth_range, stray_cameras, subject_distance
from gns.scene.scene import scene_extent
from gns.testing.scene_files import small_scene
from gns.testing.tiny import tiny_scene

GENERATOR = np.random.default_rng(0)
RING = np.stack([[math.cos(a), math.sin(a), 0.0] for a in np.linspace(0, 6, 60)])
ORDINARY = {
    "ring": RING,
    "line": np.arange(200.0)[:, None] * [1, 0.1, 0],
    "cluster and a tenth far away": np.concatenate([RING[:45], 40 + RING[:5]]),
    "standing still, then walking": np.concatenate([np.zeros((80, 3)), np.arange(20.0)[:, None] * [1, 0, 0]]),
    "one place": np.ones((30, 3)),
    "a long tail": GENERATOR.standard_cauchy((300, 3)).clip(-30, 30),
    "four, one far": np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [500.0, 0, 0]]),
    "single": np.zeros((1, 3)),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_captures_have_no_strays(name: str) -> None:
    assert not stray_cameras(ORDINARY[name]).any()


@pytest.mark.parametrize(("count", "strays"), [(5, 1), (20, 1), (60, 3)])
@pytest.mark.parametrize("distance", [20.0, 1e9])
def test_strays_are_found_wherever_they_are(count: int, strays: int, distance: float) -> None:
    centers = 7 + RING[:count].copy()
    chosen = GENERATOR.permutation(count)[:strays]
    centers[chosen] += distance * np.array([1, -2, 3])
    assert np.flatnonzero(stray_cameras(centers)).tolist() == sorted(chosen)


def test_the_extent_is_that_of_the_others() -> None:
    scene = tiny_scene(train_views=8)
    without = scene_extent(scene.train[:3] + scene.train[4:], scene.points)
    assert scene_extent([*scene.train[:3], moved(scene.train[3], 1e4), *scene.train[4:]], scene.points) == without
    assert scene_extent([*scene.train[:3], moved(scene.train[3], 1.0), *scene.train[4:]], scene.points) != without


def moved(view: View, distance: float) -> View:
    pose = view.camera.world_to_camera.copy()
    pose[0, 3] += distance
    return View(with_pose(view.camera, pose[:3, :3], -pose[:3, :3].T @ pose[:3, 3]), view.image)


def with_pose(camera: Camera, rotation: npt.NDArray[np.float64], center: npt.NDArray[np.float64]) -> Camera:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ center
    return Camera(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy, pose, camera.name)


def test_distance_of_the_subject_of_cameras_on_an_arc() -> None:
    """They look at the origin from 4 units away in plan and 0.8 above it."""
    cameras = small_scene().cameras
    assert subject_distance(cameras) == pytest.approx(math.hypot(4, 0.8), rel=1e-6)
    larger = [with_pose(camera, camera.rotation, camera.center * 10 + 3) for camera in cameras]
    assert subject_distance(larger) == pytest.approx(10 * math.hypot(4, 0.8), rel=1e-6)
    nearest, farthest = depth_range(cameras)
    assert farthest == pytest.approx(4 * nearest) and nearest == pytest.approx(math.hypot(4, 0.8) / 2)


def test_cameras_without_a_common_subject() -> None:
    cameras = small_scene(count=12).cameras
    assert depth_range(cameras[:1]) == (0.1, 10.0)
    parallel = [with_pose(cameras[0], np.eye(3), np.array([x, 0.0, 0.0])) for x in (-2.0, 0.0, 2.0)]
    assert subject_distance(parallel) is None
    assert depth_range(parallel) == pytest.approx((0.6, 60.0))


@pytest.mark.parametrize(("inwards", "expected"), [(12, True), (11, True), (10, False), (6, False), (0, False)])
def test_captures_that_look_outwards(inwards: int, expected: bool) -> None:
    """Axes that meet behind more than a tenth of the cameras are no common subject, though most look at it."""
    cameras = small_scene(count=12).cameras
    turned = [with_pose(camera, np.diag([-1.0, 1.0, -1.0]) @ camera.rotation, camera.center) for camera in cameras]
    mixed = [*cameras[:inwards], *turned[inwards:]]
    assert (subject_distance(mixed) is not None) == expected
    if not expected:
        nearest, farthest = depth_range(mixed)
        assert farthest == pytest.approx(100 * nearest)
        radius = max(np.linalg.norm(c.center - np.mean([o.center for o in mixed], axis=0)) for c in mixed)
        assert nearest == pytest.approx(0.3 * radius)


def test_a_stray_camera_does_not_move_the_subject() -> None:
    cameras = small_scene(count=12).cameras
    expected = depth_range(cameras[1:])
    cameras[0] = with_pose(cameras[0], cameras[0].rotation, np.array([1e5, 2e5, 0.0]))
    assert depth_range(cameras) == pytest.approx(expected)


def test_extent_of_points_alone() -> None:
    scene = tiny_scene()
    center = scene.train[0].camera.center
    assert (
        scene_extent(scene.train[:1], PointCloud(center[None] + np.array([0, 0, 3.0]), np.zeros((1, 3), np.uint8)))
        == 3.0
    )
