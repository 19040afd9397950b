"""A scene small enough to train on in a second, the options of such a run, and whether two runs ended alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from gns.arguments import TrainConfig
from gns.gaussian_renderer import render
from gns.rules import DEFAULT_METHOD, METHODS, SCHEDULES, Run, optimisation_of
from gns.rules.base import Calendars
from gns.rules.optimisation import StepPeriod
from gns.scene import Camera, Gaussians, PointCloud, Scene, View
from gns.team import SINGLE, Team
from gns.utils.png import to_eight_bit

TINY_BUDGET = 100
TINY_ITERATIONS = 300  # a hundredth of the natural length


def tiny_scene(
    train_views: int = 4, test_views: int = 2, points: int = 120, *, count: int = 400, width: int = 40, height: int = 30
) -> Scene:
    """Photos of `count` small Gaussians, and some of their means as grey points to start from."""
    generator = torch.Generator().manual_seed(0)
    truth = small_gaussians(count, generator)
    views = photographed(truth, cameras_on_an_arc(train_views + test_views, width, height))
    chosen = torch.randperm(count, generator=generator)[:points]
    return Scene(
        "tiny",
        views[:train_views],
        views[train_views:],
        grey_points(truth.means[chosen]),
        extent=1.5,
        background=(0.0, 0.0, 0.0),
    )


def tiny_config(folder: Path = Path("unused"), **changes: Any) -> TrainConfig:
    """A quiet run of TINY_ITERATIONS to TINY_BUDGET Gaussians on one thread; its paths lie in `folder`."""
    options: dict[str, Any] = {
        "source_path": folder / "scene",
        "model_path": folder / "model",
        "final_budget": TINY_BUDGET,
        "iterations": TINY_ITERATIONS,
        "sh_degree": 1,
        "threads": 1,
        "quiet": True,
        "test_iterations": (-1,),
    }
    return TrainConfig(**{**options, **changes})


def tiny_run(budget: int = TINY_BUDGET, views: Sequence[View] = (), team: Team = SINGLE, *, extent: float = 1.0) -> Run:
    """What a rule may know of a run at its natural length."""
    optimisation = optimisation_of(DEFAULT_METHOD, SCHEDULES[0])
    return Run(budget, extent, (0.0, 0.0, 0.0), views, optimisation, team)


def summing_calendars(**changes: Any) -> Calendars:
    """The default method in TINY_ITERATIONS, with gradients summed over several iterations at the end.

    The scaled calendar of so short a run steps in every iteration. `changes` are fields of its `Optimisation`.
    """
    natural = METHODS[DEFAULT_METHOD].schedules[SCHEDULES[0]]
    factor = TINY_ITERATIONS / natural.optimisation.iterations
    periods = (StepPeriod(200, 1, 1), StepPeriod(240, 3, 3), StepPeriod(TINY_ITERATIONS, 7, 14))
    optimisation = replace(natural.optimisation.scaled(factor), step_periods=periods, **changes)
    return Calendars(optimisation, tuple(calendar.scaled(factor) for calendar in natural.rules))


@contextmanager
def planted_calendars(calendars: Calendars) -> Iterator[None]:
    """Let the default method's first schedule be `calendars` inside the block."""
    method = METHODS[DEFAULT_METHOD]
    schedules = {**method.schedules, SCHEDULES[0]: calendars}
    with patch.dict(METHODS, {DEFAULT_METHOD: replace(method, schedules=schedules)}):
        yield


def same_state(first: Any, second: Any) -> bool:
    """Whether two states (numbers, tensors, and dictionaries, lists and tuples of such) are equal to the last bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_state, first, second))
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


def small_gaussians(count: int, generator: torch.Generator, *, sigma: float = 0.06, spread: float = 0.0) -> Gaussians:
    """Coloured, fairly opaque (0.88) Gaussians all over the cube [-1, 1]³.

    Their standard deviations are `sigma`, or log-normal around it with a `spread` (of the logarithm).
    """
    means = 2 * torch.rand(count, 3, generator=generator) - 1
    log_scales = torch.full((count, 3), math.log(sigma))
    if spread:
        log_scales += spread * torch.randn(count, 3, generator=generator)
    return Gaussians(
        means=means,
        log_scales=log_scales,
        quats=torch.randn(count, 4, generator=generator),
        opacity_logits=torch.full((count,), 2.0),
        sh_dc=torch.randn(count, 1, 3, generator=generator),
        sh_rest=torch.zeros(count, 0, 3),
    )


def cameras_on_an_arc(
    count: int, width: int, height: int, *, arc: float = 0.8, focal: float | None = None
) -> list[Camera]:
    """Cameras 4 units from the origin, which they look at, spread over `arc` (radians).

    `focal`, in pixels, is by default `width`.
    """
    focal = width if focal is None else focal
    cameras = []
    for index in range(count):
        angle = arc * (index / max(1, count - 1) - 0.5)
        cos, sin = math.cos(angle), math.sin(angle)
        pose = np.eye(4)
        pose[:3, :3] = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
        pose[2, 3] = 4.0
        cameras.append(Camera(width, height, focal, focal, width / 2, height / 2, pose, f"{index:02d}.png"))
    return cameras


def photographed(truth: Gaussians, cameras: list[Camera]) -> list[View]:
    """What each camera sees of `truth` on black, as a photo of eight bits."""
    return [View(camera, to_eight_bit(render(camera, truth, torch.zeros(3)).image)) for camera in cameras]


def grey_points(positions: Tensor) -> PointCloud:
    """Points at `positions` [N, 3] that tell nothing of their colours."""
    return PointCloud(positions.double().numpy(), np.full((len(positions), 3), 128, np.uint8))
