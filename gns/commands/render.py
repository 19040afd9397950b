"""Draw a trained model from the cameras of its scene, into numbered PNGs beside the photos and their masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from gns.arguments import RenderConfig, SceneConfig, TrainConfig
from gns.commands.film import drawn_with_maps, film, sampled_scale
from gns.gaussian_renderer.devices import pick_device
from gns.gaussian_renderer.threads import renderer_threads
from gns.run_folder import RunFolder
from gns.scene import Gaussians, Scene, View
from gns.scene.readers import SceneOptions, read_scene
from gns.utils.console import say
from gns.utils.png import write_png


def render_run(config: RenderConfig) -> None:
    """Render the training and held-out views of the model in `config.model_path`, or the video that is asked for.

    Views whose PNGs are there already, and newer than the model, are passed over: a stopped call goes on where it was.
    Raises UserError where the folder, the model or the scene cannot be read, or the PNGs cannot be written.
    """
    run = RunFolder.open(config.model_path)
    iteration = run.resolve_iteration(None if config.iteration == -1 else config.iteration)
    gaussians = run.load_model(iteration)
    scene = read_scene_of(run.config, config.source_path, quiet=config.quiet)
    device = pick_device(config.device)
    gaussians = replace(gaussians, frame=scene.frame, antialiased=gaussians.antialiased or config.antialiasing)
    gaussians = gaussians.to(device)
    if config.video is not None:
        with renderer_threads(config.threads):
            film(config, gaussians, scene)
        return
    splits = (("train", scene.train, config.skip_train), ("test", scene.test, config.skip_test))
    with renderer_threads(config.threads):
        for split, views, skipped in splits:
            if skipped or not views:
                continue
            with run.rendering(split, iteration):
                _render_split(run, iteration, split, views, gaussians, scene, config)


def scene_options(config: SceneConfig) -> SceneOptions:
    """How a scene is read, from the options of a run."""
    return SceneOptions(
        images=config.images,
        resolution=config.resolution,
        eval=config.eval,
        white_background=config.white_background,
        depths=config.depths if isinstance(config, TrainConfig) else "",
        seed=config.seed if isinstance(config, TrainConfig) else 0,
    )


def read_scene_of(config: SceneConfig, source_path: Path | None = None, *, quiet: bool = False) -> Scene:
    """The scene that a run was trained on, from `source_path` where it has moved. Raises UserError like its reader."""
    return read_scene(source_path or config.source_path, scene_options(config), lambda text: say(text, quiet))


def _render_split(
    run: RunFolder,
    iteration: int,
    split: str,
    views: list[View],
    gaussians: Gaussians,
    scene: Scene,
    config: RenderConfig,
) -> None:
    background = torch.tensor(scene.background, device=gaussians.means.device)
    finished_after = run.model_path(iteration).stat().st_mtime
    renders, truths = run.renders_path(split, iteration), run.truth_path(split, iteration)
    masks = run.masks_path(split, iteration)
    outputs = {kind: run.outputs_path(split, iteration, kind) for kind in config.outputs}
    # By the training views in every split, so that all pictures of a model have the same colours.
    scale = sampled_scale([view.camera for view in scene.train], gaussians, background) if outputs else None
    for index, view in enumerate(tqdm(views, desc=f"rendering {split}", unit="view", disable=config.quiet)):
        name = f"{index:05d}.png"
        _write_mask(masks / name, view)  # always: it may have been added or changed since
        # The render is written before its further pictures and after all else: what is there tells what is complete.
        pictures = [renders / name, *(folder / name for folder in outputs.values())]
        if all(path.exists() and path.stat().st_mtime >= finished_after for path in pictures):
            continue
        image, maps = drawn_with_maps(view.camera, gaussians, background, config.outputs, scale)
        write_png(truths / name, view.image)
        write_png(renders / name, image)
        for kind, picture in maps.items():
            write_png(outputs[kind] / name, picture)


def _write_mask(path: Path, view: View) -> None:
    """White where the pixels of `view` count; no file where all do."""
    if view.mask is None:
        path.unlink(missing_ok=True)
    else:
        write_png(path, (view.mask.to(torch.uint8) * 255).cpu())
