"""From frames to views: photos decoded, composed, undistorted, resized; several at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from gns.errors import UserError
from gns.scene.camera import Camera
from gns.scene.readers.frames import Frame, SceneOptions
from gns.scene.view import View
from gns.utils.images import MAX_DEFAULT_WIDTH, Pixels, compose, read_image, read_mask, resize, target_size
from gns.utils.undistortion import Lens, undistort, undistorted_lens


def load_views(frames: Sequence[Frame], options: SceneOptions, report: Callable[[str], None]) -> list[View]:
    """The frames' views in the same order, with one line on what they take in memory.

    Threads decode in parallel: the decoders release the interpreter's lock. Raises UserError where a photo or mask
    cannot be read, or its size disagrees with its camera's.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = list(pool.map(partial(_load_view, options=options), frames))
    views = [view for view, _ in loaded]
    size = sum(view.image.nbytes + (0 if view.mask is None else view.mask.nbytes) for view in views)
    notes = [f"{len(views)} images, {max(round(size / 1e6), 1)} MB"]
    if masks := sum(view.mask is not None for view in views):
        notes.append(f"{masks} with a mask")
    if models := sorted({frame.lens.model for frame in frames if not frame.lens.is_pinhole}):
        notes.append(f"undistorted from {', '.join(models)}")
    if options.resolution == -1 and (reduced := sum(resized for _, resized in loaded)):
        notes.append(f"{reduced} reduced to {MAX_DEFAULT_WIDTH} pixels wide (-r 1 keeps their size)")
    report("; ".join(notes))
    return views


def _load_view(frame: Frame, options: SceneOptions) -> tuple[View, bool]:
    """The view, and whether its photo had to be resized."""
    # The order matters: distortion is defined on the full photo, and alpha must be composed before any resampling
    # mixes visible colours with those hidden behind alpha = 0.
    image = compose(read_image(frame.image_path), options.background_level)
    lens = _lens_of_photo(frame, image)
    mask = None if frame.mask_path is None else _load_mask(frame.mask_path, (lens.width, lens.height))
    camera = _camera(frame, lens)
    if not lens.is_pinhole:
        image = undistort(image, lens)
        mask = None if mask is None else undistort(mask, lens)
    size = target_size(camera.width, camera.height, options.resolution)
    view = View(
        camera.resized(*size),
        torch.from_numpy(resize(image, size)),
        None if mask is None else _threshold(resize(mask, size), frame),
    )
    return view, size != (camera.width, camera.height)


def _lens_of_photo(frame: Frame, image: Pixels) -> Lens:
    """The camera at the photo's size: photos reduced with their camera file left as it was are usual."""
    height, width = image.shape[:2]
    lens = frame.lens
    if not _proportional((width, height), (lens.width, lens.height)):
        raise UserError(
            f"{frame.image_path} has {width} × {height} pixels but its camera {lens.width} × {lens.height}, of other "
            "proportions: use the photos that the cameras were computed from"
        )
    return lens if (width, height) == (lens.width, lens.height) else lens.resized(width, height)


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


def _load_mask(path: Path, size: tuple[int, int]) -> Pixels:
    """Grey levels of the mask at the photo's size; it may have been drawn at another one."""
    mask = read_mask(path)
    height, width = mask.shape
    if not _proportional((width, height), size):
        raise UserError(
            f"the mask {path} has {width} × {height} pixels but its photo {size[0]} × {size[1]}: draw it on the photo"
        )
    return resize(mask, size)


def _threshold(mask: Pixels, frame: Frame) -> torch.Tensor:
    """True where the pixel counts: at least 128 after resampling."""
    counts = mask >= 128
    if not counts.any():
        raise UserError(f"the mask {frame.mask_path} hides the whole photo: pixels that count must be 128 or brighter")
    return torch.from_numpy(counts)
