"""The photometric loss of 3D Gaussian Splatting, 0.8·L1 + 0.2·(1 − SSIM), a squared one, and where SSIM is low."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.backends.protocol import Backend
from gns.utils.workspace import Workspace


def photometric_loss(
    image: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    workspace: Workspace | None = None,
    *,
    squared: bool = False,
) -> Tensor:
    """0.8·mean|x − y| + 0.2·(1 − mean SSIM), means over all pixels and channels (Kerbl et al. 2023, eq. 7).

    `squared`: 0.6·√(mean (x − y)²) + 0.4·(1 − mean SSIM), whose error is what PSNR is the logarithm of. (Its gradient
    at x = y is taken to be 0.)

    SSIM (Wang et al. 2004) with a Gaussian window of 11 pixels, σ = 1.5, zero padding. With a mask both images are
    multiplied by it first, so that dark pixels give neither loss nor gradient.

    Args:
        image: rendered, [3, H, W], float32 (on the CPU also float64).
        target: photo, uint8 [H, W, 3], on the image's device.
        mask: bool [H, W], True where the pixel counts; None for everywhere.
        workspace: memory for the gradient, which the next loss with the same workspace overwrites; default: fresh.

    Returns:
        Scalar tensor, differentiable in `image`.

    Raises:
        TypeError: a dtype other than these.
        ValueError: shapes or devices that do not fit, a device without a backend.
    """
    backend = backend_of(image.device)
    _check(backend, image, target, mask)
    seen = None if mask is None else mask.contiguous()
    return _loss(image.contiguous(), target.contiguous(), seen, backend, workspace or Workspace(image.device), squared)


def dissimilarity(image: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 − SSIM around each pixel, the mean of its channels, [H, W]: how unlike the photo a rendering is, and where.

    The SSIM of `photometric_loss`, from the same arguments; raises what that raises. Not negative; no gradient.
    """
    backend = backend_of(image.device)
    _check(backend, image, target, mask)
    seen = None if mask is None else mask.contiguous()
    return backend.dissimilarity(image.detach().contiguous(), target.contiguous(), seen)


class _PhotometricLoss(torch.autograd.Function):
    """What is the same for every backend: it says what its loss is, and how to go back from it."""

    @staticmethod
    def forward(
        ctx: Any,
        image: Tensor,
        target: Tensor,
        mask: Tensor | None,
        backend: Backend,
        workspace: Workspace,
        squared: bool,
    ) -> Tensor:
        loss, ctx.way_back = backend.photometric_loss(
            image.detach(), target, mask, workspace, squared=squared, differentiable=image.requires_grad
        )
        ctx.save_for_backward(image)  # autograd notices a change before the backward pass
        return loss

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        _ = ctx.saved_tensors  # raises where the image has changed
        return ctx.way_back(scale), None, None, None, None, None


_loss: Callable[..., Tensor] = _PhotometricLoss.apply


def _check(backend: Backend, image: Tensor, target: Tensor, mask: Tensor | None) -> None:
    """Refuse what no backend has to expect."""
    if image.dtype not in backend.dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in backend.dtypes)
        raise TypeError(f"the loss of an image on {image.device} is computed in {names}, not {image.dtype}")
    if target.dtype != torch.uint8:
        raise TypeError(f"the photo must be uint8, [H, W, 3] from 0 to 255, not {target.dtype}")
    if mask is not None and mask.dtype != torch.bool:
        raise TypeError(f"the mask must be bool, True where a pixel counts, not {mask.dtype}")
    if image.dim() != 3 or image.shape[0] != 3 or target.shape != (*image.shape[1:], 3):
        raise ValueError(
            f"the loss takes an image [3, H, W] and a photo [H, W, 3] of its size, not {tuple(image.shape)} and "
            f"{tuple(target.shape)}"
        )
    if mask is not None and mask.shape != image.shape[1:]:
        raise ValueError(f"the mask must be [H, W] of the image {tuple(image.shape)}, not {tuple(mask.shape)}")
    if any(given.device != image.device for given in (target, mask) if given is not None):
        raise ValueError(f"photo and mask must be on the image's device, {image.device}")
