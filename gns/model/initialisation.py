"""Where training starts: one Gaussian a 3D point."""

from __future__ import annotations

import math

import numpy as np
import torch

from gns.scene.gaussians import SH_C0, Gaussians
from gns.scene.points import PointCloud
from gns.utils.nearest import nearest_squared_distances

INITIAL_OPACITY = 0.1


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
