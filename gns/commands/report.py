"""Write report.html of a run, and one page about several; what training does at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gns.arguments import TrainConfig
from gns.commands.options import CompareConfig, ReportConfig
from gns.commands.render import draw_split, read_scene_of
from gns.errors import UserError
from gns.gaussian_renderer.devices import pick_device
from gns.gaussian_renderer.threads import renderer_threads
from gns.metrics import Lpips
from gns.report import write_comparison, write_report
from gns.report.page import REPORT
from gns.run_folder import RunFolder
from gns.scene import Scene
from gns.scoring import mask_of, mean_scores, metrics_of, score_folder
from gns.summary import Summary, write_summary
from gns.utils.console import say, warn

__all__ = ["REPORT", "compare_runs", "conclude", "refresh_reports", "report_run"]

_NO_LPIPS = Lpips(None, "training does not measure it: run metrics.py")


def conclude(run: RunFolder, config: TrainConfig, scene: Scene, device: torch.device) -> Summary:
    """Write summary.json and, unless it is unwanted, report.html of a finished training.

    The held-out views are drawn and scored for it as render.py and metrics.py do, which then find them done. What goes
    wrong is told: the model is safe, and the training no failure.
    """
    held_out: dict[str, Any] | None = None
    try:
        if config.report and scene.test:
            with renderer_threads(config.threads):
                draw_held_out(run, config.iterations, scene, device, quiet=config.quiet)
                held_out = scores_of(run, config.iterations, quiet=config.quiet)
        summary = write_summary(run, config, scene, device, held_out)
        if config.report:
            with renderer_threads(config.threads):  # it draws a little, for the viewer
                page = write_report(run.path)
            say(f"report: {page}", config.quiet)
    except (UserError, OSError) as error:
        warn(f"the model is saved, but not its report: {error}")
        return {}
    return summary


def draw_held_out(run: RunFolder, iteration: int, scene: Scene, device: torch.device, *, quiet: bool) -> None:
    """Write the PNGs of held-out views that are not there yet. Raises UserError."""
    gaussians = replace(run.load_model(iteration), frame=scene.frame).to(device)
    with run.rendering("test", iteration):
        draw_split(run, iteration, "test", scene.test, gaussians, scene, {}, quiet=quiet)


def scores_of(run: RunFolder, iteration: int, *, quiet: bool) -> dict[str, Any]:
    """Means over the held-out views but for LPIPS, and scores by metric and PNG, as metrics.py has them."""
    folder = run.renders_path("test", iteration).parent
    fits_exposure = isinstance(run.config, TrainConfig) and run.config.exposure
    by_image = score_folder(folder, _NO_LPIPS, fits_exposure=fits_exposure, quiet=quiet)
    masked = sum(mask_of(folder, name) is not None for name in by_image)
    return {
        **mean_scores(by_image, _NO_LPIPS),
        **({"masked_views": masked} if masked else {}),
        "per_view": {
            metric: {name: scores[metric] for name, scores in by_image.items()} for metric in metrics_of(by_image)
        },
    }


def report_run(config: ReportConfig) -> None:
    """Remake report.html of a finished run, from its files where they suffice.

    Raises UserError where it has no model, or its held-out views are not drawn and the scene cannot be read.
    """
    run = RunFolder.open(config.model_path)
    iteration = run.resolve_iteration(None)
    drawn = run.renders_path("test", iteration)
    if not any(drawn.glob("*.png")):
        scene = read_scene_of(run.config, config.source_path, quiet=config.quiet)
        if scene.test:
            with renderer_threads(config.threads):
                draw_held_out(run, iteration, scene, pick_device(config.device), quiet=config.quiet)
    with renderer_threads(config.threads):
        page = write_report(run.path)
    say(f"report: {page}", config.quiet)


def refresh_reports(folders: Iterable[str]) -> None:
    """Let the reports that are there tell the scores that metrics.py has found."""
    for folder in map(Path, folders):
        if (folder / REPORT).exists():
            try:
                write_report(folder)
            except (UserError, OSError) as error:
                warn(f"{folder / REPORT} is as it was: {error}")


def compare_runs(config: CompareConfig) -> None:
    """Write one page about several runs. Raises UserError."""
    if len(config.model_paths) < 2:
        raise UserError("a comparison needs at least two output folders: name them one after the other")
    write_comparison(config.model_paths, config.output)
    say(f"comparison: {config.output}", config.quiet)
