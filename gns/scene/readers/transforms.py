"""Frames from a `transforms*.json` file: what the Blender, Nerfstudio and instant-ngp formats share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.readers.frames import Frame, SceneOptions, check_frames, find_mask
from gns.utils.images import image_size
from gns.utils.undistortion import Lens
from gns.utils.untrusted_json import parse_json

# Their camera looks along −z with y up; COLMAP's along +z with y down.
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")
# Every perspective name means the same equation, with the coefficients that are given; all others stand for none.
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV")
_FISHEYE = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "FISHEYE")

Json = dict[str, Any]


@dataclass(frozen=True)
class _Entry:
    """One frame's values, with the file's own where the frame has none."""

    path: Path  # of the JSON file
    name: str
    frame: Json
    common: Json

    def get(self, key: str) -> Any:
        return self.frame.get(key, self.common.get(key))

    def number(self, key: str, default: float) -> float:
        """A finite number. Raises UserError where it is something else."""
        value = self.get(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{self.path} gives the photo {self.name} {key} = {value!r}: it must be a finite number")
        return float(value)


def load_json(path: Path) -> Json:
    """The object in the file. Raises UserError where it is missing, cut short or something else."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is cut short or no JSON: restore it ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise UserError(f"{path} has no list of frames: it is no transforms file")
    return content


def read_frames(path: Path, options: SceneOptions) -> list[Frame]:
    """The frames that the JSON file lists.

    `images/…` in its file names becomes the folder of `--images`. A photo's mask is its `mask_path`, else looked for in
    `masks/` beside the file. Raises UserError where the file is damaged or a value makes no sense.
    """
    content = load_json(path)
    frames = [_frame(path, frame, content, options) for frame in content["frames"]]
    check_frames(frames, path)
    return frames


def _frame(path: Path, frame: Any, common: Json, options: SceneOptions) -> Frame:
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str) or not Path(frame["file_path"]).name:
        raise UserError(f"{path} has a frame without a file_path: it is no transforms file")
    name = _locate(path, frame["file_path"], options)
    image_path = path.parent / name
    entry = _Entry(path, name, frame, common)
    return Frame(name, image_path, _mask(entry), _lens(entry, image_path), _world_to_camera(entry))


def _locate(path: Path, file_path: str, options: SceneOptions) -> str:
    """The photo's path relative to the JSON file's folder, where `file_path` may lack its suffix."""
    relative = Path(file_path)
    if options.images != "images" and relative.parts[:1] == ("images",):
        relative = Path(options.images, *relative.parts[1:])
    for suffix in _SUFFIXES:
        candidate = relative.with_name(relative.name + suffix)
        if (path.parent / candidate).is_file():
            return candidate.as_posix()
    raise UserError(
        f"the photo {path.parent / relative}, listed in {path}, does not exist: restore it or remove its entry"
    )


def _mask(entry: _Entry) -> Path | None:
    folder = entry.path.parent
    given = entry.get("mask_path")
    if given is None:
        photo = Path(entry.name)
        inside = Path(*photo.parts[1:]) if photo.parts[0].startswith("images") and len(photo.parts) > 1 else photo
        return find_mask(folder / "masks", inside.as_posix())
    if not isinstance(given, str) or not (folder / given).is_file():
        raise UserError(f"the mask {given} of the photo {entry.name}, listed in {entry.path}, does not exist")
    return folder / given


def _lens(entry: _Entry, image_path: Path) -> Lens:
    """Intrinsics from fl_x, fl_y or camera_angle_x, camera_angle_y; w, h; cx, cy; k1 to k4, p1, p2."""
    width, height = entry.number("w", 0), entry.number("h", 0)
    if width < 1 or height < 1:
        width, height = image_size(image_path)
    fx = entry.number("fl_x", _focal(width, entry.number("camera_angle_x", 0)))
    fy = entry.number("fl_y", 0) or _focal(height, entry.number("camera_angle_y", 0)) or fx
    fx = fx or fy
    if not (fx > 0 and fy > 0):
        raise UserError(f"{entry.path} gives the photo {entry.name} no focal length: add fl_x or camera_angle_x")
    center = entry.number("cx", width / 2), entry.number("cy", height / 2)
    model, coefficients = _distortion(entry)
    return Lens.from_parameters(model, int(width), int(height), (fx, fy, *center, *coefficients))


def _focal(side: float, angle: float) -> float:
    """Focal length in pixels of a field of view in radians; 0 where there is none."""
    return side / (2 * math.tan(angle / 2)) if 0 < angle < math.pi else 0.0


def _distortion(entry: _Entry) -> tuple[str, tuple[float, ...]]:
    """The lens model's name and its coefficients in order."""
    model = entry.get("camera_model") or ("OPENCV_FISHEYE" if entry.get("is_fisheye") else "OPENCV")
    k1, k2, k3, k4, p1, p2 = (entry.number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model in _FISHEYE:
        return "OPENCV_FISHEYE", (k1, k2, k3, k4)
    if model not in _PERSPECTIVE:
        raise UserError(
            f"{entry.path} has the camera_model {model}, which is not supported: undistort the photos first"
        )
    if k4:  # r⁸ to some writers, a denominator to OpenCV: nothing in the file tells which
        raise UserError(
            f"{entry.path} has k4 = {k4} for a {model} camera, which is ambiguous: undistort the photos first"
        )
    return "FULL_OPENCV", (k1, k2, p1, p2, k3, 0.0, 0.0, 0.0)


def _world_to_camera(entry: _Entry) -> npt.NDArray[np.float64]:
    """From transform_matrix, camera to world, [3, 4] or [4, 4].

    A uniform scale in its rotation changes no picture and is dropped; rounding is cleaned by the nearest rotation.
    """
    try:
        matrix = np.asarray(entry.get("transform_matrix"), np.float64)
        if matrix.shape not in ((3, 4), (4, 4)):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise UserError(f"{entry.path} gives the photo {entry.name} no 4 × 4 transform_matrix") from error
    pose = np.eye(4)
    pose[:3] = matrix[:3]
    if not np.isfinite(pose).all():
        return pose  # refused with all others of its kind, by check_frames
    left, scales, right = np.linalg.svd(pose[:3, :3])
    rotation = left @ right
    if scales[2] < 0.98 * scales[0] or np.linalg.det(rotation) < 0 or scales[0] <= 0:
        raise UserError(f"{entry.path} gives the photo {entry.name} a transform_matrix that is no rotation")
    pose[:3, :3] = rotation
    pose = pose @ _FLIP_YZ
    inverse = np.eye(4)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return inverse
