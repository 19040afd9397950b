"""Frames from a `transforms*.json` file: what the Blender, Nerfstudio and instant-ngp formats share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.scene.readers.frames import Frame, SceneOptions, check_frames, check_points
from gns.scene.readers.matrices import refuse_panorama, refuse_transposed
from gns.scene.readers.photos import Photo, PhotoFolder, Wanted, find_photos, parts_inside, tails
from gns.scene.readers.ply_points import read_ply_points
from gns.utils.images import image_size
from gns.utils.text import folded, read_text
from gns.utils.undistortion import Lens
from gns.utils.untrusted_json import parse_json

# Their camera looks along −z with y up; COLMAP's along +z with y down.
_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])
_USUAL_POINTS = ("points3d.ply", "sparse_pc.ply")  # as 3DGS and Nerfstudio call them, in lower case
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
        content = parse_json(read_text(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is cut short or no JSON: restore it ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise UserError(f"{path} has no list of frames: it is no transforms file")
    return content


def read_frames(path: Path, content: Json, options: SceneOptions, notes: list[str], key: str = "frames") -> list[Frame]:
    """The frames that the JSON file lists under `key`; `content` is what is in the file.

    `images/…` in its file names becomes the folder of `--images`. A photo has a mask here if its `mask_path` names one.
    Raises UserError where the file is damaged or a value makes no sense.
    """
    entries = content[key]
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str) or not _name_in(entry):
            raise UserError(f"{path} has a frame without a file_path: it is no transforms file")
    scene, folder = PhotoFolder(path.parent), photo_folder(path.parent, options)
    wanted = [_wanted(entry["file_path"], scene, folder, options) for entry in entries]
    photos = find_photos(wanted, path, path.parent, notes)
    if options.images != SceneOptions.images and not any(photo.path.is_relative_to(folder.root) for photo in photos):
        notes.append(f"-i {options.images} is not used: the photos that {path.name} lists are not in that folder")
    frames = [
        _frame(_Entry(path, photo.name, entry, content), photo) for entry, photo in zip(entries, photos, strict=True)
    ]
    check_frames(frames, path)
    return frames


def photo_folder(path: Path, options: SceneOptions) -> PhotoFolder:
    """The folder of `--images`; names of its photos begin with it, if it is inside the scene's, `path`."""
    inside, outside = parts_inside(options.images)
    return PhotoFolder(path / options.images, "" if outside or not inside else "/".join(inside) + "/")


def read_listed_points(path: Path, content: Json, notes: list[str]) -> PointCloud | None:
    """The points of `ply_file_path` in the JSON file, else of a PLY file beside it that has one of the usual names.

    Raises UserError where they do not exist or are damaged.
    """
    listed = content.get("ply_file_path")
    if listed is None:
        usual = [file for file in sorted(path.parent.iterdir()) if folded(file.name) in _USUAL_POINTS]
        if not usual:
            return None
        notes.append(f"points of {usual[0].name}, which {path.name} does not name")
        return check_points(read_ply_points(usual[0]), usual[0])
    found = find_inside(path.parent, listed)
    if found is None:
        raise UserError(
            f"the points {listed}, listed in {path}, do not exist in the scene: copy them into it or remove "
            "ply_file_path"
        )
    return check_points(read_ply_points(found), found)


def find_inside(folder: Path, listed: Any) -> Path | None:
    """The file in `folder` that a file of another system or machine calls `listed`: with folders in front, or fewer."""
    if not isinstance(listed, str):
        return None
    return next((folder / tail for tail in tails(parts_inside(listed)[0]) if (folder / tail).is_file()), None)


def _name_in(entry: Json) -> bool:
    return bool(parts_inside(entry["file_path"])[0])


def _wanted(listed: str, scene: PhotoFolder, folder: PhotoFolder, options: SceneOptions) -> Wanted:
    """Where to look for a photo: as it is called, and in the photo folder."""
    parts, outside = parts_inside(listed)
    if options.images != SceneOptions.images and (outside or parts[0] == "images"):
        return Wanted("/".join(parts[1:]) if parts[0] == "images" and len(parts) > 1 else listed, [folder])
    return Wanted(listed, [scene, folder])


def _frame(entry: _Entry, photo: Photo) -> Frame:
    return Frame(photo.name, photo.path, _mask(entry, photo), _lens(entry, photo.path), _world_to_camera(entry))


def _mask(entry: _Entry, photo: Photo) -> Path | None:
    """The mask that the frame names."""
    given = entry.get("mask_path")
    if given is None:
        return None
    folder = entry.path.parent
    found = find_inside(folder, given) or find_inside(folder / "masks", given)
    if found is None:
        raise UserError(
            f"the mask {given} of the photo {entry.name}, listed in {entry.path}, does not exist in the scene: copy it "
            f"to {folder / 'masks'} or remove that mask_path"
        )
    if found.resolve() == photo.path.resolve():
        raise UserError(f"{entry.path} gives the photo {entry.name} itself as its mask: remove that mask_path")
    return found


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
    model = str(entry.get("camera_model") or ("OPENCV_FISHEYE" if entry.get("is_fisheye") else "OPENCV")).upper()
    k1, k2, k3, k4, p1, p2 = (entry.number(key, 0.0) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    refuse_panorama(model, f"{entry.path} gives the photo {entry.name} the camera_model")
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
        if matrix.shape not in ((3, 4), (4, 4), (4, 3)):
            raise ValueError
    except (TypeError, ValueError) as error:
        raise UserError(f"{entry.path} gives the photo {entry.name} no 4 × 4 transform_matrix") from error
    refuse_transposed(matrix, f"{entry.path} gives the photo {entry.name}")
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
