"""Depth maps of a scene's photos, as 3DGS reads them (`--depths`, README of 3DGS, "Depth regularization").

A map is a 16-bit PNG of the photo's name. It holds inverse depth as a network saw it, 0 to 65,535 for 0 to 1, up to a
scale and an offset that `sparse/0/depth_params.json` has for each photo: inverse depth = value/65,536 · scale + offset,
in units of the scene.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.readers.frames import DepthMap, Frame
from gns.scene.readers.photos import without_suffix
from gns.utils.images import PNG_SIGNATURE, decoded_as_stored, image_size
from gns.utils.untrusted_json import parse_json

PARAMETERS = "depth_params.json"

# A map whose scale is further than this factor from the median was aligned with hardly any point.
UNLIKELY_FACTOR = 5.0


def with_depth_maps(frames: Sequence[Frame], source: Path, folder: str) -> tuple[list[Frame], str]:
    """The frames with the maps in `folder`, below the scene `source` or anywhere, and a note on how many have one.

    Raises UserError where the folder, its parameters or every map is missing.
    """
    maps = source / folder  # an absolute folder stays as it is
    if not maps.is_dir():
        raise UserError(f"the folder of depth maps {maps} does not exist: give the right one with --depths")
    parameters, path = _parameters(source, maps)
    likely = statistics.median(scale for scale, _ in parameters.values() if scale > 0)
    found, unlikely = [], 0
    for frame in frames:
        name = without_suffix(frame.name)
        scale, offset = parameters.get(name) or parameters.get(without_suffix(frame.image_path.name)) or (0.0, 0.0)
        picture = next((p for p in (maps / f"{name}.png", maps / f"{frame.image_path.stem}.png") if p.is_file()), None)
        fits = likely / UNLIKELY_FACTOR <= scale <= likely * UNLIKELY_FACTOR
        unlikely += picture is not None and scale > 0 and not fits
        depth = DepthMap(picture, scale, offset) if picture is not None and fits else None
        found.append(replace(frame, depth=depth))
    count = sum(frame.depth is not None for frame in found)
    if not count:
        raise UserError(f"no photo has both a depth map in {maps} and its scale in {path}: compare their names")
    note = f"{count} of {len(found)} photos have a depth map"
    return found, note + (f"; {unlikely} more are not used, whose scale is far from the others'" if unlikely else "")


def read_depth_map(depth: DepthMap, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Inverse depth [H, W] at the photo's (width, height), not negative. Raises UserError where it cannot be read."""
    (width, height), (wide, high) = image_size(depth.path), size
    if abs(width * high - height * wide) > max(width, height, wide, high):
        raise UserError(f"the depth map {depth.path} has {width} × {height} pixels but its photo {wide} × {high}")
    try:
        content = depth.path.read_bytes()
        values = decoded_as_stored(content) if content.startswith(PNG_SIGNATURE) else None
    except ValueError as error:
        raise UserError(f"the depth map {depth.path} cannot be read ({error}): replace the file") from None
    if values is None or values.ndim != 2 or values.dtype != np.uint16:
        raise UserError(f"{depth.path} is no depth map: it must be a PNG of one channel with 16 bits")
    inverse = values.astype(np.float32) / np.float32(65536) * np.float32(depth.scale) + np.float32(depth.offset)
    return np.maximum(resized_depth(inverse, size), 0)


def resized_depth(inverse: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Inverse depth resampled to (width, height): averaged where it shrinks, else bilinear."""
    if (inverse.shape[1], inverse.shape[0]) == size:
        return inverse
    method = cv2.INTER_AREA if size[0] <= inverse.shape[1] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(inverse, size, interpolation=method), np.float32)


def _parameters(source: Path, maps: Path) -> tuple[dict[str, tuple[float, float]], Path]:
    """(scale, offset) by the photo's name without its suffix, and the file that has them."""
    places = [source / "sparse" / "0" / PARAMETERS, maps / PARAMETERS]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise UserError(
            f"--depths needs {places[0]} with a scale and an offset for each photo: make_depth_scale.py of 3DGS "
            "writes it"
        )
    try:
        entries: Any = parse_json(path.read_text(encoding="utf-8"))
        read = {str(name): (float(entry["scale"]), float(entry["offset"])) for name, entry in entries.items()}
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f'{path} is damaged ({error}): it must hold {{"photo": {{"scale": …, "offset": …}}}}') from None
    usable = {name: pair for name, pair in read.items() if np.isfinite(pair).all()}
    if not any(scale > 0 for scale, _ in usable.values()):
        raise UserError(f"{path} has no scale above 0: align the depth maps with the points again")
    return usable, path
