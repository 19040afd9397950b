"""The Gaussians training starts from, and random points where a scene has none."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial import cKDTree

from gns.model.initialisation import initial_gaussians
from gns.scene import PointCloud, View
from gns.scene.gaussians import SH_C0
from gns.scene.layout import depth_range
from gns.scene.points import random_points
from gns.testing.scene_files import small_scene


def cloud(positions: npt.NDArray[np.float64]) -> PointCloud:
    colors = np.random.default_rng(0).integers(0, 256, positions.shape, dtype=np.uint8)
    return PointCloud(np.asarray(positions, np.float64), colors)


def views() -> list[View]:
    small = small_scene(width=80, height=60)
    return [View(camera, torch.from_numpy(image)) for camera, image in zip(small.cameras, small.images, strict=True)]


@pytest.mark.parametrize("degree", range(4))
def test_initial_gaussians(degree: int) -> None:
    points = cloud(np.random.default_rng(1).normal(size=(500, 3)))
    gaussians = initial_gaussians(points, degree, torch.float64)
    distances, _ = cKDTree(points.positions).query(points.positions, 4)
    expected = np.log(np.sqrt(np.mean(distances[:, 1:] ** 2, axis=1)))
    np.testing.assert_allclose(gaussians.log_scales.numpy(), np.repeat(expected[:, None], 3, axis=1), rtol=1e-9)
    np.testing.assert_array_equal(gaussians.means.numpy(), points.positions)
    np.testing.assert_allclose(gaussians.opacities.numpy(), 0.1, rtol=1e-12)
    assert (gaussians.quats == torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)).all()
    colors = gaussians.sh_dc[:, 0] * SH_C0 + 0.5
    np.testing.assert_allclose(colors.numpy() * 255, points.colors, atol=1e-9)
    assert gaussians.sh_rest.shape == (500, (degree + 1) ** 2 - 1, 3) and not gaussians.sh_rest.any()
    assert gaussians.sh_degree == degree


def test_single_precision_is_the_default() -> None:
    for name, values in initial_gaussians(cloud(np.eye(3)), 1).named_tensors():
        assert values.dtype == torch.float32, name


def test_points_at_one_place_are_clamped() -> None:
    gaussians = initial_gaussians(cloud(np.ones((10, 3))), 0, torch.float64)
    np.testing.assert_allclose(gaussians.log_scales.numpy(), 0.5 * math.log(1e-7))


@pytest.mark.parametrize(("count", "squared"), [(1, 1e-7), (2, 1.0), (3, (1 + 4) / 2)])
def test_few_points_use_the_neighbours_there_are(count: int, squared: float) -> None:
    positions = np.arange(count)[:, None] * np.array([[1.0, 0, 0]])
    gaussians = initial_gaussians(cloud(positions), 0, torch.float64)
    assert gaussians.log_scales[0, 0].item() == pytest.approx(0.5 * math.log(squared))


def test_random_points_lie_in_the_frustum_and_have_its_colours() -> None:
    view = views()[3]
    points = random_points([view], seed=0, count=500)
    camera = view.camera
    local = points.positions @ camera.rotation.T + camera.translation
    u, v = camera.fx * local[:, 0] / local[:, 2] + camera.cx, camera.fy * local[:, 1] / local[:, 2] + camera.cy
    nearest, farthest = depth_range([camera])
    assert (local[:, 2] >= nearest * 0.999).all() and (local[:, 2] <= farthest * 1.001).all()
    assert np.median(np.log(local[:, 2])) == pytest.approx(np.log(nearest * farthest) / 2, abs=0.5)
    assert (u > 0).all() and (u < camera.width).all() and (v > 0).all() and (v < camera.height).all()
    assert np.ptp(u) > 0.9 * camera.width and np.ptp(v) > 0.9 * camera.height
    seen = view.image.numpy()[v.astype(int), u.astype(int)]
    assert (seen == points.colors).all(axis=1).mean() > 0.99  # rounding may cross a pixel's border


def test_random_points_use_every_view_and_the_seed() -> None:
    first, again, other = (random_points(views(), seed, count=2000) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.positions, again.positions)
    np.testing.assert_array_equal(first.colors, again.colors)
    assert (first.positions != other.positions).any()
    for view in views():
        camera = view.camera
        local = first.positions @ camera.rotation.T + camera.translation
        inside = np.abs(camera.fx * local[:, 0] / local[:, 2] + camera.cx - camera.width / 2) < camera.width / 2
        assert inside.mean() > 0.3
