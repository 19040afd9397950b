"""Where to stand to look at a model: for pages, viewers and videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from gns.gaussian_renderer import importance
from gns.scene.camera import Camera
from gns.scene.gaussians import Gaussians

_SHARE = 4  # of the cameras, those nearest to the middle: a quarter
_WIDTH, _HEIGHT, _FOCAL = 960, 600, 800.0


def opening_camera(cameras: Sequence[Camera], gaussians: Gaussians) -> Camera:
    """Of the quarter of `cameras` (at least one) nearest to the middle of all, the one that sees most of the model.

    How much is seen is the sum of the opacities of the Gaussians whose middle is in the picture. The middle is the
    median: it does not follow a stray camera.
    """
    centers = np.stack([camera.center for camera in cameras])
    distances = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    nearest = np.argsort(distances, kind="stable")[: max(1, len(cameras) // _SHARE)]
    means, opacities = _numpy(gaussians.means), _numpy(gaussians.opacities)
    seen = [float(opacities[cameras[index].project(means)[2]].sum()) for index in nearest]
    return cameras[int(nearest[int(np.argmax(seen))])]


def overview_camera(gaussians: Gaussians) -> Camera:
    """A camera before the model, y down and z forward as in its coordinates, for models of which no camera is known."""
    means = _numpy(gaussians.means)
    middle = np.median(means, axis=0) if len(means) else np.zeros(3)
    distances = np.linalg.norm(means - middle, axis=1)
    radius = float(np.quantile(distances, 0.9)) if len(means) else 1.0
    pose = np.eye(4)
    pose[:3, 3] = -middle
    pose[2, 3] += (2 * _FOCAL / _HEIGHT * radius) or 1.0
    return Camera(_WIDTH, _HEIGHT, _FOCAL, _FOCAL, _WIDTH / 2, _HEIGHT / 2, pose, "overview")


def up_direction(cameras: Sequence[Camera]) -> npt.NDArray[np.float64]:
    """What is up in the world, [3], of length 1: what is up in the pictures of `cameras` (at least one) on average."""
    up: npt.NDArray[np.float64] = -np.mean([camera.rotation[1] for camera in cameras], axis=0)
    length = float(np.linalg.norm(up))
    if length < 1e-3:  # they look from everywhere, every way up
        up, length = -cameras[0].rotation[1], 1.0
    return up / length


def distance_seen(camera: Camera, gaussians: Gaussians) -> float:
    """The depth of what fills the middle of the picture: the median over its pixels, by contribution; 1 for nothing."""
    small = camera.resized(max(8, camera.width // 8), max(8, camera.height // 8))
    edges = gaussians.means.new_zeros(small.height, small.width)
    edges[small.height // 3 : -(-2 * small.height // 3), small.width // 3 : -(-2 * small.width // 3)] = 1
    weights = importance(small, gaussians, edges).double()
    depths = gaussians.means.double() @ torch.from_numpy(camera.rotation[2]).to(gaussians.means.device)
    depths = depths + float(camera.translation[2])
    order = torch.argsort(depths)
    shares = weights[order].cumsum(dim=0)
    if len(shares) == 0 or shares[-1] <= 0:
        return 1.0
    return float(depths[order][torch.searchsorted(shares, shares[-1] / 2).clamp(max=len(shares) - 1)])


def _numpy(values: torch.Tensor) -> npt.NDArray[np.float64]:
    array: npt.NDArray[np.float64] = values.detach().cpu().double().numpy()
    return array
