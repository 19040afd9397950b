"""The photometric loss of 3D Gaussian Splatting: 0.8·L1 + 0.2·(1 − SSIM)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gns.gaussian_renderer.backends import gpu as cuda
from gns.gaussian_renderer.backends.cpu import as_arrays
from gns.utils import native
from gns.utils.workspace import Workspace

_native = native.load()


class _LossOnCpu(torch.autograd.Function):
    """The native kernel returns loss and gradient in one go; backward only scales the latter."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, mask: Tensor | None, workspace: Workspace) -> Tensor:
        gradient = workspace.take("image_gradient", image.shape, image.dtype) if image.requires_grad else None
        bytes_mask = None if mask is None else mask.to(torch.uint8)
        loss = _native.photometric_loss(*as_arrays(image.detach(), target, bytes_mask, gradient))
        ctx.gradient = gradient
        return image.new_tensor(loss)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        gradient: Tensor = ctx.gradient
        return gradient if scale == 1 else gradient * scale, None, None, None


class _LossOnGpu(torch.autograd.Function):
    """Forward leaves maps of derivatives; backward blurs them to the gradient, scaled without the host's knowing."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, mask: Tensor | None, workspace: Workspace) -> Tensor:
        channels, height, width = image.shape
        if image.dtype != torch.float32 or channels != 3 or target.shape != (height, width, 3):
            raise ValueError(
                f"the CUDA loss takes a float32 image [3, H, W] and a photo [H, W, 3] of its size, not {image.dtype} "
                f"{tuple(image.shape)} and {tuple(target.shape)}"
            )
        grid = (cuda.blocks_of(width, cuda.LOSS_TILE), cuda.blocks_of(height, cuda.LOSS_TILE), channels)
        ctx.size = (image.device, grid, width, height)
        ctx.photo = (target, None if mask is None else mask.contiguous().view(torch.uint8))
        maps = workspace.take("loss_maps", (3, *image.shape)) if image.requires_grad else None
        partial, loss = workspace.take("loss_partial", (math.prod(grid), 2)), image.new_empty(1)
        ctx.workspace = workspace
        cuda.launch("loss_maps", image.device, grid, width, height, image.detach(), *ctx.photo, maps, partial)
        cuda.launch("loss_sum", image.device, (1,), width, height, partial, loss)
        ctx.save_for_backward(image, maps)
        return loss[0]

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None]:
        image, maps = ctx.saved_tensors
        device, grid, width, height = ctx.size
        gradient = ctx.workspace.take("image_gradient", image.shape)
        cuda.launch(
            "loss_gradient",
            device,
            grid,
            width,
            height,
            image.detach(),
            *ctx.photo,
            maps,
            scale.reshape(1).contiguous(),
            gradient,
        )
        return gradient, None, None, None


_loss_on_cpu: Callable[..., Tensor] = _LossOnCpu.apply
_loss_on_gpu: Callable[..., Tensor] = _LossOnGpu.apply


def photometric_loss(
    image: Tensor, target: Tensor, mask: Tensor | None = None, workspace: Workspace | None = None
) -> Tensor:
    """0.8·mean|x − y| + 0.2·(1 − mean SSIM), means over all pixels and channels.

    SSIM (Wang et al. 2004) with a Gaussian window of 11 pixels, σ = 1.5, zero padding. With a mask both images are
    multiplied by it first, so that dark pixels give neither loss nor gradient.

    Args:
        image: rendered, [3, H, W], float32 (on the CPU also float64).
        target: photo, uint8 [H, W, 3], on the image's device.
        mask: bool [H, W], True where the pixel counts; None for everywhere.
        workspace: memory for the gradient, which the next loss with the same workspace overwrites; default: fresh.

    Returns:
        Scalar tensor, differentiable in `image`.
    """
    loss = _loss_on_gpu if cuda.runs_on(image.device) else _loss_on_cpu
    return loss(image.contiguous(), target.contiguous(), mask, workspace or Workspace(image.device))
