"""Depth, opacity and Gaussian counts as pictures to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Scale:
    """What the ends of the colours stand for; the same for all pictures of a call, so that they can be compared."""

    farthest: float  # depth in world units: dark blue
    nearest: float  # dark red
    most: int  # Gaussians in a pixel: yellow; none are black

    @classmethod
    def of(cls, inverse_depths: Sequence[Tensor], counts: Sequence[Tensor]) -> Scale:
        """From samples: inverse depths of surfaces and counts, of any shape. The outermost hundredth is cut off."""
        inverse = torch.cat([values.flatten().float().cpu() for values in inverse_depths])
        inverse = inverse[inverse > 0]
        far, near = (float(inverse.quantile(at)) for at in (0.01, 0.99)) if len(inverse) else (0.5, 1.0)
        numbers = torch.cat([values.flatten().float().cpu() for values in counts])
        most = float(numbers.quantile(0.99)) if len(numbers) else 1.0
        return cls(1 / far, 1 / max(near, far * (1 + 1e-6)), max(1, round(most)))


def surface_inverse_depth(inverse_depth: Tensor, alpha: Tensor) -> Tensor:
    """The mean inverse depth of what covers each pixel, [H, W]; 0 where less than half of it is covered."""
    return torch.where(alpha > 0.5, inverse_depth / alpha.clamp(min=0.5), torch.zeros_like(inverse_depth))


def depth_picture(inverse_depth: Tensor, alpha: Tensor, scale: Scale) -> Tensor:
    """uint8 [H, W, 3]: from dark blue (far) over green to dark red (near), even in inverse depth; black for nothing."""
    low, high = 1 / scale.farthest, 1 / scale.nearest
    surface = surface_inverse_depth(inverse_depth, alpha)
    picture = _coloured((surface - low) / (high - low), cv2.COLORMAP_TURBO)
    return torch.where((surface > 0).cpu()[:, :, None], picture, torch.zeros_like(picture))


def alpha_picture(alpha: Tensor) -> Tensor:
    """uint8 [H, W, 3]: black where nothing is, white where nothing shines through."""
    return _levels(alpha)[:, :, None].expand(-1, -1, 3).contiguous()


def count_picture(counts: Tensor, scale: Scale) -> Tensor:
    """uint8 [H, W, 3]: black for none, over violet and red to yellow for `scale.most` and more."""
    return _coloured(counts.float() / scale.most, cv2.COLORMAP_INFERNO)


def _levels(values: Tensor) -> Tensor:
    return values.detach().clamp(0, 1).mul(255).add(0.5).to(torch.uint8).cpu()


def _coloured(values: Tensor, colours: int) -> Tensor:
    """[H, W] in [0, 1] by a table of OpenCV's, which lists blue first."""
    bgr = cv2.applyColorMap(np.ascontiguousarray(_levels(values).numpy()), colours)
    return torch.from_numpy(np.ascontiguousarray(bgr[:, :, ::-1]))
