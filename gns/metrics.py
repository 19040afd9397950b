"""PSNR, SSIM and LPIPS, measured as the published tables of 3DGS were.

Scores are taken on the written 8-bit PNGs, per image, then averaged over the images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm

from gns.arguments import MetricsConfig
from gns.errors import UserError
from gns.gaussian_renderer.devices import pick_device
from gns.run_folder import RunFolder
from gns.utils.atomic_files import write_text
from gns.utils.png import from_eight_bit, read_png

_SSIM_WINDOW = 11
_SSIM_SIGMA = 1.5
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2
_SMALLEST_ERROR = 1e-10  # identical images then score 100 dB: a mean over images stays finite

_METRICS = ("SSIM", "PSNR", "LPIPS")

Scores = dict[str, float | None]


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


def score_image(render: Path, truth: Path, lpips: Lpips) -> Scores:
    """The scores of one PNG against another of the same size; LPIPS is None where it cannot be had.

    Raises UserError where a file is missing, no image or of another size.
    """
    image, target = from_eight_bit(read_png(render)), from_eight_bit(read_png(truth))
    if image.shape != target.shape:
        raise UserError(f"{render} and {truth} differ in size: delete their folder and render again")
    return {
        "SSIM": ssim(image, target),
        "PSNR": psnr(image, target),
        "LPIPS": lpips.distance(image, target) if lpips.distance else None,
    }


def evaluate_models(config: MetricsConfig) -> int:
    """Score the rendered test views of several models and print the means.

    Returns the exit status: 2 where a model could not be scored, which leaves the others alone.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    status = 0
    device = str(pick_device(config.device, renders=False))
    for path in config.model_paths:
        try:
            results = evaluate_run(RunFolder.open(path), device=device, quiet=config.quiet)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        if not config.quiet:
            print(_report(path, results), flush=True)
    return status


def evaluate_run(run: RunFolder, *, device: str, quiet: bool) -> dict[str, dict[str, Any]]:
    """Score every rendered test set of `run`, write results.json and per_view.json, and return the former.

    Raises UserError where nothing is rendered.
    """
    methods = sorted(path.name for path in (run.path / "test").glob("*") if (path / "renders").is_dir())
    if not methods:
        raise UserError(f"{run.path} holds no rendered test views: run render.py -m {run.path} first")
    lpips = load_lpips(device)
    results: dict[str, dict[str, Any]] = {}
    per_view: dict[str, dict[str, dict[str, float | None]]] = {}
    for method in methods:
        by_image = _score_folder(run.path / "test" / method, lpips, quiet=quiet)
        results[method] = {metric: _mean([scores[metric] for scores in by_image.values()]) for metric in _METRICS}
        if lpips.distance is None:
            results[method]["LPIPS_absent"] = lpips.absent_because
        per_view[method] = {metric: {name: by_image[name][metric] for name in by_image} for metric in _METRICS}
    write_text(run.results_path, json.dumps(results, indent=2) + "\n")
    write_text(run.per_view_path, json.dumps(per_view, indent=2) + "\n")
    return results


def _report(path: Path, results: dict[str, dict[str, Any]]) -> str:
    lines = [str(path)]
    for method, scores in results.items():
        lpips = f"{scores['LPIPS']:.4f}" if scores["LPIPS"] is not None else f"absent: {scores['LPIPS_absent']}"
        lines.append(f"  {method}  SSIM {scores['SSIM']:.4f}  PSNR {scores['PSNR']:.3f}  LPIPS {lpips}")
    return "\n".join(lines)


def _score_folder(folder: Path, lpips: Lpips, *, quiet: bool) -> dict[str, Scores]:
    """The scores of all renders in `folder`/renders by PNG name."""
    names = sorted(path.name for path in (folder / "renders").glob("*.png"))
    truths = sorted(path.name for path in (folder / "gt").glob("*.png"))
    if not names or names != truths:
        raise UserError(f"{folder} is not complete ({len(names)} renders, {len(truths)} photos): run render.py again")
    shown = tqdm(names, desc=f"scoring {folder.name}", unit="image", disable=quiet, leave=False)
    return {name: score_image(folder / "renders" / name, folder / "gt" / name, lpips) for name in shown}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
