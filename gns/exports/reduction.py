"""Less of a model: fewer Gaussians, a part of the scene, colours that depend less on the view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gns.errors import UserError
from gns.gaussian_renderer import importance
from gns.scene.camera import Camera
from gns.scene.gaussians import Gaussians
from gns.utils.sampling import mask_of_largest


def with_sh_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The model without the harmonics above `degree`. Raises UserError where it has not that many."""
    if not 0 <= degree <= gaussians.sh_degree:
        raise UserError(f"--sh-degree is {degree}, and the model has degree {gaussians.sh_degree}: give at most that")
    return replace(gaussians, sh_rest=gaussians.sh_rest[:, : (degree + 1) ** 2 - 1])


def cropped(gaussians: Gaussians, lower: Sequence[float], upper: Sequence[float]) -> Gaussians:
    """The Gaussians whose middle lies in the box from `lower` to `upper`, x y z in the scene's coordinates each.

    Raises UserError where there is none.
    """
    means = gaussians.means.detach()
    low, high = (means.new_tensor(list(corner)) for corner in (lower, upper))
    inside = ((means >= low) & (means <= high)).all(dim=1)
    if not bool(inside.any()):
        spans = (
            [f"{float(axis.min()):.4g} to {float(axis.max()):.4g}" for axis in means.T] if len(means) else ["nothing"]
        )
        raise UserError(f"--crop leaves no Gaussian: the model spans {', '.join(spans)} in x, y and z")
    return gaussians.rows(inside.nonzero()[:, 0])


def decimated(gaussians: Gaussians, budget: int, cameras: Sequence[Camera]) -> Gaussians:
    """The `budget` Gaussians that contribute most to what `cameras` see (`contributions`); all where there are no more.

    What is left is not trained further: a model that was trained to the budget is better.
    """
    if len(gaussians) <= budget:
        return gaussians
    kept = mask_of_largest(contributions(gaussians, cameras), budget)
    return gaussians.rows(kept.nonzero()[:, 0])


def contributions(gaussians: Gaussians, cameras: Sequence[Camera]) -> Tensor:
    """How much of the pictures of `cameras` each Gaussian paints: the sum of T·α over their pixels, [N].

    As LightGaussian scores (Fan et al., arXiv 2311.17245), without its factor for volume.
    """
    total = torch.zeros_like(gaussians.opacity_logits, requires_grad=False)
    for camera in cameras:
        total += importance(camera, gaussians, total.new_ones(camera.height, camera.width))
    return total
