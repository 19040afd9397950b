"""Walks round the still life with a camera and writes what COLMAP would: photos, poses and a sparse point cloud."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from gns.demo.lighting import CHUNK, Thing, bake, radiance, room_distances
from gns.demo.solids import Floats, first_hits, normalised
from gns.demo.still_life import still_life
from gns.scene.camera import Camera

PHOTOS = 48
WIDTH, HEIGHT = 320, 240
FOCAL = 292.0
PRINCIPAL_POINT = (166.5, 115.25)  # off the centre, as in a real camera
SUPERSAMPLING = 3  # rays along each side of a pixel
POINTS = 8000
POINT_NOISE = 0.004  # standard deviation in world units, a third of a pixel in a typical photo

# The still life is modelled with z up; COLMAP reconstructions, and the viewers of our models, have y down.
WORLD_FROM_MODEL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


def write_demo_scene(folder: Path) -> None:
    """Render the demo scene into `folder`: images/NNN.png and sparse/0/{cameras,images,points3D}.txt.

    The same machine writes the same bytes every time.
    """
    things = bake(still_life())
    cameras = demo_cameras()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "sparse" / "0").mkdir(parents=True, exist_ok=True)
    for camera in cameras:
        Image.fromarray(photograph(things, camera)).save(folder / "images" / camera.name)
    positions, colors = sparse_points(things, cameras)
    _write_colmap_text(folder / "sparse" / "0", cameras, positions, colors)


def demo_cameras() -> list[Camera]:
    """Views from all round, low and high, far and near."""
    return [_camera(i) for i in range(PHOTOS)]


def photograph(things: list[Thing], camera: Camera) -> npt.NDArray[np.uint8]:
    """An anti-aliased photo, uint8 [H, W, 3]: the mean radiance over each pixel, gamma-encoded."""
    fine = np.empty((3, camera.height * SUPERSAMPLING * camera.width * SUPERSAMPLING), np.float32)
    for start in range(0, fine.shape[1], CHUNK):
        rays = np.arange(start, min(start + CHUNK, fine.shape[1]))
        row, column = np.divmod(rays, camera.width * SUPERSAMPLING)
        origin, directions = _rays(camera, (column + 0.5) / SUPERSAMPLING, (row + 0.5) / SUPERSAMPLING)
        fine[:, rays] = radiance(things, origin, directions)
    # Clipped before averaging: a highlight a hundred times too bright would leave a jagged edge.
    samples = np.minimum(fine, 1).reshape(3, camera.height, SUPERSAMPLING, camera.width, SUPERSAMPLING)
    return _encoded(samples.mean(axis=(2, 4)).transpose(1, 2, 0))


def sparse_points(things: list[Thing], cameras: list[Camera]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """World positions [P, 3] and colours [P, 3] where random rays of the cameras meet the scene, with noise."""
    rng = np.random.default_rng(7)
    solids = [thing.solid for thing in things]
    positions, colors = [], []
    for camera in cameras:
        u, v = rng.uniform(0, (camera.width, camera.height), (POINTS // len(cameras), 2)).T
        origin, directions = _rays(camera, u, v)
        distance = np.minimum(first_hits(solids, origin, directions)[0], room_distances(origin, directions))
        points = (origin + directions * distance).T.astype(np.float64)
        positions.append((points + rng.normal(0, POINT_NOISE, points.shape)) @ WORLD_FROM_MODEL.T)
        colors.append(_encoded(radiance(things, origin, directions).T))
    return np.concatenate(positions), np.concatenate(colors)


def _camera(index: int) -> Camera:
    # Every eighth photo is held out. 19 is prime to 48 and 8·19 = 8 (mod 48), so all photos stand evenly round the
    # table and the held-out ones do too. Heights fill the range evenly as well: 8·0.672745 mod 1 is the golden section.
    azimuth = 2 * np.pi * (19 * index % PHOTOS) / PHOTOS
    height = (0.4 + 0.672745 * index) % 1
    elevation = np.radians(14 + 40 * height)
    distance = 3.55 - 0.5 * (0.618034 * index % 1)
    center = distance * np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    target = np.array([0.05, -0.05, 0.2 - 0.05 * height])
    forward = (target - center) / np.linalg.norm(target - center)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = rotation @ WORLD_FROM_MODEL.T
    world_to_camera[:3, 3] = -rotation @ center
    return Camera(WIDTH, HEIGHT, FOCAL, FOCAL, *PRINCIPAL_POINT, world_to_camera, f"{index:03d}.png")


def _rays(camera: Camera, u: npt.NDArray[np.float64], v: npt.NDArray[np.float64]) -> tuple[Floats, Floats]:
    """The camera's centre [3, 1] and unit directions [3, n] through pixel positions (u, v), in the model's frame."""
    in_camera = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)])
    directions = WORLD_FROM_MODEL.T @ camera.rotation.T @ in_camera
    return np.asarray((WORLD_FROM_MODEL.T @ camera.center)[:, None], np.float32), normalised(directions)


def _encoded(linear: Floats) -> npt.NDArray[np.uint8]:
    """8-bit values of linear radiance, gamma 2.2."""
    return np.asarray(np.round(255 * np.clip(linear, 0, 1) ** (1 / 2.2)), np.uint8)


def _write_colmap_text(
    folder: Path, cameras: list[Camera], positions: npt.NDArray[np.float64], colors: npt.NDArray[np.uint8]
) -> None:
    first = cameras[0]
    intrinsics = f"{first.width} {first.height} {first.fx} {first.fy} {first.cx} {first.cy}"
    (folder / "cameras.txt").write_text(f"# CAMERA_ID MODEL WIDTH HEIGHT fx fy cx cy\n1 PINHOLE {intrinsics}\n")

    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of 2D points (none here)"]
    for number, camera in enumerate(cameras, start=1):
        pose = " ".join(f"{value:.12g}" for value in (*_quaternion(camera.rotation), *camera.translation))
        images += [f"{number} {pose} 1 {camera.name}", ""]
    (folder / "images.txt").write_text("\n".join(images) + "\n")

    points = ["# POINT3D_ID X Y Z R G B ERROR TRACK (empty here)"]
    for number, ((x, y, z), (r, g, b)) in enumerate(zip(positions, colors, strict=True), start=1):
        points.append(f"{number} {x:.6f} {y:.6f} {z:.6f} {r} {g} {b} 0.3")
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")


def _quaternion(rotation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Unit quaternion (w, x, y, z) of a rotation matrix: the top eigenvector of Bar-Itzhack's symmetric matrix."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx + yy + zz, zy - yz, xz - zx, yx - xy],
            [zy - yz, xx - yy - zz, yx + xy, zx + xz],
            [xz - zx, yx + xy, yy - xx - zz, zy + yz],
            [yx - xy, zx + xz, zy + yz, zz - xx - yy],
        ]
    )
    quaternion: npt.NDArray[np.float64] = np.linalg.eigh(matrix).eigenvectors[:, -1]
    return quaternion if quaternion[0] >= 0 else -quaternion
