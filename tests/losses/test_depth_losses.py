"""Supervision by depth maps, and the price of floaters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import RenderOutput, render
from gns.losses.free_space import MARGIN, free_space_loss, nearest_depths
from gns.losses.inverse_depth import decayed_weight, inverse_depth_loss
from gns.scene import PointCloud, Scene, View
from gns.testing.tiny import small_gaussians, tiny_config, tiny_scene
from gns.training.loop import train


def _output(inverse_depth: Tensor) -> RenderOutput:
    empty = torch.empty(0)
    return RenderOutput(empty, empty, empty, empty, inverse_depth)


def _view(scene: Scene, inverse_depth: Tensor, mask: Tensor | None = None) -> View:
    return replace(scene.train[0], inverse_depth=inverse_depth, mask=mask)


def test_the_loss_is_the_mean_distance_and_masked_pixels_give_none() -> None:
    scene, drawn = tiny_scene(), torch.tensor([[0.5, 0.0], [0.25, 1.0]])
    wanted = torch.tensor([[0.25, 0.5], [0.25, 0.0]])
    assert inverse_depth_loss(_output(drawn), _view(scene, wanted)) == pytest.approx(1.75 / 4)
    mask = torch.tensor([[True, True], [True, False]])
    assert inverse_depth_loss(_output(drawn), _view(scene, wanted, mask)) == pytest.approx(0.75 / 4)


def test_the_weight_decays_by_the_same_factor() -> None:
    assert decayed_weight(0, 100, 1.0, 0.01) == pytest.approx(1.0)
    assert decayed_weight(50, 100, 1.0, 0.01) == pytest.approx(0.1)
    assert decayed_weight(100, 100, 1.0, 0.01) == pytest.approx(0.01)


def test_only_what_is_too_near_has_a_price() -> None:
    depth = torch.tensor([[0.5, 1.0], [0.0, 0.4]], requires_grad=True)
    loss = free_space_loss(_output(depth), 2.0)  # 1/2 and less is free
    assert loss.item() == pytest.approx(1.0 / 4)
    loss.backward()  # type: ignore[no-untyped-call]
    assert depth.grad is not None and depth.grad.tolist() == [[0.0, 0.5], [0.0, 0.0]]


def test_the_nearest_depth_is_that_of_the_points_seen() -> None:
    camera = tiny_scene().train[0].camera
    middle = PointCloud(np.zeros((40, 3)), np.zeros((40, 3), np.uint8))
    assert nearest_depths([camera], middle) == pytest.approx([4 * MARGIN])
    few = PointCloud(np.zeros((5, 3)), np.zeros((5, 3), np.uint8))
    behind = PointCloud(np.tile(3 * camera.center, (40, 1)), np.zeros((40, 3), np.uint8))
    assert nearest_depths([camera], few) == nearest_depths([camera], behind) == [0.0]


def _with_depths(scene: Scene) -> Scene:
    """The scene with the inverse depths of its true model."""
    truth = small_gaussians(400, torch.Generator().manual_seed(0))

    def mapped(view: View) -> View:
        return replace(view, inverse_depth=render(view.camera, truth, (0, 0, 0), inverse_depth=True).inverse_depth)

    return replace(scene, train=[mapped(view) for view in scene.train])


def _off(scene: Scene, **options: Any) -> float:
    """How far a trained model's inverse depth is from the map of each view."""
    state = train(scene, tiny_config(iterations=120, **options))
    errors = []
    for view in _with_depths(scene).train:
        drawn = render(view.camera, state.gaussians, (0, 0, 0), inverse_depth=True)
        errors.append(inverse_depth_loss(drawn, view))
    return float(torch.stack(errors).mean())


def test_training_with_depth_maps_comes_nearer_to_them() -> None:
    scene = tiny_scene()
    without, supervised = _off(scene), _off(_with_depths(scene), depth_l1_weight_final=1.0)
    assert supervised < 0.8 * without


def test_depths_are_in_the_units_of_the_scenes_frame() -> None:
    """The same scene a thousand times smaller is trained in a frame of its own; its maps have to follow."""
    scene = _with_depths(tiny_scene())
    factor = 2.0**-10

    def shrunk(view: View) -> View:
        pose = view.camera.world_to_camera.copy()
        pose[:3, 3] *= factor
        assert view.inverse_depth is not None
        return replace(
            view, camera=replace(view.camera, world_to_camera=pose), inverse_depth=view.inverse_depth / factor
        )

    small = replace(
        scene,
        train=[shrunk(view) for view in scene.train],
        points=PointCloud(scene.points.positions * factor, scene.points.colors),
        extent=scene.extent * factor,
    )
    local = small.local()
    scale = small.frame.scale
    assert scale < 1
    for view, before in zip(local.train, scene.train, strict=True):
        assert view.inverse_depth is not None and before.inverse_depth is not None
        torch.testing.assert_close(view.inverse_depth, before.inverse_depth * scale / factor)
