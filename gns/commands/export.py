"""Write a model as other programs read it, and say what each file takes and loses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gns.commands.models import GivenModel
from gns.commands.options import ExportConfig
from gns.errors import UserError
from gns.exports import EXPORTS, LOADERS, ending_of, export, load, one_of
from gns.exports.html import page
from gns.exports.reduction import cropped, decimated, with_sh_degree
from gns.gaussian_renderer.devices import pick_device
from gns.gaussian_renderer.threads import renderer_threads
from gns.scene import Gaussians, Scene
from gns.scene.frame import WORLD
from gns.training.listeners.held_out import held_out_psnr
from gns.utils.atomic_files import write_text
from gns.utils.console import say, warn


def export_model(config: ExportConfig, told: list[dict[str, Any]] | None = None) -> None:
    """Write all files that `config` names, a line for each; what the lines say is added to `told`, for `--json`.

    The first line is that of the model itself. Raises UserError where an ending is unknown, the model cannot be read or
    reduced as asked, or a file not be written.
    """
    told = [] if told is None else told
    for path in config.output:
        if ending_of(path, EXPORTS) is None:
            raise UserError(f"{path} names no format that models are written in: let it end in {one_of(EXPORTS)}")
    device = pick_device(config.device)
    with renderer_threads(config.threads):
        given = GivenModel.of(config)
        if any(path.resolve() == given.path.resolve() for path in config.output):
            raise UserError(f"{given.path} is the model itself: give the export another name")
        before = given.gaussians.to(device)
        model = given.with_gaussians(_reduced(config, given, before))
        scene = _scene(config, given)
        psnr = held_out_psnr(_in_frame(before, scene), scene) if scene else math.nan
        told.append(_facts(given.path, before, psnr))
        say(_line(told[-1], scene), config.quiet)
        if (offset := model.gaussians.for_float32()[1]) != WORLD.offset:
            warn(f"the files are relative to {offset}: add that to their coordinates to have the scene's")
        for path in config.output:
            _write(model, path)
            kept = scene and ending_of(path, LOADERS) and held_out_psnr(_decoded(path, model.gaussians, scene), scene)
            told.append(_facts(path, model.gaussians, kept or math.nan, psnr))
            say(_line(told[-1], scene), config.quiet)


def _reduced(config: ExportConfig, given: GivenModel, gaussians: Gaussians) -> Gaussians:
    """As much of the model as is asked for: first the box, then the number, then the degree."""
    if config.crop:
        gaussians = cropped(gaussians, config.crop[:3], config.crop[3:])
    degree = gaussians.sh_degree if config.sh_degree is None else config.sh_degree
    if config.budget is not None:
        if not given.cameras:
            raise UserError(
                "--budget keeps what contributes most to the photos, and the cameras of this model are not known: name "
                "the output folder of its training"
            )
        gaussians = decimated(gaussians, config.budget.gaussians(degree), given.cameras)
    return with_sh_degree(gaussians, degree)


def _scene(config: ExportConfig, given: GivenModel) -> Scene | None:
    """The scene to score on; None, with the reason on stderr, where that cannot be done."""
    if not config.score:
        return None
    try:
        scene = given.scene(quiet=True)
    except UserError as error:
        warn(f"not scored: {error}")
        return None
    if not scene.test:
        warn("not scored: no photo was held out")
        return None
    return scene


def _in_frame(gaussians: Gaussians, scene: Scene) -> Gaussians:
    return replace(gaussians, frame=scene.frame)


def _decoded(path: Path, written: Gaussians, scene: Scene) -> Gaussians:
    """The model in an export, where `written` lies, as it can be drawn from the scene's cameras."""
    again = load(path).to(written.means.device)
    offset = torch.tensor(written.for_float32()[1], dtype=torch.float64, device=again.means.device)
    if ending_of(path, LOADERS) not in (".ply", ".html") and bool(offset.any()):  # those two know where they lie
        again = replace(again, means=again.means.double() + offset)
    return _in_frame(again, scene)


def _write(model: GivenModel, path: Path) -> None:
    if ending_of(path, EXPORTS) != ".html":
        export(model.gaussians, path)
        return
    write_text(path, page(model.gaussians, background=model.background, title=model.title, views=model.cameras))


def _facts(path: Path, gaussians: Gaussians, psnr: float, before: float = math.nan) -> dict[str, Any]:
    """What is told of a file: its size, what is in it and, where known, its score and what that lost."""
    facts: dict[str, Any] = {
        "path": str(path),
        "bytes": path.stat().st_size,
        "gaussians": len(gaussians),
        "sh_degree": 0 if ending_of(path, EXPORTS) == ".splat" else gaussians.sh_degree,  # it has no room for more
    }
    return facts | {key: value for key, value in (("psnr", psnr), ("change", psnr - before)) if not math.isnan(value)}


def _line(facts: dict[str, Any], scene: Scene | None) -> str:
    words = [f"{facts['bytes'] / 1e6:.2f} MB", f"{facts['gaussians']:,} Gaussians of SH degree {facts['sh_degree']}"]
    if scene and "psnr" in facts:
        lost = f" ({facts['change']:+.2f})" if "change" in facts else ""
        words.append(f"{facts['psnr']:.2f} dB{lost} on {len(scene.test)} held-out views")
    return f"{facts['path']}: " + ", ".join(words)
