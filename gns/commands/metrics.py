"""Score rendered views as the published tables of 3DGS were: on the written 8-bit PNGs, per image, then averaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from gns.arguments import MetricsConfig, TrainConfig
from gns.errors import UserError
from gns.gaussian_renderer.devices import pick_device
from gns.metrics import load_lpips
from gns.run_folder import RunFolder
from gns.scoring import mask_of, mean_scores, metrics_of, score_folder
from gns.utils.atomic_files import write_text
from gns.utils.text import by_number


def evaluate_models(config: MetricsConfig, told: dict[str, Any] | None = None) -> int:
    """Score the rendered test views of several models and print the means; `told` gets them by the models' folders.

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
        if told is not None:
            told[str(path)] = results
        if not config.quiet:
            print(_report(path, results), flush=True)
    return status


def evaluate_run(run: RunFolder, *, device: str, fits_exposure: bool = False, quiet: bool) -> dict[str, dict[str, Any]]:
    """Score every rendered test set of `run`, write results.json and per_view.json, and return the former.

    `fits_exposure` adds what the right halves score once the colours are fitted on the left ones.
    Raises UserError where nothing is rendered.
    """
    methods = sorted(
        (path.name for path in (run.path / "test").glob("*") if (path / "renders").is_dir()), key=by_number
    )
    if not methods:
        raise UserError(f"{run.path} holds no rendered test views: run render.py -m {run.path} first")
    lpips = load_lpips(device)
    results: dict[str, dict[str, Any]] = {}
    per_view: dict[str, dict[str, dict[str, float | None]]] = {}
    for method in methods:
        by_image = score_folder(run.path / "test" / method, lpips, fits_exposure=fits_exposure, quiet=quiet)
        results[method] = mean_scores(by_image, lpips)
        if model := run.rendered_model("test", method):
            results[method]["model_sha256"] = model
        if masked := sum(mask_of(run.path / "test" / method, name) is not None for name in by_image):
            results[method]["masked_views"] = masked
        per_view[method] = {
            metric: {name: scores[metric] for name, scores in by_image.items()} for metric in metrics_of(by_image)
        }
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
