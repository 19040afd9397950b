"""Read a scene, train, and leave everything in the output folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from gns.arguments import TrainConfig
from gns.cli import STOPPED
from gns.commands.render import scene_options
from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.devices import pick_device
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene
from gns.scene.digest import scene_digest
from gns.scene.inspection import doubts, sampled_sight, summary
from gns.scene.readers import read_scene
from gns.scene.suggestion import training_pixels
from gns.team import Team, device_option, joined_team
from gns.training.loop import train, with_budget
from gns.utils.console import say, warn
from gns.utils.torchrun import place
from gns.viewer.window import check_port, viser_or_sentence


def run_training(config: TrainConfig) -> int:
    """What train.py does. Returns the exit status: `STOPPED` where it was asked to stop and a checkpoint is saved.

    Under torchrun every process calls this, and they train together. Raises UserError.
    """
    # Refuses, before anything is written, what cannot be trained on or shown.
    if config.viewer:
        viser_or_sentence()
        check_port(config.viewer_port)
    device = pick_device(device_option(config.device, place()))
    with joined_team(device) as team:
        return _train_together(config if team.is_main else replace(config, quiet=True), team, device)


def _train_together(config: TrainConfig, team: Team, device: torch.device) -> int:
    """`run_training` for a process of `team`; only the first one writes."""
    run = RunFolder(config.model_path, config)
    with run.locked() if team.is_main else nullcontext():
        return _train_in(run, config, team, device)


def _train_in(run: RunFolder, config: TrainConfig, team: Team, device: torch.device) -> int:
    if team.is_main:
        RunFolder.create(run.path, config)
    if config.resume and config.iterations in run.saved_iterations():
        say(f"{config.model_path} is finished: its model is {run.model_path(config.iterations)}", config.quiet)
        return 0
    scene = read_scene(config.source_path, scene_options(config), lambda text: say(text, config.quiet))
    seen = sampled_sight(scene)
    say(summary(scene, seen), config.quiet)
    for doubt in doubts(scene, seen):
        say(f"warning: {doubt}", config.quiet)
    if config.final_budget is None and (config := with_budget(config, scene)).final_budget is not None:
        say(_proposal(config.final_budget, scene), config.quiet)
        if team.is_main:
            run = RunFolder.create(run.path, config)  # config.json has the number from now on
    if team.is_main:
        run.scene_digest = scene_digest(scene)
    checkpoint = _checkpoint(config, run, team)
    if team.is_main:
        run.write_scene(scene)
    say(f"training on {backend_of(device).description}", config.quiet)
    if team.size > 1:
        say(f"{team.size} processes: each of {config.iterations:,} iterations takes {team.size} views", config.quiet)
    state = train(scene, config, resume_from=checkpoint, run=run if team.is_main else None, team=team, device=device)
    return 0 if state.iteration == config.iterations else STOPPED


def _proposal(budget: int, scene: Scene) -> str:
    pixels = training_pixels(scene.train) / 1e6
    return (
        f"no --final-budget given: training to {budget:,} Gaussians, a fraction of what {pixels:.1f} million pixels "
        f"and {len(scene.points.positions):,} points suggest"
    )


def _checkpoint(config: TrainConfig, run: RunFolder, team: Team) -> Mapping[str, Any] | None:
    """The state to start from, where there is one."""
    if config.resume:
        if run.checkpoint_iterations():
            return run.load_checkpoint(warn) if team.is_main else run.load_checkpoint()
        say(f"{run.path} holds no checkpoint yet: starting from the beginning", config.quiet)
    return read_checkpoint(config.start_checkpoint) if config.start_checkpoint else None
