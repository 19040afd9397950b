"""PSNR, SSIM and LPIPS of two images, as the published tables of 3DGS have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2
_SMALLEST_ERROR = 1e-10  # identical images then score 100 dB: a mean over images stays finite


def psnr(image: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images [3, H, W] with values in [0, 1].

    The squared error is averaged over all pixels and channels of the image. Identical images score 100 dB.
    """
    return float(decibels(image, truth))


def decibels(image: Tensor, truth: Tensor) -> Tensor:
    """The same as `psnr`, a scalar on the images' device, for which the host does not have to wait yet."""
    error = (image.double() - truth.double()).square().mean().clamp(min=_SMALLEST_ERROR)
    return -10 * torch.log10(error)


def ssim(image: Tensor, truth: Tensor) -> float:
    """Structural similarity of two images [3, H, W] with values in [0, 1] (Wang et al. 2004, data range 1).

    Gaussian window 11 × 11 with σ = 1.5, images continued by zeros, mean over all pixels and channels: what 3DGS
    reports. Other libraries leave out a border of 5 pixels, and score a little differently.
    """
    x, y = image.double(), truth.double()
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    variance_x, variance_y = mean_xx - mean_x.square(), mean_yy - mean_y.square()
    covariance = mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _SSIM_C1) / (mean_x.square() + mean_y.square() + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variance_x + variance_y + _SSIM_C2)
    return float((luminance * structure).mean())


def _blur(planes: Tensor) -> Tensor:
    """Gaussian-weighted mean around every pixel of [..., H, W], zeros outside."""
    margin = _SSIM_WINDOW // 2
    offsets = torch.arange(-margin, margin + 1, dtype=torch.float64)
    weights = torch.exp(-offsets.square() / (2 * _SSIM_SIGMA**2))
    for dim, border in ((-1, (margin, margin, 0, 0)), (-2, (0, 0, margin, margin))):
        padded, size = pad(planes, border), planes.shape[dim]
        planes = torch.zeros_like(planes)
        # Shifted copies added in place: many times faster than torch's convolution in float64.
        for shift, weight in enumerate((weights / weights.sum()).tolist()):
            planes.add_(padded.narrow(dim, shift, size), alpha=weight)
    return planes


@dataclass(frozen=True)
class Lpips:
    """The perceptual metric, or the reason why it cannot be had. `distance` takes images [3, H, W] in [0, 1]."""

    distance: Callable[[Tensor, Tensor], float] | None
    absent_because: str = ""


@lru_cache(maxsize=1)
def load_lpips(device: str) -> Lpips:
    """LPIPS with VGG features (Zhang et al. 2018) from the optional package `lpips`.

    Its inputs are left in [0, 1] although the network was made for [−1, 1]: the published 3DGS tables have this quirk,
    and only so can figures be compared.
    """
    try:
        import lpips
    except ImportError:
        return Lpips(None, "the package lpips is not installed: pip install 'gns[lpips]'")
    try:
        network = lpips.LPIPS(net="vgg", eval_mode=True, verbose=False).to(device)
    except Exception as error:  # whatever a failed download raises, in whichever library
        return Lpips(None, f"the weights of LPIPS cannot be loaded ({error})")

    def distance(image: Tensor, truth: Tensor) -> float:
        with torch.no_grad():
            return float(network(image[None].to(device), truth[None].to(device)))

    return Lpips(distance)
