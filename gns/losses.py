"""The photometric loss of 3D Gaussian Splatting: 0.8·L1 + 0.2·(1 − SSIM)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gns.utils import native

_native = native.load()


class _PhotometricLoss(torch.autograd.Function):
    """The native kernel returns loss and gradient in one go; backward only scales the latter."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        gradient = torch.empty_like(image) if image.requires_grad else None
        bytes_mask = None if mask is None else mask.to(torch.uint8)
        loss = _native.photometric_loss(image.detach(), target, bytes_mask, gradient)
        ctx.gradient = gradient
        return image.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None]:
        gradient: Tensor = ctx.gradient
        return gradient if scale == 1 else gradient * scale, None, None


_photometric_loss: Callable[..., Tensor] = _PhotometricLoss.apply


def photometric_loss(image: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """0.8·mean|x − y| + 0.2·(1 − mean SSIM), means over all pixels and channels.

    SSIM (Wang et al. 2004) with a Gaussian window of 11 pixels, σ = 1.5, zero padding. With a mask both images are
    multiplied by it first, so that dark pixels give neither loss nor gradient.

    Args:
        image: rendered, [3, H, W], float32 or float64.
        target: photo, uint8 [H, W, 3].
        mask: bool [H, W], True where the pixel counts; None for everywhere.

    Returns:
        Scalar tensor, differentiable in `image`.
    """
    return _photometric_loss(image.contiguous(), target.contiguous(), mask)
