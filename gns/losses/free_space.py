"""A price on what hangs before the cameras, nearer than anything that structure from motion has seen in a photo.

Few photos leave the space before each camera unwatched by the others: a faint Gaussian there explains what is wrong in
that one photo, and nothing contradicts it. FreeNeRF (Yang et al., CVPR 2023) puts a price on density in the first
stretch of every ray for that reason. Here the stretch ends where the points begin, and the price is on inverse depth,
which floaters near a camera raise most.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gns.gaussian_renderer.output import RenderOutput
from gns.scene.camera import Camera
from gns.scene.points import PointCloud

NEAREST_SHARE = 0.01  # of the points in a view may be nearer than what counts as its nearest: stray ones are
MARGIN = 0.8  # of the nearest points' depth is taken for free: surfaces bulge towards the camera between points
FEWEST_POINTS = 20  # in a view; fewer tell nothing


def free_space_loss(output: RenderOutput, nearest: float) -> Tensor:
    """Mean of z·max(0, D − 1/z) over the pixels, with D the expected inverse depth and z the depth `nearest` > 0.

    Without a unit: a pixel that shows an opaque surface at half the depth gives 1.
    """
    assert output.inverse_depth is not None
    return torch.relu(nearest * output.inverse_depth - 1).mean()


def nearest_depths(cameras: Sequence[Camera], points: PointCloud) -> list[float]:
    """For each camera the depth before which there is nothing, by the points it sees; 0 where that is not known."""
    return [_nearest(camera, points) for camera in cameras]


def _nearest(camera: Camera, points: PointCloud) -> float:
    _, depths, inside = camera.project(points.positions)
    seen = depths[inside]
    return MARGIN * float(np.quantile(seen, NEAREST_SHARE)) if len(seen) >= FEWEST_POINTS else 0.0
