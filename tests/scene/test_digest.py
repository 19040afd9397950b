"""What a run learns from has a digest: it changes with every part, and with nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from gns.scene.digest import scene_digest
from gns.testing.tiny import tiny_scene


def test_it_changes_with_all_that_is_learned_from() -> None:
    scene = tiny_scene(train_views=2, test_views=1, count=20, points=10)
    first, second = scene.train
    pixels, pose = first.image.clone(), first.camera.world_to_camera.copy()
    pixels[-1, -1, -1] ^= 1
    pose[0, 3] = np.nextafter(pose[0, 3], 9)
    mask = torch.ones(pixels.shape[:2], dtype=torch.bool)
    mask[0, 0] = False
    changed = [
        replace(scene, train=[replace(first, image=pixels), second]),
        replace(scene, train=[replace(first, mask=mask), second]),
        replace(scene, train=[replace(first, mask=mask | True), second]),
        replace(scene, train=[replace(first, camera=replace(first.camera, world_to_camera=pose)), second]),
        replace(scene, train=[replace(first, camera=replace(first.camera, cx=1.0)), second]),
        replace(scene, train=[replace(first, camera=replace(first.camera, name="other")), second]),
        replace(scene, train=[second, first]),
        replace(scene, train=[first]),
        replace(scene, extent=2.0),
        replace(scene, background=(0.0, 0.0, 0.5)),
    ]
    assert len({scene_digest(each) for each in [scene, *changed]}) == 1 + len(changed)


def test_it_is_the_same_for_the_same() -> None:
    scenes = [tiny_scene(train_views=2, test_views=views, count=20, points=10) for views in (1, 1)]
    again = replace(scenes[1], name="moved", test=[])
    assert scene_digest(scenes[0]) == scene_digest(again)
