"""PSNR, SSIM and LPIPS of two images, as the published tables of 3DGS have them.

Where a photo has a mask, only pixels that count are scored: PSNR and SSIM are means over them. What was not learned
from says nothing about a model, and a mean over the rest as well would be ruled by it: a statue before a masked sky.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from gns.appearance.exposure import adjusted

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2
_SMALLEST_ERROR = 1e-10  # identical images then score 100 dB: a mean over images stays finite


def psnr(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two images [3, H, W] with values in [0, 1].

    The squared error is averaged over all pixels and channels of the image, with a `mask` (bool [H, W], True somewhere)
    over those where it is True. Identical images score 100 dB.
    """
    return float(decibels(image, truth, mask))


def decibels(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """The same as `psnr`, a scalar on the images' device, for which the host does not have to wait yet."""
    error = _mean((image.double() - truth.double()).square(), mask).clamp(min=_SMALLEST_ERROR)
    return -10 * torch.log10(error)


def ssim(image: Tensor, truth: Tensor, mask: Tensor | None = None) -> float:
    """Structural similarity of two images [3, H, W] with values in [0, 1] (Wang et al. 2004, data range 1).

    Gaussian window 11 × 11 with σ = 1.5, images continued by zeros, mean over all pixels and channels: what 3DGS
    reports. Other libraries leave out a border of 5 pixels, and score a little differently.

    With a `mask` (bool [H, W], True somewhere) both images are black where it is False, as in the training loss, and
    the mean is over the pixels where it is True: the loss's mean over all pixels would give full marks for every hidden
    one. So the border of a mask is treated as the border of an image is, and a photo of which a rectangle counts scores
    what that rectangle cut out would.
    """
    return float(_mean(_ssim_map(blacked_out(image, mask).double(), blacked_out(truth, mask).double()), mask))


def _ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """The structural similarity around each pixel of two images [3, H, W], whose mean `ssim` is, in their precision."""
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    variance_x, variance_y = mean_xx - mean_x.square(), mean_yy - mean_y.square()
    covariance = mean_xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _SSIM_C1) / (mean_x.square() + mean_y.square() + _SSIM_C1)
    structure = (2 * covariance + _SSIM_C2) / (variance_x + variance_y + _SSIM_C2)
    similarity: Tensor = luminance * structure
    return similarity


def fitted_halves(
    image: Tensor, truth: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """The right halves of `image` and `truth` [3, H, W] and `mask` [H, W], the former in the colours of the latter.

    None where no pixel of the right half counts.

    A photo that was not learned from has an exposure and a white balance which no model can know. The affine colour
    transform that brings the rendering nearest to the photo in the left half (least squares, over the pixels that
    count) is applied to the right half, where it is scored: no pixel is scored that the fit has seen. So do 3DGS and
    its successors with exposures that they train on the left halves.
    """
    middle = image.shape[2] // 2
    if mask is not None and not mask[:, middle:].any():
        return None
    seen, wanted = image[:, :, :middle].flatten(1), truth[:, :, :middle].flatten(1)
    if mask is not None:
        counts = mask[:, :middle].flatten()
        seen, wanted = seen[:, counts], wanted[:, counts]
    transform = _colour_fit(seen.double(), wanted.double()).to(image.dtype)
    right = adjusted(image[:, :, middle:], transform).clamp(0, 1)
    return right, truth[:, :, middle:], None if mask is None else mask[:, middle:]


def _colour_fit(seen: Tensor, wanted: Tensor) -> Tensor:
    """[A | b], [3, 4], such that A · seen + b is nearest to wanted, [3, P] both.

    A little weight on the identity decides where the pixels do not: a wall of one colour, or none that count.
    """
    identity = torch.eye(3, 4, dtype=seen.dtype, device=seen.device)
    samples = torch.cat([seen, torch.ones_like(seen[:1])])
    scatter = samples @ samples.T + 1e-3 * torch.eye(4, dtype=seen.dtype, device=seen.device)
    fit: Tensor = torch.linalg.solve(scatter, samples @ (wanted - identity @ samples).T)
    return identity + fit.T


def blacked_out(image: Tensor, mask: Tensor | None) -> Tensor:
    """`image` [3, H, W], black where `mask` [H, W] is False."""
    return image if mask is None else image * mask


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of [3, H, W] over all channels, and over the pixels that count."""
    return values.mean() if mask is None else (values * mask).sum() / (len(values) * mask.sum())


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
    """The perceptual metric, or the reason why it cannot be had. `distance` takes images [3, H, W] in [0, 1].

    It is a mean over the features of whole images: where a mask hides pixels, give it both `blacked_out`.
    """

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
        return Lpips(None, 'the package lpips is not installed: pip install ".[lpips]" in the folder of gns')
    try:
        network = lpips.LPIPS(net="vgg", eval_mode=True, verbose=False).to(device)
    except Exception as error:  # whatever a failed download raises, in whichever library
        return Lpips(None, f"the weights of LPIPS cannot be loaded ({error})")

    def distance(image: Tensor, truth: Tensor) -> float:
        with torch.no_grad():
            return float(network(image[None].to(device), truth[None].to(device)))

    return Lpips(distance)
