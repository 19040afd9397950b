"""Photos of the corner of a room, two walls and a floor with a pattern on them, from known places."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from gns.scene.camera import Camera

Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT, FOCAL = 256, 192, 240.0
PHOTOS = 9
_SIDE = 4.0  # of the walls and the floor, in world units
_TEXELS = 512


def room_cameras(count: int = PHOTOS) -> list[Camera]:
    """On an arc of 80 degrees round the corner, looking into it, up and down by turns."""
    return [_camera(index, count) for index in range(count)]


def room_photo(camera: Camera) -> npt.NDArray[np.uint8]:
    """What `camera` sees, uint8 [H, W, 3], twice supersampled."""
    u, v = np.meshgrid((np.arange(2 * camera.width) + 0.5) / 2, (np.arange(2 * camera.height) + 0.5) / 2)
    in_camera = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], axis=-1)
    rays = in_camera @ camera.rotation
    nearest, image = np.full(u.shape, np.inf), np.zeros((*u.shape, 3), np.float32)
    for axis in range(3):
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = -camera.center[axis] / rays[:, :, axis]
            across = [camera.center[other] + distance * rays[:, :, other] for other in range(3) if other != axis]
        hit = (distance > 0) & (distance < nearest)
        x, y = (np.nan_to_num(side * _TEXELS / _SIDE).astype(np.float32) for side in across)
        seen = np.asarray(cv2.remap(_pattern(axis), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))
        image[hit], nearest[hit] = seen[hit], distance[hit]
    small = image.reshape(camera.height, 2, camera.width, 2, 3).mean(axis=(1, 3))
    return np.asarray(np.clip(small, 0, 255), np.uint8)


def write_room(folder: Path, count: int = PHOTOS) -> list[Camera]:
    """Write the photos as folder/NAME.jpg and return their cameras."""
    folder.mkdir(parents=True)
    cameras = room_cameras(count)
    for camera in cameras:
        Image.fromarray(room_photo(camera)).save(folder / camera.name, quality=95)
    return cameras


def centre_errors(found: dict[str, Floats], cameras: list[Camera]) -> Floats:
    """Distances [N] of camera centres, by name, from the true ones, after the best similarity (Umeyama, 1991)."""
    truth = np.array([camera.center for camera in cameras if camera.name in found])
    ours = np.array([found[camera.name] for camera in cameras if camera.name in found])
    truth, ours = truth - truth.mean(0), ours - ours.mean(0)
    u, s, vt = np.linalg.svd(truth.T @ ours)
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * signs).sum() / (ours**2).sum()
    errors: Floats = np.linalg.norm(scale * ours @ (u * signs @ vt).T - truth, axis=1)
    return errors


def _pattern(axis: int) -> npt.NDArray[np.float32]:
    """Coloured noise of every size, [T, T, 3], that goes on without a seam."""
    rng = np.random.default_rng(axis)
    pattern = np.zeros((_TEXELS, _TEXELS, 3), np.float32)
    for cells in (8, 16, 32, 64, 128):
        noise = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        noise = np.pad(noise, ((1, 1), (1, 1), (0, 0)), mode="wrap")
        margin = _TEXELS // cells
        large = cv2.resize(noise, None, fx=margin, fy=margin, interpolation=cv2.INTER_CUBIC)
        pattern += large[margin:-margin, margin:-margin] * 45
    return pattern + 110


def _camera(index: int, count: int) -> Camera:
    turn = np.radians(5 + 80 * index / (count - 1))
    height = 1.2 + 0.5 * (index % 3)
    center = np.array([3.2 * np.cos(turn), height, 3.2 * np.sin(turn)])
    forward = np.array([0.6, 0.7, 0.6]) - center
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ center
    return Camera(WIDTH, HEIGHT, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, world_to_camera, f"{index:03d}.jpg")
