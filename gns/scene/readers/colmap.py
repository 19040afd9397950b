"""COLMAP reconstructions, binary or text: `sparse/0` or `sparse`, with cameras, images and perhaps points3D.

The layout is that of COLMAP's format documentation (https://colmap.github.io/format.html). Where a file exists in both
kinds the binary one is read, as COLMAP does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.scene.readers.frames import Capture, Frame, Reader, SceneOptions, check_frames, check_points, find_mask
from gns.scene.readers.matrices import refuse_panorama
from gns.utils.undistortion import MODELS, Lens

_MODEL_OF_NUMBER = {model.number: model.name for model in MODELS.values()} | {17: "EQUIRECTANGULAR"}
_LARGEST_SIDE = 1 << 17  # pixels; more comes from a garbage file

_COUNT = struct.Struct("<Q")
_CAMERA = struct.Struct("<IiQQ")  # id, model, width, height; then the parameters as doubles
_IMAGE = struct.Struct("<I7dI")  # id, quaternion, translation, camera id; then the name, zero-terminated
_OBSERVATION_BYTES = 24  # x, y, point id
_POINT = np.dtype([("id", "<u8"), ("position", "<f8", 3), ("color", "u1", 3), ("error", "<f8"), ("track", "<u8")])
_TRACK_ENTRY_BYTES = 8  # image id, observation index

T = TypeVar("T")


@dataclass(frozen=True)
class _Image:
    name: str
    camera: int
    quaternion: tuple[float, ...]  # w, x, y, z of the world-to-camera rotation
    translation: tuple[float, ...]


def matches(path: Path) -> bool:
    """Whether the folder holds a COLMAP reconstruction."""
    return (path / "sparse").is_dir()


def read(path: Path, options: SceneOptions) -> Capture:
    """Frames and points of the scene folder `path`.

    Raises UserError where a file is missing, damaged or not supported.
    """
    sparse = next(folder for folder in (path / "sparse" / "0", path / "sparse") if folder.is_dir())
    photos = path / options.images
    if not photos.is_dir():
        raise UserError(f"the photo folder {photos} does not exist: name the right one with --images")

    lenses = _parse(_locate(sparse, "cameras"), _cameras_from_binary, _cameras_from_text)
    listing = _locate(sparse, "images")
    frames = []
    for image in _parse(listing, _images_from_binary, _images_from_text):
        if image.camera not in lenses:
            raise UserError(
                f"{listing} gives the photo {image.name} camera {image.camera}, which {sparse} does not have"
            )
        pose = _world_to_camera(image.quaternion, image.translation)
        mask = find_mask(path / "masks", image.name)
        frames.append(Frame(image.name, photos / image.name, mask, lenses[image.camera], pose))
    check_frames(frames, listing)
    return Capture(frames, points=_read_points(sparse))


def _locate(sparse: Path, stem: str) -> Path:
    for path in (sparse / f"{stem}.bin", sparse / f"{stem}.txt"):
        if path.is_file():
            return path
    raise UserError(f"{sparse} has neither {stem}.bin nor {stem}.txt: export the COLMAP reconstruction into it")


def _read_points(sparse: Path) -> PointCloud | None:
    if not any((sparse / f"points3D{suffix}").is_file() for suffix in (".bin", ".txt")):
        return None
    path = _locate(sparse, "points3D")
    return check_points(_parse(path, _points_from_binary, _points_from_text), path)


def _parse(path: Path, from_binary: Callable[[bytes], T], from_text: Callable[[list[str]], T]) -> T:
    with _refusing_damage(path):
        if path.suffix == ".bin":
            return from_binary(path.read_bytes())
        return from_text(path.read_text(encoding="utf-8").splitlines())


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Turn what parsing a truncated or garbage file raises into a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (ValueError, IndexError, OverflowError, struct.error) as error:
        raise UserError(f"{path} is cut short or no COLMAP file: export the reconstruction again ({error})") from error


def _world_to_camera(quaternion: tuple[float, ...], translation: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """The rigid [4, 4] matrix of a quaternion (w, x, y, z) of any length; NaN where it is zero."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = translation
    return pose


def _lens(camera: int, model: str | None, width: int, height: int, parameters: tuple[float, ...]) -> Lens:
    refuse_panorama(model, f"camera {camera} has the model")
    if model not in MODELS:
        raise UserError(
            f"camera {camera} has the model {model}, which no pinhole can stand for: undistort the photos first"
        )
    if max(width, height) > _LARGEST_SIDE:
        raise ValueError(f"camera {camera} of {width} × {height} pixels")
    return Lens.from_parameters(model, width, height, parameters)


# --- binary ---


def _checked_count(data: bytes, least_bytes: int) -> int:
    """The leading count, refused where the file is too short for it: it must not size any allocation before."""
    (count,) = _COUNT.unpack_from(data)
    if count * least_bytes > len(data) - _COUNT.size:
        raise ValueError(f"{count} entries do not fit in {len(data)} bytes")
    return int(count)


def _check_end(data: bytes, offset: int) -> None:
    if offset != len(data):
        raise ValueError(f"{offset} bytes expected, {len(data)} found")


def _cameras_from_binary(data: bytes) -> dict[int, Lens]:
    lenses, offset = {}, _COUNT.size
    for _ in range(_checked_count(data, _CAMERA.size)):
        camera, number, width, height = _CAMERA.unpack_from(data, offset)
        model = _MODEL_OF_NUMBER.get(number, f"number {number}")
        count = len(MODELS[model].names) if model in MODELS else 0
        parameters = struct.unpack_from(f"<{count}d", data, offset + _CAMERA.size)
        lenses[camera] = _lens(camera, model, width, height, parameters)
        offset += _CAMERA.size + 8 * count
    _check_end(data, offset)
    return lenses


def _images_from_binary(data: bytes) -> list[_Image]:
    images, offset = [], _COUNT.size
    for _ in range(_checked_count(data, _IMAGE.size + 1 + _COUNT.size)):
        _, *pose, camera = _IMAGE.unpack_from(data, offset)
        start = offset + _IMAGE.size
        end = data.index(b"\0", start)
        (observations,) = _COUNT.unpack_from(data, end + 1)
        offset = end + 1 + _COUNT.size + observations * _OBSERVATION_BYTES
        images.append(_Image(data[start:end].decode("utf-8"), camera, tuple(pose[:4]), tuple(pose[4:])))
    _check_end(data, offset)
    return images


def _points_from_binary(data: bytes) -> PointCloud:
    """Tracks make the entries differ in length: one walk finds where each begins, then all are gathered at once."""
    starts, offset = [], _COUNT.size
    track_length = _COUNT.unpack_from
    for _ in range(_checked_count(data, _POINT.itemsize)):
        starts.append(offset)
        (length,) = track_length(data, offset + _POINT.itemsize - _COUNT.size)
        offset += _POINT.itemsize + length * _TRACK_ENTRY_BYTES
    _check_end(data, offset)
    rows = np.asarray(starts, np.int64)[:, None] + np.arange(_POINT.itemsize)
    table = np.frombuffer(data, np.uint8)[rows].view(_POINT)[:, 0]
    return PointCloud(table["position"].astype(np.float64), table["color"].copy())


# --- text ---


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _cameras_from_text(lines: list[str]) -> dict[int, Lens]:
    lenses = {}
    for line in filter(_is_entry, lines):
        camera, model, width, height, *parameters = line.split()
        lenses[int(camera)] = _lens(int(camera), model, int(width), int(height), tuple(map(float, parameters)))
    return lenses


def _images_from_text(lines: list[str]) -> list[_Image]:
    images = []
    remaining = iter(lines)
    for line in remaining:
        if not _is_entry(line):
            continue
        _, w, x, y, z, tx, ty, tz, camera, name = line.split(maxsplit=9)  # the name may hold spaces
        quaternion, translation = tuple(map(float, (w, x, y, z))), tuple(map(float, (tx, ty, tz)))
        images.append(_Image(name.rstrip(), int(camera), quaternion, translation))
        next(remaining, None)  # the observations' line, which may be empty
    return images


def _points_from_text(lines: list[str]) -> PointCloud:
    rows = [line.split(maxsplit=7)[1:7] for line in lines if _is_entry(line)]
    table = np.asarray(rows, np.float64).reshape(len(rows), 6)
    colors = table[:, 3:]
    if not ((colors >= 0) & (colors <= 255)).all():
        raise ValueError("a colour is outside 0..255")
    return PointCloud(table[:, :3].copy(), colors.astype(np.uint8))


READER = Reader("sparse/0 or sparse (COLMAP)", matches, read)
