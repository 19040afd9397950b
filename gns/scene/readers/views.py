"""From frames to views: photos decoded, composed, undistorted, resized; several at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from gns.errors import UserError
from gns.scene.camera import Camera
from gns.scene.readers.depth_maps import read_depth_map, resized_depth
from gns.scene.readers.frames import Frame, SceneOptions
from gns.scene.view import View
from gns.utils.allowance import Allowance
from gns.utils.images import (
    LARGE,
    MAX_DEFAULT_WIDTH,
    Pixels,
    compose,
    image_size,
    read_image,
    read_mask,
    resize,
    target_size,
)
from gns.utils.main_memory import main_memory
from gns.utils.undistortion import Lens, undistort, undistort_depth, undistorted_lens

# Pixels of all photos that are being decoded at a time: 11 bytes each, of colours in several forms.
_AT_ONCE = Allowance(2 * LARGE)


@dataclass(frozen=True, eq=False)
class _Loaded:
    view: View
    resized: bool
    remarks: list[str]  # what had to be mended


def load_views(frames: Sequence[Frame], options: SceneOptions, report: Callable[[str], None]) -> list[View]:
    """The frames' views in the same order, with one line on what they take in memory, and one on what was mended.

    Threads decode in parallel: the decoders release the interpreter's lock. Raises UserError where a photo or mask
    cannot be read, or its size disagrees with its camera's.
    """
    _refuse_too_many(frames, options)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = list(pool.map(partial(_load_view, options=options), frames))
    views = [each.view for each in loaded]
    beside = [part for view in views for part in (view.mask, view.alpha, view.inverse_depth) if part is not None]
    size = sum(view.image.nbytes for view in views) + sum(part.nbytes for part in beside)
    notes = [f"{len(views)} images, {max(round(size / 1e6), 1)} MB"]
    if masks := sum(view.mask is not None for view in views):
        notes.append(f"{masks} with a mask")
    if models := sorted({frame.lens.model for frame in frames if not frame.lens.is_pinhole}):
        notes.append(f"undistorted from {', '.join(models)}")
    if options.resolution == -1 and (reduced := sum(each.resized for each in loaded)):
        notes.append(f"{reduced} reduced to {MAX_DEFAULT_WIDTH} pixels wide (-r 1 keeps their size)")
    report("; ".join(notes))
    if remarks := [remark for each in loaded for remark in each.remarks]:
        report(remarks[0] + (f" (and {len(remarks) - 1} more such)" if len(remarks) > 1 else ""))
    return views


def _refuse_too_many(frames: Sequence[Frame], options: SceneOptions) -> None:
    """Raise UserError where the photos cannot all be in memory at the size they are used at.

    By the sizes in the cameras' files, which cost nothing; by those of the photos where that seems too much.
    """
    there = main_memory()
    for size_of in (lambda frame: (frame.lens.width, frame.lens.height), lambda frame: image_size(frame.image_path)):
        needed = sum(_bytes_of(frame, size_of(frame), options) for frame in frames)
        if needed <= there:
            return
    raise UserError(
        f"{len(frames):,} photos at this size take {needed / 1e9:,.0f} GB and this machine has {there / 1e9:,.0f}: "
        "give -r a smaller width, or train on fewer photos"
    )


def _bytes_of(frame: Frame, size: tuple[int, int], options: SceneOptions) -> int:
    """Bytes of a view whose photo has that (width, height)."""
    width, height = target_size(*size, options.resolution)
    return width * height * (3 if frame.mask_path is None else 4)


def _load_view(frame: Frame, options: SceneOptions) -> _Loaded:
    width, height = image_size(frame.image_path)
    lens = _lens_of_photo(frame, (width, height))
    if frame.mask_path is not None:
        _check_mask(frame.mask_path, (width, height))
    # What does not fit is refused by now, before anything is decoded.
    camera = _camera(frame, lens)
    size = target_size(camera.width, camera.height, options.resolution)
    reducible = min(camera.width // size[0], camera.height // size[1])
    remarks: list[str] = []
    with _AT_ONCE.taken(width * height):
        # The order matters: distortion is defined on the full photo, and alpha must be composed before any resampling
        # mixes visible colours with those hidden behind alpha = 0.
        pixels = read_image(frame.image_path, reducible, remarks.append)
        image = compose(pixels, options.background_level)
        if image.shape[:2] != (height, width):  # a large photo, already smaller
            lens = lens.resized(image.shape[1], image.shape[0])
            camera = _camera(frame, lens)
        mask = None
        if frame.mask_path is not None:
            mask = resize(read_mask(frame.mask_path, reducible), (lens.width, lens.height))
        alpha = pixels[:, :, 3].copy() if pixels.shape[2] == 4 else None
        depth = None if frame.depth is None else read_depth_map(frame.depth, (lens.width, lens.height))
        if not lens.is_pinhole:
            image = undistort(image, lens)
            mask = None if mask is None else undistort(mask, lens)
            alpha = None if alpha is None else undistort(alpha, lens)
            depth = None if depth is None else undistort_depth(depth, lens)
        view = View(
            camera.resized(*size),
            torch.from_numpy(resize(image, size)),
            None if mask is None else _threshold(resize(mask, size), frame),
            None if alpha is None else torch.from_numpy(resize(alpha, size)),
            None if depth is None else torch.from_numpy(resized_depth(depth, size)),
        )
    return _Loaded(view, size != (camera.width, camera.height), remarks)


def _lens_of_photo(frame: Frame, size: tuple[int, int]) -> Lens:
    """The camera at the photo's (width, height): photos reduced with their camera file left as it was are usual."""
    width, height = size
    lens = frame.lens
    if not _proportional(size, (lens.width, lens.height)):
        raise UserError(
            f"{frame.image_path} has {width} × {height} pixels but its camera {lens.width} × {lens.height}, of other "
            "proportions: use the photos that the cameras were computed from"
        )
    return lens if size == (lens.width, lens.height) else lens.resized(width, height)


def _proportional(size: tuple[int, int], reference: tuple[int, int]) -> bool:
    """Whether `size` is `reference` scaled, sides rounded to whole pixels."""
    (width, height), (full_width, full_height) = size, reference
    return (
        abs(width * full_height / full_width - height) <= 1.0 or abs(height * full_width / full_height - width) <= 1.0
    )


def _camera(frame: Frame, lens: Lens) -> Camera:
    try:
        pinhole = undistorted_lens(lens)
    except UserError as error:
        raise UserError(f"{frame.image_path}: {error}") from error
    return Camera(
        pinhole.width,
        pinhole.height,
        pinhole.fx,
        pinhole.fy,
        pinhole.cx,
        pinhole.cy,
        frame.world_to_camera,
        frame.name,
    )


def _check_mask(path: Path, size: tuple[int, int]) -> None:
    """Refuse a mask that cannot have been drawn on a photo of `size`; it may have been drawn at another one."""
    width, height = image_size(path)
    if not _proportional((width, height), size):
        raise UserError(
            f"the mask {path} has {width} × {height} pixels but its photo {size[0]} × {size[1]}: draw it on the photo"
        )


def _threshold(mask: Pixels, frame: Frame) -> torch.Tensor:
    """True where the pixel counts: at least 128 after resampling."""
    counts = mask >= 128
    if not counts.any():
        raise UserError(f"the mask {frame.mask_path} hides the whole photo: pixels that count must be 128 or brighter")
    return torch.from_numpy(counts)
