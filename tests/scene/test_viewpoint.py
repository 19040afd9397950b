"""Where pages and viewers begin."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gns.scene import Camera
from gns.scene.viewpoint import opening_camera, overview_camera, up_direction
from gns.testing.examples import random_gaussians
from gns.testing.tiny import cameras_on_an_arc


def turned_away(camera: Camera) -> Camera:
    pose = np.diag([-1.0, 1.0, -1.0, 1.0]) @ camera.world_to_camera
    return replace(camera, world_to_camera=pose, name="away")


def test_the_camera_in_the_middle_that_sees_the_model() -> None:
    gaussians = random_gaussians(100)
    cameras = cameras_on_an_arc(9, 40, 30, arc=2.0)
    middle = opening_camera(cameras, gaussians)
    assert middle.name in ("03.png", "04.png", "05.png")
    # The same place, looking away, sees nothing.
    blind = [turned_away(camera) if camera.name == middle.name else camera for camera in cameras]
    assert opening_camera(blind, gaussians).name in {"03.png", "04.png", "05.png"} - {middle.name}
    assert opening_camera(cameras[:1], gaussians) is cameras[0]


def test_the_overview_sees_nearly_all_of_the_model() -> None:
    gaussians = random_gaussians(500)
    camera = overview_camera(gaussians)
    assert camera.project(gaussians.means.double().numpy())[2].mean() > 0.85
    assert overview_camera(random_gaussians(0)).project(np.zeros((1, 3)))[2].all()


def test_up_is_up_in_the_pictures() -> None:
    assert up_direction(cameras_on_an_arc(5, 40, 30)).tolist() == pytest.approx([0, -1, 0])
    upright = cameras_on_an_arc(1, 40, 30)[0]
    overhead = replace(upright, world_to_camera=np.diag([-1.0, -1.0, 1.0, 1.0]) @ upright.world_to_camera)
    assert up_direction([upright, overhead]).tolist() == pytest.approx([0, -1, 0])  # they cancel: the first decides
