"""The photometric loss written out in torch, for autograd to differentiate: the judge of `gns.losses.photometric`.

And that of its map of dissimilarity.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

SSIM_WEIGHT = 0.2
SQUARED_SSIM_WEIGHT = 0.4
WINDOW = 11
SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2
# Height, width: below, at and above the window; at and above the rows that the CPU takes at a time.
SIZES = [(1, 1), (3, 40), (11, 11), (17, 16), (47, 33), (64, 9), (150, 20)]


def reference_photometric_loss(
    image: Tensor, target: Tensor, mask: Tensor | None = None, *, squared: bool = False
) -> Tensor:
    """0.8·L1 + 0.2·(1 − SSIM), means over all pixels and channels, in float64; `squared`: 0.6·RMSE + 0.4·(1 − SSIM).

    `image` is [3, H, W], `target` uint8 [H, W, 3], `mask` bool [H, W]: both images are multiplied by it first. SSIM is
    that of Wang et al. 2004 with an 11 × 11 Gaussian window (σ 1.5) and zero padding.
    """
    x, y = _compared(image, target, mask)
    error = (x - y).square().mean().sqrt() if squared else (x - y).abs().mean()
    weight = SQUARED_SSIM_WEIGHT if squared else SSIM_WEIGHT
    return (1 - weight) * error + weight * (1 - ssim_map(x, y).mean())


def reference_dissimilarity(image: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """1 − SSIM around every pixel, the mean of the channels, [H, W], in float64; arguments as above."""
    return 1 - ssim_map(*_compared(image, target, mask)).mean(dim=0)


def _compared(image: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both as float64 [3, H, W] of values from 0 to 1, black where masked."""
    x, y = image.to(torch.float64), target.movedim(-1, 0).to(torch.float64) / 255
    return (x, y) if mask is None else (x * mask, y * mask)


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """SSIM around every pixel of two images [3, H, W]."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    profile = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    window = torch.outer(profile, profile) / profile.sum() ** 2

    def blur(values: Tensor) -> Tensor:
        return conv2d(values[:, None], window[None, None], padding=WINDOW // 2)[:, 0]

    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return luminance * structure


def expected_loss_and_gradient(
    image: Tensor, target: Tensor, mask: Tensor | None, *, squared: bool = False
) -> tuple[Tensor, Tensor]:
    """The reference's loss and its gradient by the image, in float64."""
    leaf = image.clone().requires_grad_()
    loss = reference_photometric_loss(leaf, target, mask, squared=squared)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def images(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """An image [3, H, W] that strays from [0, 1] and never equals its target uint8 [H, W, 3], and a mask [H, W]."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0, 1, height)[:, None, None]
    columns = torch.linspace(0, 1, width)[None, :, None]
    pattern = 0.5 + 0.3 * torch.sin(9 * rows + torch.arange(3)) * torch.cos(7 * columns)
    target = (255 * pattern + 40 * torch.randn(height, width, 3, generator=generator)).clamp(0, 255).to(torch.uint8)
    sign = torch.where(torch.rand(3, height, width, generator=generator) < 0.5, -1.0, 1.0)
    error = sign * (0.02 + 0.3 * torch.rand(3, height, width, generator=generator))
    image = (target.movedim(-1, 0) / 255 + error).double()
    return image.float().double(), target, torch.rand(height, width, generator=generator) < 0.6
