"""Score rendered views as the published tables of 3DGS were: on the written 8-bit PNGs, per image, then averaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from gns.arguments import MetricsConfig, TrainConfig
from gns.errors import UserError
from gns.gaussian_renderer.devices import pick_device
from gns.metrics import Lpips, blacked_out, fitted_halves, load_lpips, psnr, ssim
from gns.run_folder import RunFolder
from gns.utils.atomic_files import write_text
from gns.utils.png import from_eight_bit, read_png

_METRICS = ("SSIM", "PSNR", "LPIPS")
_FITTED = ("SSIM_fitted", "PSNR_fitted")  # of right halves, with colours fitted on the left ones (`gns.metrics`)

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
            run = RunFolder.open(path)
            fits_exposure = config.fit_exposure or (isinstance(run.config, TrainConfig) and run.config.exposure)
            results = evaluate_run(run, device=device, fits_exposure=fits_exposure, quiet=config.quiet)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        if not config.quiet:
            print(_report(path, results), flush=True)
    return status


def evaluate_run(run: RunFolder, *, device: str, fits_exposure: bool = False, quiet: bool) -> dict[str, dict[str, Any]]:
    """Score every rendered test set of `run`, write results.json and per_view.json, and return the former.

    `fits_exposure` adds what the right halves score once the colours are fitted on the left ones.
    Raises UserError where nothing is rendered.
    """
    methods = sorted(path.name for path in (run.path / "test").glob("*") if (path / "renders").is_dir())
    if not methods:
        raise UserError(f"{run.path} holds no rendered test views: run render.py -m {run.path} first")
    lpips = load_lpips(device)
    metrics = (*_METRICS, *(_FITTED if fits_exposure else ()))
    results: dict[str, dict[str, Any]] = {}
    per_view: dict[str, dict[str, dict[str, float | None]]] = {}
    for method in methods:
        by_image = _score_folder(run.path / "test" / method, lpips, fits_exposure=fits_exposure, quiet=quiet)
        results[method] = {metric: _mean([scores[metric] for scores in by_image.values()]) for metric in metrics}
        if lpips.distance is None:
            results[method]["LPIPS_absent"] = lpips.absent_because
        if model := run.rendered_model("test", method):
            results[method]["model_sha256"] = model
        if masked := sum(_mask_of(run.path / "test" / method, name) is not None for name in by_image):
            results[method]["masked_views"] = masked
        per_view[method] = {metric: {name: by_image[name][metric] for name in by_image} for metric in metrics}
    write_text(run.results_path, json.dumps(results, indent=2) + "\n")
    write_text(run.per_view_path, json.dumps(per_view, indent=2) + "\n")
    return results


def _report(path: Path, results: dict[str, dict[str, Any]]) -> str:
    lines = [str(path)]
    for method, scores in results.items():
        lpips = f"{scores['LPIPS']:.4f}" if scores["LPIPS"] is not None else f"absent: {scores['LPIPS_absent']}"
        masked = f"  ({scores['masked_views']} with a mask: pixels that count)" if "masked_views" in scores else ""
        lines.append(f"  {method}  SSIM {scores['SSIM']:.4f}  PSNR {scores['PSNR']:.3f}  LPIPS {lpips}{masked}")
        if scores.get("PSNR_fitted") is not None:
            lines.append(
                f"  {'':{len(method)}}  SSIM {scores['SSIM_fitted']:.4f}  "
                f"PSNR {scores['PSNR_fitted']:.3f}  of right halves, exposure fitted on the left"
            )
    return "\n".join(lines)


def _score_folder(folder: Path, lpips: Lpips, *, fits_exposure: bool, quiet: bool) -> dict[str, Scores]:
    """The scores of all renders in `folder`/renders by PNG name."""
    names = sorted(path.name for path in (folder / "renders").glob("*.png"))
    truths = sorted(path.name for path in (folder / "gt").glob("*.png"))
    if not names or names != truths:
        raise UserError(f"{folder} is not complete ({len(names)} renders, {len(truths)} photos): run render.py again")
    shown = tqdm(names, desc=f"scoring {folder.name}", unit="image", disable=quiet, leave=False)
    return {
        name: score_image(
            folder / "renders" / name,
            folder / "gt" / name,
            lpips,
            _mask_of(folder, name),
            fits_exposure=fits_exposure,
        )
        for name in shown
    }


def _mask_of(folder: Path, name: str) -> Path | None:
    """The mask of the rendered view `name`, where render.py wrote one."""
    path = folder / "masks" / name
    return path if path.exists() else None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
