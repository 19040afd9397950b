"""Draw a trained model from the cameras of its scene, into numbered PNGs beside the photos and their masks."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gns.appearance.expected import expected_exposures
from gns.arguments import RenderConfig, SceneConfig, TrainConfig
from gns.commands.film import drawn_with_maps, film, sampled_scale
from gns.gaussian_renderer.devices import pick_device
from gns.gaussian_renderer.threads import renderer_threads
from gns.run_folder import RunFolder
from gns.scene import Gaussians, Scene, View
from gns.scene.digest import views_digest
from gns.scene.on_demand import in_turn
from gns.scene.readers import SceneOptions, read_scene
from gns.utils.console import is_terminal, say
from gns.utils.png import write_png


def render_run(config: RenderConfig) -> None:
    """Render the training and held-out views of the model in `config.model_path`, or the video that is asked for.

    Views whose PNGs are there already, of the same model and photos, are passed over: a stopped call goes on where it
    was.
    Raises UserError where the folder, the model or the scene cannot be read, or the PNGs cannot be written.
    """
    run = RunFolder.open(config.model_path)
    iteration = run.resolve_iteration(None if config.iteration == -1 else config.iteration)
    gaussians = run.load_model(iteration)
    scene = read_scene_of(run.config, config.source_path, config.image_memory, quiet=config.quiet)
    device = pick_device(config.device)
    gaussians = replace(gaussians, frame=scene.frame, antialiased=gaussians.antialiased or config.antialiasing)
    gaussians = gaussians.to(device)
    if config.video is not None:
        with renderer_threads(config.threads):
            film(config, gaussians, scene)
        return
    cameras = [[view.camera for view in views] for views in (scene.train, scene.test)]
    splits = (("train", scene.train, config.skip_train), ("test", scene.test, config.skip_test))
    with renderer_threads(config.threads):
        for split, views, skipped in splits:
            if skipped or not views:
                continue
            with run.rendering(split, iteration):
                exposures = run.exposures(iteration)
                if split == "test":
                    exposures = expected_exposures(exposures, *cameras)
                draw_split(
                    run,
                    iteration,
                    split,
                    views,
                    gaussians,
                    scene,
                    exposures,
                    outputs=config.outputs,
                    quiet=config.quiet,
                )


def rendering_told(config: RenderConfig) -> dict[str, Any]:
    """What `--json` says of a rendering: where its pictures lie, and how many there are."""
    run = RunFolder.open(config.model_path)
    iteration = run.resolve_iteration(None if config.iteration == -1 else config.iteration)
    folders = {split: run.renders_path(split, iteration) for split in ("train", "test")}
    return {
        "model_path": str(config.model_path),
        "iteration": iteration,
        "renders": {
            split: {"path": str(folder), "count": len(list(folder.glob("*.png")))}
            for split, folder in folders.items()
            if folder.is_dir()
        },
    }


def scene_options(config: SceneConfig) -> SceneOptions:
    """How a scene is read, from the options of a run."""
    return SceneOptions(
        images=config.images,
        resolution=config.resolution,
        eval=config.eval,
        white_background=config.white_background,
        follow_links=config.follow_links,
        depths=config.depths if isinstance(config, TrainConfig) else "",
        seed=config.seed if isinstance(config, TrainConfig) else 0,
        image_memory=config.image_memory if isinstance(config, TrainConfig) else None,
    )


def read_scene_of(
    config: SceneConfig, source_path: Path | None = None, image_memory: int | None = None, *, quiet: bool = False
) -> Scene:
    """The scene that a run was trained on, from `source_path` where it has moved. Raises UserError like its reader."""
    options = replace(scene_options(config), image_memory=image_memory)
    return read_scene(source_path or config.source_path, options, lambda text: say(text, quiet))


def draw_split(
    run: RunFolder,
    iteration: int,
    split: str,
    views: list[View],
    gaussians: Gaussians,
    scene: Scene,
    exposures: Mapping[str, Tensor],
    *,
    outputs: Sequence[str] = (),
    quiet: bool,
) -> None:
    """Write what `gaussians`, in the scene's frame, look like from `views`, beside their photos and masks.

    A photo is imitated with the exposure that was learned of it, or that is expected of it, where there is one.
    """
    background = torch.tensor(scene.background, device=gaussians.means.device)
    run.begin_renders(split, iteration, views_digest(views, scene.background))
    renders, truths = run.renders_path(split, iteration), run.truth_path(split, iteration)
    masks = run.masks_path(split, iteration)
    kinds = {kind: run.outputs_path(split, iteration, kind) for kind in outputs}
    # By the training views in every split, so that all pictures of a model have the same colours.
    scale = sampled_scale([view.camera for view in scene.train], gaussians, background) if kinds else None
    for index, view in enumerate(
        tqdm(
            in_turn(views),
            total=len(views),
            desc=f"rendering {split}",
            unit="view",
            disable=quiet or not is_terminal(sys.stderr),
        )
    ):
        name = f"{index:05d}.png"
        _write_mask(masks / name, view)
        # The render is written before its further pictures and after all else: what is there tells what is complete.
        if all(path.exists() for path in (renders / name, *(folder / name for folder in kinds.values()))):
            continue
        exposure = exposures.get(view.camera.name)
        image, maps = drawn_with_maps(view.camera, gaussians, background, outputs, scale, exposure)
        write_png(truths / name, view.image)
        write_png(renders / name, image)
        for kind, picture in maps.items():
            write_png(kinds[kind] / name, picture)


def _write_mask(path: Path, view: View) -> None:
    """White where the pixels of `view` count; no file where all do."""
    if view.mask is None:
        path.unlink(missing_ok=True)
    else:
        write_png(path, (view.mask.to(torch.uint8) * 255).cpu())
