"""A number that changes with anything a run learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from gns.scene.on_demand import in_turn
from gns.scene.scene import Scene
from gns.scene.view import View


def scene_digest(scene: Scene) -> str:
    """SHA-256 of the training views in their order: cameras, pixels, masks, depths; of background and extent.

    The initial points are left out: after the first iteration nothing reads them. About a second a gigabyte of pixels.
    """
    return views_digest(scene.train, [scene.extent, *scene.background])


def views_digest(views: Sequence[View], numbers: Sequence[float] = ()) -> str:
    """SHA-256 of `numbers` and of the views in their order: cameras, pixels and masks."""
    digest = hashlib.sha256(np.array(numbers, "<f8").tobytes())
    for view in in_turn(views):
        camera = view.camera
        digest.update(f"{camera.name}\0{camera.width}\0{camera.height}\0{view.mask is not None}\0".encode())
        digest.update(np.array([camera.fx, camera.fy, camera.cx, camera.cy], "<f8").tobytes())
        digest.update(np.asarray(camera.world_to_camera, "<f8").tobytes())
        for pixels in (view.image, view.mask, view.alpha, view.inverse_depth):
            if pixels is not None:
                digest.update(pixels.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
