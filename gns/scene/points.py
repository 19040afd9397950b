"""Points to start from, and how to come by some where a scene has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gns.scene.camera import Camera
from gns.scene.view import View


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Coloured points in the world."""

    positions: npt.NDArray[np.float64]  # [P, 3]
    colors: npt.NDArray[np.uint8]  # [P, 3]


# Like a small reconstruction from photos. The usual 100,000 would exceed small budgets before training begins, while
# densification grows from 20,000 within its first events.
RANDOM_POINTS = 20_000


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
