"""Poses and points that do not fit each other are refused or doubted, and the usual mistakes are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gns.errors import UserError
from gns.scene import PointCloud, Scene, View
from gns.scene.checks import check_points, points_within_reach, stray_named
from gns.scene.gaussians import SH_C0
from gns.testing.tiny import cameras_on_an_arc, photographed, small_gaussians

FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
TURN = np.array([[0.6, 0.0, 0.8, 0.3], [0.0, 1.0, 0.0, -0.2], [-0.8, 0.0, 0.6, 0.5], [0.0, 0.0, 0.0, 1.0]])

Pose = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A thousand coloured blobs in an oblong box, and their means with their colours as points."""
    truth = small_gaussians(1000, torch.Generator().manual_seed(0), sigma=0.08)
    truth.means[:, 1] = 0.7 * truth.means[:, 1] + 0.3
    # Waves: neighbours look alike, and no exchange of axes leaves them as they are.
    x, y, z = truth.means.T
    truth.sh_dc[:] = (1.7 * torch.sin(5 * x + 2 * y - 3 * z + 1) * torch.cos(4 * y + 2 * z))[:, None, None]
    colors = (255 * (0.5 + SH_C0 * truth.sh_dc[:, 0])).clamp(0, 255).byte().numpy()
    # Not symmetric about any axis, so that each way of exchanging axes is another one.
    turned = [
        replace(camera, world_to_camera=camera.world_to_camera @ np.linalg.inv(TURN))
        for camera in cameras_on_an_arc(12, 64, 48)
    ]
    positions = truth.means.double().numpy() @ TURN[:3, :3].T + TURN[:3, 3]
    views = photographed(truth, cameras_on_an_arc(12, 64, 48))
    views = [replace(view, camera=camera) for view, camera in zip(views, turned, strict=True)]
    return Scene("boxes", views, [], PointCloud(positions, colors), extent=2.0, background=(0.0, 0.0, 0.0))


def with_points(scene: Scene, positions: npt.NDArray[np.float64]) -> PointCloud:
    return PointCloud(positions, scene.points.colors)


def with_poses(scene: Scene, changed: Callable[[Pose], Pose]) -> list[View]:
    return [
        replace(view, camera=replace(view.camera, world_to_camera=changed(view.camera.world_to_camera)))
        for view in scene.train
    ]


def test_a_sound_scene_raises_no_doubts(scene: Scene) -> None:
    assert check_points(scene.points, scene.train) == []
    grey = PointCloud(scene.points.positions, np.full_like(scene.points.colors, 128))
    assert check_points(grey, scene.train) == []
    assert stray_named(scene.train) == []
    points, doubts = points_within_reach(scene.points, scene.train, scene.extent)
    assert points is scene.points and doubts == []


def test_points_in_other_coordinates_are_refused(scene: Scene) -> None:
    moved = with_points(scene, scene.points.positions + np.array([448262.0, 5411932, 120]))
    with pytest.raises(UserError) as refusal:
        check_points(moved, scene.train)
    assert "sees 0 of the 1,000 points (0 %)" in str(refusal.value)
    assert "their middle 5.43e+06 from that of the cameras" in str(refusal.value)
    assert "one reconstruction, or start without the points" in str(refusal.value)


def test_a_handful_of_points_tells_nothing(scene: Scene) -> None:
    away = PointCloud(scene.points.positions[:49] + 1e6, scene.points.colors[:49])
    assert check_points(away, scene.train) == []


def test_points_behind_the_cameras_are_refused(scene: Scene) -> None:
    camera = scene.train[0].camera
    behind = with_points(scene, scene.points.positions - 30 * camera.rotation[2])
    with pytest.raises(UserError, match=r"sees 0 of .* 0 % lie in front of the cameras, at depths of -2"):
        check_points(behind, scene.train)


@pytest.mark.parametrize(
    ("mistaken", "named"),
    [
        (lambda pose: FLIP @ pose, "y and z axes turned round: convert the matrices"),
        # transforms.json with world-to-camera M is read as (M F)⁻¹.
        (lambda pose: FLIP @ np.linalg.inv(pose), "the matrices inverted: give camera-to-world"),
        (lambda pose: FLIP @ np.linalg.inv(FLIP @ pose), "inverted and y and z turned round: give camera-to-world"),
    ],
)
@pytest.mark.parametrize("grey", [False, True])
def test_mistaken_poses_are_named(scene: Scene, mistaken: Callable[[Pose], Pose], named: str, grey: bool) -> None:
    colors = np.full_like(scene.points.colors, 128) if grey else scene.points.colors
    with pytest.raises(UserError, match=named):
        check_points(PointCloud(scene.points.positions, colors), with_poses(scene, mistaken))


@pytest.mark.parametrize(
    ("order", "signs"),
    [((1, 0, 2), (1, 1, 1)), ((0, 2, 1), (1, 1, -1)), ((2, 0, 1), (-1, 1, 1)), ((0, 1, 2), (1, -1, -1))],
)
def test_exchanged_axes_are_named(scene: Scene, order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """The remedy is what leads back."""
    exchanged = with_points(scene, scene.points.positions[:, order] * np.array(signs))
    names = ["", "", ""]
    for axis, (origin, sign) in enumerate(zip(order, signs, strict=True)):
        names[origin] = ("−" if sign < 0 else "") + "xyz"[axis]
    try:
        (sentence,) = check_points(exchanged, scene.train)
    except UserError as refusal:
        sentence = str(refusal)
    assert f"exchange their axes, ({', '.join(names)}) in place of (x, y, z)" in sentence


def test_few_points_in_view_are_doubted(scene: Scene) -> None:
    """With 3 % of the points in view, seen by the right colours, training may begin."""
    away = scene.points.positions.copy()
    away[30:] += 50 * scene.train[0].camera.rotation[0]
    many = PointCloud(np.repeat(away, 10, axis=0), np.repeat(scene.points.colors, 10, axis=0))
    (sentence,) = check_points(many, scene.train)
    assert "of the 10,000 points (3 %)" in sentence or "(2.9 %)" in sentence


def test_points_at_absurd_distances_are_left_out(scene: Scene) -> None:
    positions = scene.points.positions.copy()
    positions[[3, 500]] = [[1e20, 0, 0], [0, -1e7, 0]]
    points, (sentence,) = points_within_reach(with_points(scene, positions), scene.train, scene.extent)
    assert "2 of 1,000 points" in sentence
    np.testing.assert_array_equal(points.positions, np.delete(positions, [3, 500], axis=0))
    np.testing.assert_array_equal(points.colors, np.delete(scene.points.colors, [3, 500], axis=0))
    assert check_points(with_points(scene, positions), scene.train) == []


def test_the_stray_photo_is_named(scene: Scene) -> None:
    views = list(scene.train)
    pose = views[4].camera.world_to_camera.copy()
    pose[0, 3] += 500
    views[4] = replace(views[4], camera=replace(views[4].camera, world_to_camera=pose))
    (sentence,) = stray_named(views)
    assert "the camera of 04.png stands 5" in sentence and "all others within" in sentence
