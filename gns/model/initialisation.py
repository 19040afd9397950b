"""Where training starts: one Gaussian a 3D point, and points for scenes that have none."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from gns.scene.camera import Camera
from gns.scene.gaussians import SH_C0, Gaussians
from gns.scene.scene import PointCloud, View
from gns.utils.nearest import nearest_squared_distances

INITIAL_OPACITY = 0.1
# Like a small reconstruction from photos. The usual 100,000 would exceed small budgets before training begins, while
# densification grows from 20,000 within its first events.
RANDOM_POINTS = 20_000


def initial_gaussians(points: PointCloud, sh_degree: int, dtype: torch.dtype = torch.float32) -> Gaussians:
    """One Gaussian a point, round, as wide as its three nearest neighbours are far (Kerbl et al. 2023).

    log-scale = ln √max(mean squared distance to the 3 nearest, 1e-7): points that coincide stay finite, and fewer than
    four points use the neighbours there are. Rotation identity, opacity 0.1, the colour in degree 0, the rest zero.
    """
    count = len(points.positions)
    distances = nearest_squared_distances(points.positions, 3)
    spread = distances.mean(axis=1) if distances.size else np.zeros(count)
    log_scales = 0.5 * np.log(np.maximum(spread, 1e-7))
    colors = torch.from_numpy(points.colors).to(dtype) / 255
    return Gaussians(
        means=torch.from_numpy(points.positions).to(dtype),
        log_scales=torch.from_numpy(log_scales).to(dtype)[:, None].repeat(1, 3),
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=dtype).repeat(count, 1),
        opacity_logits=torch.full((count,), math.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY)), dtype=dtype),
        sh_dc=((colors - 0.5) / SH_C0)[:, None, :],
        sh_rest=torch.zeros(count, (sh_degree + 1) ** 2 - 1, 3, dtype=dtype),
    )


def random_points(views: Sequence[View], seed: int, count: int = RANDOM_POINTS) -> PointCloud:
    """`count` points inside the frustums of `views`, each with the colour of the pixel it was drawn behind.

    View and pixel are uniform; the depth is log-uniform from half to twice the typical distance of the subject, which
    `subject_distance` reads off the layout of the cameras. The same seed gives the same points.
    """
    generator = np.random.default_rng(seed)
    distance = subject_distance([view.camera for view in views])
    positions, colors = np.empty((count, 3)), np.empty((count, 3), np.uint8)
    chosen = generator.integers(len(views), size=count)
    for index, view in enumerate(views):
        rows = np.flatnonzero(chosen == index)
        camera = view.camera
        u, v = generator.uniform(0, camera.width, len(rows)), generator.uniform(0, camera.height, len(rows))
        depth = distance * 2.0 ** generator.uniform(-1, 1, len(rows))
        rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(rows))], axis=1)
        positions[rows] = (rays * depth[:, None] - camera.translation) @ camera.rotation
        colors[rows] = view.image.numpy()[v.astype(int), u.astype(int)]
    return PointCloud(positions, colors)


def subject_distance(cameras: Sequence[Camera]) -> float:
    """Typical distance from the cameras to what they look at, in world units; positive.

    The subject is the point nearest to all optical axes in the least-squares sense, the distance the median depth at
    which the cameras see it. Axes that are parallel, or meet behind the cameras, have none: then three times the
    largest distance of a camera to their middle, and 1 where they all stand at one place.
    """
    centers = np.stack([camera.center for camera in cameras])
    axes = np.stack([camera.rotation[2] for camera in cameras])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # projects onto the plane across each axis
    normal = across.mean(axis=0)
    if np.linalg.eigvalsh(normal)[0] > 1e-3:
        subject = np.linalg.solve(normal, np.einsum("nij,nj->i", across, centers) / len(cameras))
        depth = float(np.median(np.einsum("ni,ni->n", subject - centers, axes)))
        if depth > 0:
            return depth
    radius = float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).max())
    return 3 * radius if radius > 0 else 1.0
