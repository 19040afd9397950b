"""Small scenes written to disk in every format that gns reads."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gns.scene import Camera, PointCloud
from gns.utils.undistortion import MODELS

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SmallScene:
    """Cameras on an arc round coloured points, and what they see: discs on a grey ramp."""

    cameras: list[Camera]  # named 00.png, 01.png, …
    images: list[Pixels]
    points: PointCloud


def small_scene(
    count: int = 9,
    width: int = 40,
    height: int = 30,
    points: int = 60,
    seed: int = 0,
    drawn: Iterable[int] | None = None,
) -> SmallScene:
    """The same scene for the same arguments; of its `count` photos those that are `drawn`, by default all."""
    generator = np.random.default_rng(seed)
    cloud = PointCloud(generator.uniform(-1, 1, (points, 3)), generator.integers(0, 256, (points, 3), dtype=np.uint8))
    cameras = [_camera(index, count, width, height) for index in drawn or range(count)]
    return SmallScene(cameras, [_picture(camera, cloud) for camera in cameras], cloud)


def write_colmap(
    folder: Path,
    scene: SmallScene,
    *,
    binary: bool = True,
    sparse: str = "sparse/0",
    images: str = "images",
    model: str = "PINHOLE",
    coefficients: Sequence[float] = (),
    photos: SmallScene | None = None,
    encoding: str = "utf-8",
) -> Path:
    """Write `scene` as COLMAP would, one camera a photo, and return `folder`.

    With a `model` other than PINHOLE its parameters are the cameras' intrinsics followed by `coefficients`; the
    pictures stay as they are. `photos` are written in place of the scene's where those are called otherwise; names in a
    binary model are in `encoding`.
    """
    _write_images(folder / images, photos or scene)
    target = folder / sparse
    target.mkdir(parents=True, exist_ok=True)
    if binary:
        _write_binary(target, scene, model, coefficients, encoding)
    else:
        _write_text(target, scene, model, coefficients)
    return folder


def write_blender(folder: Path, scene: SmallScene, test_count: int = 3) -> Path:
    """Write `scene` as Blender's format has it, the last `test_count` cameras held out; it has no principal point."""
    cut = len(scene.cameras) - test_count
    for part, chosen in (("train", slice(0, cut)), ("test", slice(cut, None))):
        subset = SmallScene(scene.cameras[chosen], scene.images[chosen], scene.points)
        _write_images(folder / part, subset)
        first = scene.cameras[0]
        content = {
            "camera_angle_x": 2 * math.atan(first.width / (2 * first.fx)),
            "frames": [
                {"file_path": f"./{part}/{Path(camera.name).stem}", "transform_matrix": opengl_pose(camera)}
                for camera in subset.cameras
            ],
        }
        (folder / f"transforms_{part}.json").write_text(json.dumps(content))
    return folder


def write_nerfstudio(
    folder: Path,
    scene: SmallScene,
    common: dict[str, Any] | None = None,
    points: str | None = "binary",
    *,
    prefix: str = "images/",
    photos: SmallScene | None = None,
) -> Path:
    """Write `scene` as a `transforms.json` with intrinsics a frame; `common` joins the file's top level.

    `points`: "binary" or "ascii" PLY, or None for no points. `photos` are written in place of the scene's where those
    are called otherwise; they lie in `images/` whatever `prefix` is put in front of their listed names.
    """
    _write_images(folder / "images", photos or scene)
    content: dict[str, Any] = {"camera_model": "OPENCV", **(common or {}), "frames": []}
    for camera in scene.cameras:
        content["frames"].append(
            {
                "file_path": prefix + camera.name,
                "transform_matrix": opengl_pose(camera),
                "w": camera.width,
                "h": camera.height,
                "fl_x": camera.fx,
                "fl_y": camera.fy,
                "cx": camera.cx,
                "cy": camera.cy,
            }
        )
    if points is not None:
        content["ply_file_path"] = "points.ply"
        write_ply_points(folder / "points.ply", scene.points, ascii_format=points == "ascii")
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def opengl_pose(camera: Camera) -> list[list[float]]:
    """Camera to world with the camera looking along −z, y up."""
    pose = np.linalg.inv(camera.world_to_camera) @ np.diag([1.0, -1.0, -1.0, 1.0])
    rows: list[list[float]] = pose.tolist()
    return rows


def write_ply_points(path: Path, points: PointCloud, *, ascii_format: bool) -> None:
    """x y z as float, red green blue as uchar."""
    header = ["ply", f"format {'ascii' if ascii_format else 'binary_little_endian'} 1.0"]
    header += [f"element vertex {len(points.positions)}", *(f"property float {axis}" for axis in "xyz")]
    header += [*(f"property uchar {color}" for color in ("red", "green", "blue")), "end_header", ""]
    rows = list(zip(points.positions.tolist(), points.colors.tolist(), strict=True))
    if ascii_format:
        body = "".join(" ".join(map(str, [*position, *color])) + "\n" for position, color in rows).encode()
    else:
        body = b"".join(struct.pack("<3f3B", *position, *color) for position, color in rows)
    path.write_bytes("\n".join(header).encode() + body)


def quaternion(rotation: Floats) -> Floats:
    """(w, x, y, z) of a rotation matrix: the eigenvector of Bar-Itzhack's symmetric matrix, good for every angle."""
    m = rotation
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    _, vectors = np.linalg.eigh(k)
    largest: Floats = vectors[:, -1]
    return largest


def _camera(index: int, count: int, width: int, height: int) -> Camera:
    """On an arc of 60° at distance 4, looking at the origin, a little from above."""
    angle = math.radians(60) * (index / max(count - 1, 1) - 0.5)
    center = np.array([4 * math.sin(angle), -0.8, -4 * math.cos(angle)])
    forward = -center / np.linalg.norm(center)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = [right, np.cross(forward, right), forward]
    pose[:3, 3] = -pose[:3, :3] @ center
    focal = 1.2 * width
    return Camera(width, height, focal, focal, 0.52 * width, 0.47 * height, pose, f"{index:02}.png")


def _picture(camera: Camera, points: PointCloud) -> Pixels:
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    picture = np.repeat((40 + 120 * rows / camera.height)[:, :, None], 3, axis=2)
    local = points.positions @ camera.rotation.T + camera.translation
    for index in np.argsort(-local[:, 2]):
        x, y, z = local[index]
        u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
        picture[np.hypot(columns - u, rows - v) < 0.12 * camera.fx / z] = points.colors[index]
    return picture.astype(np.uint8)


def _write_images(folder: Path, scene: SmallScene) -> None:
    for camera, image in zip(scene.cameras, scene.images, strict=True):
        path = folder / camera.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def _parameters(camera: Camera, model: str, coefficients: Sequence[float]) -> list[float]:
    focals = [camera.fx] if MODELS[model].names[0] == "f" else [camera.fx, camera.fy]
    return [*focals, camera.cx, camera.cy, *coefficients]


def _write_binary(folder: Path, scene: SmallScene, model: str, coefficients: Sequence[float], encoding: str) -> None:
    cameras, images = [struct.pack("<Q", len(scene.cameras))], [struct.pack("<Q", len(scene.cameras))]
    for index, camera in enumerate(scene.cameras, start=1):
        parameters = _parameters(camera, model, coefficients)
        cameras.append(struct.pack("<IiQQ", index, MODELS[model].number, camera.width, camera.height))
        cameras.append(struct.pack(f"<{len(parameters)}d", *parameters))
        pose = (*quaternion(camera.rotation), *camera.translation)
        images.append(struct.pack("<I7dI", index, *pose, index) + camera.name.encode(encoding) + b"\0")
        images.append(struct.pack("<QddqddQ", 2, 1.0, 2.0, -1, 3.0, 4.0, 1))  # two observations, to be skipped
    points = [struct.pack("<Q", len(scene.points.positions))]
    for index, (position, color) in enumerate(zip(scene.points.positions, scene.points.colors, strict=True)):
        track = index % 3
        points.append(struct.pack("<Q3d3BdQ", index, *position, *color, 0.5, track) + bytes(8 * track))
    (folder / "cameras.bin").write_bytes(b"".join(cameras))
    (folder / "images.bin").write_bytes(b"".join(images))
    (folder / "points3D.bin").write_bytes(b"".join(points))


def _write_text(folder: Path, scene: SmallScene, model: str, coefficients: Sequence[float]) -> None:
    cameras, images, points = ["# Camera list"], ["# Image list", "#   two lines each"], ["# 3D point list"]
    for index, camera in enumerate(scene.cameras, start=1):
        parameters = " ".join(repr(float(value)) for value in _parameters(camera, model, coefficients))
        cameras.append(f"{index} {model} {camera.width} {camera.height} {parameters}")
        pose = " ".join(repr(float(value)) for value in (*quaternion(camera.rotation), *camera.translation))
        images.append(f"{index} {pose} {index} {camera.name}")
        images.append("1.0 2.0 -1 3.0 4.0 1" if index % 2 else "")
    for index, (position, color) in enumerate(zip(scene.points.positions, scene.points.colors, strict=True)):
        values = " ".join(map(repr, position.tolist())) + " " + " ".join(map(str, color.tolist()))
        points.append(f"{index} {values} 0.5" + " 1 0" * (index % 3))
    (folder / "cameras.txt").write_text("\n".join(cameras) + "\n")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")
