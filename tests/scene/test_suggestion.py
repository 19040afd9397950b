"""The budget of who names none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import gns
from gns.scene import PointCloud, Scene
from gns.scene.suggestion import LEAST, suggested_budget, training_pixels
from gns.testing.tiny import tiny_scene
from gns.training.loop import with_budget


def _scene(views: int, width: int, height: int, points: int) -> Scene:
    view: Any = SimpleNamespace(camera=SimpleNamespace(width=width, height=height))
    cloud = PointCloud(np.zeros((points, 3)), np.zeros((points, 3), np.uint8))
    return cast(Scene, SimpleNamespace(train=[view] * views, points=cloud))


@pytest.mark.parametrize(
    ("views", "width", "height", "points", "budget"),
    [
        (43, 539, 960, 14_654, 56_000),  # 22.25 million pixels / 400
        (100, 800, 800, 0, 160_000),
        (43, 270, 480, 50_000, 25_000),  # half of the points are more than 13,932
        (4, 40, 30, 10, LEAST),
        (250, 1_600, 1_000, 10, 600_000),  # a million would be the other rule's
        (3, 1_000, 1_000, 10, 7_500),
    ],
)
def test_pixels_and_points_suggest_it(views: int, width: int, height: int, points: int, budget: int) -> None:
    assert suggested_budget(_scene(views, width, height, points)) == budget


def test_pixels_are_those_of_the_training_photos() -> None:
    scene = tiny_scene()
    assert training_pixels(scene.train) == 4 * 40 * 30


def test_a_configuration_without_a_budget_gets_the_suggested_one() -> None:
    scene = tiny_scene()
    assert with_budget(gns.Config(), scene).final_budget == LEAST
    assert with_budget(gns.Config(final_budget=200), scene) == gns.Config(final_budget=200)
    assert with_budget(gns.Config(method="3dgs"), scene).final_budget is None
    plan_of_nobody = replace(scene, points=PointCloud(np.zeros((9, 3)), np.zeros((9, 3), np.uint8)))
    assert with_budget(gns.Config(), plan_of_nobody).final_budget == LEAST
