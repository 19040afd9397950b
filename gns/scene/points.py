"""Points to start from, and how to come by some where a scene has none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gns.scene.layout import depth_range
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

    View and pixel are uniform; the depth is log-uniform in the `depth_range` of the cameras. The same seed gives the
    same points.
    """
    generator = np.random.default_rng(seed)
    nearest, farthest = depth_range([view.camera for view in views])
    middle, octaves = math.sqrt(nearest * farthest), math.log2(farthest / nearest) / 2
    positions, colors = np.empty((count, 3)), np.empty((count, 3), np.uint8)
    chosen = generator.integers(len(views), size=count)
    for index, view in enumerate(views):
        rows = np.flatnonzero(chosen == index)
        camera = view.camera
        u, v = generator.uniform(0, camera.width, len(rows)), generator.uniform(0, camera.height, len(rows))
        depth = middle * 2.0 ** generator.uniform(-octaves, octaves, len(rows))
        rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(rows))], axis=1)
        positions[rows] = (rays * depth[:, None] - camera.translation) @ camera.rotation
        colors[rows] = view.image.numpy()[v.astype(int), u.astype(int)]
    return PointCloud(positions, colors)
