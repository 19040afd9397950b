"""Read a scene, train, and leave everything in the output folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from gns.arguments import TrainConfig
from gns.cli import BUDGET_MISSED, STOPPED
from gns.commands.render import scene_options
from gns.commands.report import conclude
from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.devices import pick_device
from gns.report.page import REPORT
from gns.rules import METHODS
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene
from gns.scene.digest import scene_digest
from gns.scene.inspection import doubts, sampled_sight, summary
from gns.scene.readers import read_scene
from gns.scene.suggestion import training_pixels
from gns.summary import Summary, read_summary
from gns.team import Team, device_option, joined_team
from gns.training.events import Event, Signalled
from gns.training.loop import train, with_budget
from gns.utils.console import say, warn
from gns.utils.ply_file import count_rows
from gns.utils.torchrun import place
from gns.viewer.window import check_port, viser_or_sentence


def run_training(config: TrainConfig) -> int:
    """What train.py does. Returns the exit status.

    128 and a signal's number where that stopped it and a checkpoint is saved, such as `STOPPED`; `BUDGET_MISSED` where
    fewer Gaussians grew than had to. Under torchrun every process calls this, and they train together. Raises
    UserError.
    """
    # Refuses, before anything is written, what cannot be trained on or shown.
    if config.viewer:
        viser_or_sentence()
        check_port(config.viewer_port)
    device = pick_device(device_option(config.device, place()))
    with joined_team(device) as team:
        return _train_together(config if team.is_main else replace(config, quiet=True), team, device)


def training_told(config: TrainConfig) -> Summary:
    """What `--json` says of a training: summary.json, where it is finished."""
    return {"model_path": str(config.model_path), **read_summary(config.model_path)}


def _train_together(config: TrainConfig, team: Team, device: torch.device) -> int:
    """`run_training` for a process of `team`; only the first one writes."""
    run = RunFolder(config.model_path, config)
    with run.locked() if team.is_main else nullcontext():
        return _train_in(run, config, team, device)


def _train_in(run: RunFolder, config: TrainConfig, team: Team, device: torch.device) -> int:
    if team.is_main:
        RunFolder.create(run.path, config)
    is_trained = config.resume and config.iterations in run.saved_iterations()
    if is_trained:
        say(f"{config.model_path} is finished: its model is {run.model_path(config.iterations)}", config.quiet)
        if not config.report or (run.path / REPORT).exists():
            return _status(run, config)
    scene = read_scene(config.source_path, scene_options(config), lambda text: say(text, config.quiet))
    if config.final_budget is None and (config := with_budget(config, scene)).final_budget is not None:
        say(_proposal(config.final_budget, scene), config.quiet)
        if team.is_main:
            run = RunFolder.create(run.path, config)  # config.json has the number from now on
    if not is_trained and (signal := _train_on(scene, run, config, team, device)) is not None:
        return 128 + signal
    if team.is_main:
        conclude(run, config, scene, device)
    return _status(run, config)


def _train_on(scene: Scene, run: RunFolder, config: TrainConfig, team: Team, device: torch.device) -> int | None:
    """Train to the end: None, or to a stop: the number of the signal that asked for it."""
    seen = sampled_sight(scene)
    say(summary(scene, seen), config.quiet)
    for doubt in doubts(scene, seen):
        say(f"warning: {doubt}", config.quiet)
    if team.is_main:
        run.scene_digest = scene_digest(scene)
    checkpoint = _checkpoint(config, run, team)
    if team.is_main:
        run.write_scene(scene)
    say(f"training on {backend_of(device).description}", config.quiet)
    if team.size > 1:
        say(f"{team.size} processes: each of {config.iterations:,} iterations takes {team.size} views", config.quiet)
    signals = [STOPPED - 128]  # of another process of a team, where this one heard of none

    def listen(event: Event) -> None:
        if isinstance(event, Signalled):
            signals.append(event.number)

    state = train(
        scene,
        config,
        resume_from=checkpoint,
        start_from=None if checkpoint else _start(config),
        run=run if team.is_main else None,
        team=team,
        device=device,
        on_event=listen,
    )
    return None if state.iteration == config.iterations else signals[-1]


def _status(run: RunFolder, config: TrainConfig) -> int:
    """The exit status of a finished run."""
    count = count_rows(run.model_path(config.iterations)) if config.require_budget else 0
    if not config.require_budget or config.final_budget is None or count >= config.final_budget:
        return 0
    warn(f"--require-budget: {count:,} Gaussians grew, fewer than {config.final_budget:,}")
    return BUDGET_MISSED


def _proposal(budget: int, scene: Scene) -> str:
    pixels = training_pixels(scene.train) / 1e6
    return (
        f"no --final-budget given: training to {budget:,} Gaussians, a fraction of what {pixels:.1f} million pixels "
        f"and {len(scene.points.positions):,} points suggest"
    )


def _checkpoint(config: TrainConfig, run: RunFolder, team: Team) -> Mapping[str, Any] | None:
    """The state to go on from, where there is one."""
    if not config.resume:
        return None
    if run.checkpoint_iterations():
        return run.load_checkpoint(warn) if team.is_main else run.load_checkpoint()
    if not config.start_checkpoint:
        say(f"{run.path} holds no checkpoint yet: starting from the beginning", config.quiet)
    return None


def _start(config: TrainConfig) -> Mapping[str, Any] | None:
    """The state of another run to start from, which may be of another method."""
    if config.start_checkpoint is None:
        return None
    state = read_checkpoint(config.start_checkpoint)
    say(f"starting from {config.start_checkpoint}", config.quiet)
    known = state.get("rules") if isinstance(state, dict) else None
    if isinstance(known, dict):  # anything else is refused where it is taken over
        begins = [rule.name for rule in METHODS[config.method].rules if rule.name not in known]
        if begins:
            say(f"it is of another method: {', '.join(begins)} begins with what is there", config.quiet)
    return state
