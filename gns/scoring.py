"""Scores of rendered views against photos, as published tables of 3DGS have them: PNG by PNG, then averaged."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gns.errors import UserError
from gns.metrics import Lpips, blacked_out, fitted_halves, psnr, ssim
from gns.utils.console import is_terminal
from gns.utils.png import from_eight_bit, read_png

METRICS = ("SSIM", "PSNR", "LPIPS")

Scores = dict[str, float | None]


def score_image(
    render: Path, truth: Path, lpips: Lpips, mask: Path | None = None, *, fits_exposure: bool = False
) -> Scores:
    """The scores of one PNG against another of the same size; LPIPS is None where it cannot be had.

    With the PNG of a mask, only pixels where it is bright are scored (`gns.metrics`). `fits_exposure` adds the scores
    of the right halves with colours fitted on the left ones, None where nothing counts there. Raises UserError where a
    file is missing, no image or of another size.
    """
    image, target = from_eight_bit(read_png(render)), from_eight_bit(read_png(truth))
    counts = None if mask is None else read_png(mask)[:, :, 0] >= 128
    if image.shape != target.shape or (counts is not None and counts.shape != image.shape[1:]):
        raise UserError(f"{render} and {truth} differ in size: delete their folder and render again")
    if counts is not None and not counts.any():
        raise UserError(f"{mask} hides the whole photo: delete its folder and render again")
    shown = [blacked_out(each, counts) for each in (image, target)]
    scores: Scores = {
        "SSIM": ssim(image, target, counts),
        "PSNR": psnr(image, target, counts),
        "LPIPS": lpips.distance(*shown) if lpips.distance else None,
    }
    if fits_exposure:
        halves = fitted_halves(image, target, counts)
        scores |= {"SSIM_fitted": ssim(*halves) if halves else None, "PSNR_fitted": psnr(*halves) if halves else None}
    return scores


def score_folder(folder: Path, lpips: Lpips, *, fits_exposure: bool = False, quiet: bool) -> dict[str, Scores]:
    """The scores of all renders in `folder`/renders by PNG name. Raises UserError where photos and renders differ."""
    names = sorted(path.name for path in (folder / "renders").glob("*.png"))
    truths = sorted(path.name for path in (folder / "gt").glob("*.png"))
    if not names or names != truths:
        raise UserError(f"{folder} is not complete ({len(names)} renders, {len(truths)} photos): run render.py again")
    hidden = quiet or not is_terminal(sys.stderr)
    shown = tqdm(names, desc=f"scoring {folder.name}", unit="image", disable=hidden, leave=False)
    return {
        name: score_image(
            folder / "renders" / name,
            folder / "gt" / name,
            lpips,
            mask_of(folder, name),
            fits_exposure=fits_exposure,
        )
        for name in shown
    }


def metrics_of(by_image: Mapping[str, Scores]) -> list[str]:
    """The names of the scores that images have."""
    return list(next(iter(by_image.values())))


def mean_scores(by_image: Mapping[str, Scores], lpips: Lpips) -> dict[str, Any]:
    """What results.json has of a set of views; with the reason where there is no LPIPS."""
    means: dict[str, Any] = {
        metric: _mean([scores[metric] for scores in by_image.values()]) for metric in metrics_of(by_image)
    }
    if lpips.distance is None:
        means["LPIPS_absent"] = lpips.absent_because
    return means


def mask_of(folder: Path, name: str) -> Path | None:
    """The mask of the rendered view `name`, where render.py wrote one."""
    path = folder / "masks" / name
    return path if path.exists() else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
