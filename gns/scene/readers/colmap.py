"""COLMAP reconstructions, binary or text: cameras, images and perhaps points3D, in `sparse/0` or nearby.

The layout is that of COLMAP's format documentation (https://colmap.github.io/format.html). Where a file exists in both
kinds the binary one is read, as COLMAP does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.scene.readers.frames import Capture, Frame, Reader, SceneOptions, check_frames, check_points, some_of
from gns.scene.readers.masks import with_masks
from gns.scene.readers.matrices import refuse_panorama
from gns.scene.readers.photos import PhotoFolder, Wanted, find_photos, folders_with, unused_photos
from gns.scene.readers.ply_points import read_ply_points
from gns.scene.readers.splits import split_by_lists
from gns.utils.text import folded, read_text, refuse_git_lfs_pointer
from gns.utils.undistortion import MODELS, Lens

_MODEL_OF_NUMBER = {model.number: model.name for model in MODELS.values()} | {17: "EQUIRECTANGULAR"}
# Where models lie besides `sparse`: nerfstudio, COLMAP's undistorter and automatic reconstruction, 3DGS's convert.py,
# and beside the photos.
_PLACES = ("colmap/sparse", "dense/sparse", "dense/0/sparse", "distorted/sparse", "colmap", "dense", ".")
_SUFFIXES = (".bin", ".txt", ".ply")
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
    """Whether the folder holds a COLMAP reconstruction in `sparse`."""
    return bool(_models(path / "sparse"))


def matches_elsewhere(path: Path) -> bool:
    """Whether it holds one where only programs around COLMAP leave one; an empty `sparse` is to be complained of."""
    return any(_models(path / place) for place in _PLACES) or (path / "sparse").is_dir()


def read(path: Path, options: SceneOptions) -> Capture:
    """Frames and points of the scene folder `path`, from the model with most photos.

    Raises UserError where a file is missing, damaged or not supported.
    """
    notes, warnings = list[str](), list[str]()
    model, base = _find_model(path, notes, warnings)
    lenses = _parse(_locate(model, "cameras"), _cameras_from_binary, _cameras_from_text)
    listing = _locate(model, "images")
    images = _parse(listing, _images_from_binary, _images_from_text)
    folder = PhotoFolder(_photo_folder(path, base, [image.name for image in images], options, notes))
    photos = find_photos([Wanted(image.name, [folder]) for image in images], listing, path, notes)
    frames = []
    for image, photo in zip(images, photos, strict=True):
        if image.camera not in lenses:
            raise UserError(
                f"{listing} gives the photo {photo.name} camera {image.camera}, which {model} does not have"
            )
        pose = _world_to_camera(image.quaternion, image.translation)
        frames.append(Frame(photo.name, photo.path, None, lenses[image.camera], pose))
    check_frames(frames, listing)
    unused = unused_photos([frame.image_path for frame in frames], folder, path, listing, notes)
    frames = with_masks(frames, base if folder.root.parent == base else path, unused, notes, warnings)
    train, test = split_by_lists(frames, [model, path], notes, warnings)
    return Capture(train, test, _read_points(model, notes), notes, warnings)


# --- which model, which photos ---


def _models(folder: Path) -> list[Path]:
    """The models in a folder: of one called `sparse` those in its sub-folders, `0` first, and its own."""
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.name == "sparse" and folder.is_dir() else []
    return [path for path in (*sorted(inside, key=lambda path: (len(path.name), path.name)), folder) if is_model(path)]


def is_model(folder: Path) -> bool:
    """Whether the folder itself holds a model, or part of one."""
    try:
        return any(stem in ("cameras", "images") and suffix != ".ply" for stem, suffix in _files(folder))
    except OSError:  # no folder, or one that is not ours to read
        return False


def _files(model: Path) -> dict[tuple[str, str], Path]:
    """The model's files by stem and suffix in lower case; of two that differ in case only, the one in lower case."""
    found = {(folded(path.stem), path.suffix.lower()): path for path in sorted(model.iterdir())}
    return {key: path for key, path in found.items() if key[1] in _SUFFIXES}


def _locate(model: Path, stem: str) -> Path:
    files = _files(model)
    for suffix in (".bin", ".txt"):
        if path := files.get((folded(stem), suffix)):
            return path
    raise UserError(f"{model} has neither {stem}.bin nor {stem}.txt: export the COLMAP reconstruction into it")


def _find_model(path: Path, notes: list[str], warnings: list[str]) -> tuple[Path, Path]:
    """The model with most photos, and the folder that it was reconstructed in."""
    place = next((place for place in ("sparse", *_PLACES) if _models(path / place)), None)
    if place is None:
        raise UserError(f"{path / 'sparse'} has neither cameras.bin nor cameras.txt in it or in a folder like 0")
    models = _models(path / place)
    base = (path / place).parent if place.endswith("sparse") else path / place
    best = models[0]
    if len(models) > 1:
        counts = {model: _count_photos(model, warnings) for model in models}
        best = max(models, key=lambda model: counts[model])  # the first of equals
        others = ", ".join(
            f"{model.relative_to(path).as_posix()} has {counts[model]}" for model in models if model != best
        )
        name = best.relative_to(path).as_posix()
        notes.append(f"model {name} with {counts[best]} photos, the largest of {len(models)} ({others})")
    elif best not in (path / "sparse", path / "sparse" / "0"):
        notes.append(f"model {best.relative_to(path).as_posix()}")
    return best, base


def _count_photos(model: Path, warnings: list[str]) -> int:
    """How many photos the model has; 0 where it is damaged, of which a warning tells."""
    try:
        return _parse(
            _locate(model, "images"),
            lambda data: _checked_count(data, _IMAGE.size),
            lambda lines: len(_images_from_text(lines)),
        )
    except UserError as error:
        warnings.append(f"this model is passed over: {error}")
        return 0


def _photo_folder(path: Path, base: Path, names: Sequence[str], options: SceneOptions, notes: list[str]) -> Path:
    """The folder of `--images`; where there is none of the default name, the only one in the scene with all photos."""
    candidates = [base / options.images, path / options.images]
    if base.name == "distorted" and options.images == SceneOptions.images:
        candidates.insert(0, path / "input")  # where 3DGS's convert.py leaves the photos that this model is of
    if found := next((folder for folder in candidates if folder.is_dir()), None):
        if found != path / options.images:
            notes.append(f"photos in {found.relative_to(path).as_posix()}")
        return found
    elsewhere = folders_with(path, names)
    if len(elsewhere) == 1 and options.images == SceneOptions.images:
        notes.append(f"photos in {path / elsewhere[0]}, as there is no folder {options.images}")
        return path / elsewhere[0]
    remedy = "name the right one with --images"
    if elsewhere:
        remedy = f"the photos are in {some_of(elsewhere, 8)}: {remedy}"
    elif above := next((parent for parent in path.absolute().parents[:2] if (parent / options.images).is_dir()), None):
        remedy = f"the scene may be {above}: give it with -s"
    raise UserError(f"the photo folder {candidates[-1]} does not exist: {remedy}")


def _read_points(model: Path, notes: list[str]) -> PointCloud | None:
    """Of points3D.bin, else .txt, else .ply, the first that holds some."""
    for suffix in _SUFFIXES:
        if (path := _files(model).get(("points3d", suffix))) is None:
            continue
        if suffix == ".ply":
            notes.append(f"points of {path}")
            return check_points(read_ply_points(path), path)
        if points := check_points(_parse(path, _points_from_binary, _points_from_text), path):
            return points
    return None


def _parse(path: Path, from_binary: Callable[[bytes], T], from_text: Callable[[list[str]], T]) -> T:
    with _refusing_damage(path):
        if path.suffix.lower() == ".bin":
            refuse_git_lfs_pointer(path)
            return from_binary(path.read_bytes())
        return from_text(read_text(path).splitlines())


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    """Turn what parsing a truncated or garbage file raises into a sentence."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from error
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
    names = MODELS[model].names
    if len(parameters) != len(names):
        raise UserError(
            f"camera {camera} has {len(parameters)} parameters, and a {model} camera needs {len(names)} "
            f"({' '.join(names)}): export the reconstruction again"
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
        images.append(
            _Image(data[start:end].decode("utf-8", "surrogateescape"), camera, tuple(pose[:4]), tuple(pose[4:]))
        )
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
    """Photos, each with a line of observations behind it, which is skipped; some programs leave those lines out."""
    images = list[_Image]()
    after_photo = False
    for line in lines:
        if line.lstrip().startswith("#"):
            continue
        if not line.strip() or (after_photo and _is_observations(line)):
            after_photo = False
            continue
        _, w, x, y, z, tx, ty, tz, camera, name = line.split(maxsplit=9)  # the name may hold spaces
        quaternion, translation = tuple(map(float, (w, x, y, z))), tuple(map(float, (tx, ty, tz)))
        images.append(_Image(name.rstrip(), int(camera), quaternion, translation))
        after_photo = True
    return images


def _is_observations(line: str) -> bool:
    """Whether a line can be triples x, y, point id. A photo's cannot: it has a name, or ten numbers."""
    values = line.split()
    try:
        for value in (*values[:10], values[-1]):
            float(value)
    except ValueError:
        return False
    return len(values) % 3 == 0


def _points_from_text(lines: list[str]) -> PointCloud:
    rows = [line.split(maxsplit=7)[1:7] for line in lines if _is_entry(line)]
    table = np.asarray(rows, np.float64).reshape(len(rows), 6)
    colors = table[:, 3:]
    if not ((colors >= 0) & (colors <= 255)).all():
        raise ValueError("a colour is outside 0..255")
    return PointCloud(table[:, :3].copy(), colors.astype(np.uint8))


READER = Reader("sparse/0 or sparse (COLMAP)", matches, read)
READER_ELSEWHERE = Reader("colmap/sparse, dense/sparse, distorted/sparse (COLMAP)", matches_elsewhere, read)
