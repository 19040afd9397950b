"""Triangulated points: on synthetic observations exactly, on drawn photos near the surfaces that are drawn."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from gns.errors import UserError
from gns.scene import Camera, PointCloud, View
from gns.scene import triangulation as module
from gns.scene.checks import other_convention
from gns.scene.start import starting_points
from gns.scene.triangulation import Features, find_features, triangulated_points
from gns.testing.tiny import cameras_on_an_arc


def observations(
    cameras: list[Camera], points: np.ndarray, *, noise: float = 0.0, wrong: float = 0.0
) -> list[Features]:
    """What a perfect detector finds: every camera sees every point, in an order of its own, by a descriptor of its own.

    `noise` in pixels; a share `wrong` of the points is somewhere else in each photo.
    """
    generator = np.random.default_rng(0)
    descriptors = generator.integers(0, 90, (len(points), 128)).astype(np.uint8)
    features = []
    for camera in cameras:
        local = points @ camera.rotation.T + camera.translation
        pixels = local[:, :2] / local[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
        pixels += noise * generator.normal(size=pixels.shape)
        lost = generator.random(len(points)) < wrong
        pixels[lost] = generator.uniform(0, camera.width, (lost.sum(), 2))
        order = generator.permutation(len(points))
        colors = np.stack([np.arange(len(points)) % 251] * 3, axis=1).astype(np.uint8)
        features.append(Features(camera, pixels[order], descriptors[order], colors[order]))
    return features


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (200, 3))


@pytest.fixture(scope="module")
def cameras() -> list[Camera]:
    return cameras_on_an_arc(7, 400, 300)


def distances(found: PointCloud, points: np.ndarray) -> np.ndarray:
    """Of each found point from the true one with its colour."""
    apart: np.ndarray = np.linalg.norm(found.positions[:, None] - points, axis=2).min(axis=1)
    return apart


def test_exact_observations_give_exact_points(cameras: list[Camera], points: np.ndarray) -> None:
    found = triangulated_points(observations(cameras, points))
    assert len(found.positions) > 190
    assert distances(found, points).max() < 1e-9
    nearest = np.linalg.norm(found.positions[:, None] - points, axis=2).argmin(axis=1)
    assert len(set(nearest)) == len(nearest)
    np.testing.assert_array_equal(found.colors[:, 0], nearest % 251)


def test_far_from_the_origin_and_in_small_units(cameras: list[Camera], points: np.ndarray) -> None:
    scale, offset = 1e-3, np.array([1e6, -2e6, 3e5])
    moved = []
    for camera in cameras:
        pose = camera.world_to_camera.copy()
        pose[:3, 3] = scale * camera.translation - camera.rotation @ offset
        moved.append(replace(camera, world_to_camera=pose))
    found = triangulated_points(observations(moved, scale * points + offset))
    assert len(found.positions) > 190
    assert distances(found, scale * points + offset).max() < 1e-3 * scale


def test_noise_and_wrong_matches(cameras: list[Camera], points: np.ndarray) -> None:
    """With half a pixel of noise points are about as exact as that; what only pairs of photos agree on is left out."""
    found = triangulated_points(observations(cameras, points, noise=0.5, wrong=0.2))
    assert len(found.positions) > 100
    apart = distances(found, points)
    assert np.median(apart) < 0.02 and (apart < 0.1).mean() > 0.98


def test_too_narrow_angles_are_left_out(points: np.ndarray) -> None:
    narrow = cameras_on_an_arc(7, 400, 300, arc=0.014)
    assert len(triangulated_points(observations(narrow, points)).positions) == 0


def test_two_photos_are_too_few(cameras: list[Camera], points: np.ndarray) -> None:
    assert len(triangulated_points(observations(cameras[:2], points)).positions) == 0


def test_poses_of_the_other_convention_give_nothing(cameras: list[Camera], points: np.ndarray) -> None:
    turned = [
        replace(found, camera=replace(found.camera, world_to_camera=other_convention(found.camera.world_to_camera)))
        for found in observations(cameras, points)
    ]
    assert len(triangulated_points(turned).positions) < 5


def textured_photos(cameras: list[Camera]) -> list[View]:
    """Photos of a plane z = 0 with a random texture, [-2, 2]², which stands before the cameras."""
    generator = np.random.default_rng(2)
    texture = cv2.GaussianBlur(generator.integers(0, 256, (400, 400, 3)).astype(np.uint8), (0, 0), 2.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)  # type: ignore[call-overload]
    views = []
    for camera in cameras:
        # Texture pixels (i + 0.5) / 100 − 2 are x and y of the plane.
        plane = np.array([[0.01, 0, -2], [0, 0.01, -2], [0, 0, 0], [0, 0, 1]])
        intrinsics = np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        homography = np.linalg.inv(half) @ intrinsics @ camera.world_to_camera[:3] @ plane @ half
        photo = cv2.warpPerspective(texture, homography, (camera.width, camera.height))
        views.append(View(camera, torch.from_numpy(photo)))
    return views


@pytest.fixture(scope="module")
def photos(cameras: list[Camera]) -> list[View]:
    return textured_photos(cameras)


def test_photos_of_a_plane_give_points_on_it(photos: list[View]) -> None:
    """A systematic error of half a pixel in the features would tilt or move the plane by 0.005."""
    found = triangulated_points(find_features(photos))
    assert len(found.positions) > 500
    heights = found.positions[:, 2]
    assert abs(np.median(heights)) < 2e-3 and np.percentile(np.abs(heights), 90) < 0.03
    view = photos[3]
    local = found.positions @ view.camera.rotation.T + view.camera.translation
    u, v = (local[:, :2] / local[:, 2:] * view.camera.fx + [view.camera.cx, view.camera.cy]).T
    inside = (u > 1) & (u < 399) & (v > 1) & (v < 299)
    seen = view.image.numpy()[v[inside].astype(int), u[inside].astype(int)].astype(float)
    assert np.abs(seen - found.colors[inside]).mean() < 15


def test_the_same_photos_give_the_same_bits(photos: list[View]) -> None:
    first, second = (triangulated_points(find_features(photos)) for _ in range(2))
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.colors, second.colors)


def test_masked_features_do_not_count(photos: list[View]) -> None:
    mask = torch.ones(300, 400, dtype=torch.bool)
    mask[:, :200] = False
    (features,) = find_features([replace(photos[3], mask=mask)])
    assert len(features.pixels) > 50 and features.pixels[:, 0].min() > 199


def test_large_photos_are_reduced(cameras: list[Camera], monkeypatch: pytest.MonkeyPatch, photos: list[View]) -> None:
    monkeypatch.setattr(module, "WIDEST", 200)
    found = triangulated_points(find_features(photos))
    assert len(found.positions) > 100
    assert abs(np.median(found.positions[:, 2])) < 4e-3


def test_starting_points_are_triangulated_where_there_are_enough(photos: list[View]) -> None:
    lines: list[str] = []
    points = starting_points(photos, 0, lines.append)
    assert lines == [
        "no 3D points: looking for features that 7 photos have in common",
        f"{len(points.positions):,} points triangulated from the photos",
    ]
    np.testing.assert_array_equal(points.positions, triangulated_points(find_features(photos)).positions)


def test_starting_points_are_random_where_photos_have_nothing_in_common() -> None:
    grey = [View(camera, torch.full((30, 40, 3), 128, dtype=torch.uint8)) for camera in cameras_on_an_arc(4, 40, 30)]
    lines: list[str] = []
    assert len(starting_points(grey, 0, lines.append).positions) == 20_000
    assert lines[1:] == ["only 0 points triangulated: 20,000 random ones inside the camera frustums"]


def test_starting_points_notice_the_other_convention(photos: list[View]) -> None:
    turned = [
        replace(view, camera=replace(view.camera, world_to_camera=other_convention(view.camera.world_to_camera)))
        for view in photos
    ]
    with pytest.raises(UserError, match=r"points in common as their cameras stand, and .* turned round: convert the"):
        starting_points(turned, 0)
