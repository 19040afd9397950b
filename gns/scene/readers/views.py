"""From frames to views: photos decoded, composed, undistorted, resized; several at once."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from gns.errors import UserError
from gns.scene.camera import Camera
from gns.scene.on_demand import PhotoStore, ViewOnDemand
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
from gns.utils.main_memory import available_memory, main_memory
from gns.utils.torchrun import place
from gns.utils.undistortion import Lens, undistort, undistort_depth, undistorted_lens

# Pixels of all photos that are being decoded at a time: 11 bytes each, of colours in several forms.
_AT_ONCE = Allowance(2 * LARGE)
LEAST_ROOM = 10**8  # bytes for decoded photos on a machine that has hardly any memory left


@dataclass(frozen=True, eq=False)
class _Loaded:
    view: View
    resized: bool
    remarks: list[str]  # what had to be mended


def load_views(frames: Sequence[Frame], options: SceneOptions, report: Callable[[str], None]) -> list[View]:
    """The frames' views in the same order, with one line on what they take in memory, and one on what was mended.

    Every photo is decoded once, and its view checked. Those beyond `options.image_memory` are decoded again when they
    are needed: if there are any, all views are `ViewOnDemand`.

    Threads decode in parallel: the decoders release the interpreter's lock. Raises UserError where a photo or mask
    cannot be read, or its size disagrees with its camera's, or where the memory is too small for two photos or larger
    than the machine's.
    """
    room = photo_room() if options.image_memory is None else options.image_memory
    _refuse_what_cannot_fit(frames, options, room)
    store = PhotoStore(room)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        loaded = list(pool.map(partial(_load_into, store, options=options), frames))
    views = [each.view for each in loaded]
    size = sum(view.nbytes - view.camera.width * view.camera.height for view in views)  # edge maps are yet to come
    notes = [f"{len(views)} images, {max(round(size / 1e6), 1)} MB"]
    if store.overflowed:
        notes.append(f"decoded again when they are needed, {room / 1e6:,.0f} MB at a time (--image-memory)")
    else:
        views = [view.decoded() for view in views]
    if masks := sum(view.has_mask for view in views):
        notes.append(f"{masks} with a mask")
    if models := sorted({frame.lens.model for frame in frames if not frame.lens.is_pinhole}):
        notes.append(f"undistorted from {', '.join(models)}")
    if options.resolution == -1 and (reduced := sum(each.resized for each in loaded)):
        notes.append(f"{reduced} reduced to {MAX_DEFAULT_WIDTH} pixels wide (-r 1 keeps their size)")
    report("; ".join(notes))
    if remarks := [remark for each in loaded for remark in each.remarks]:
        report(remarks[0] + (f" (and {len(remarks) - 1} more such)" if len(remarks) > 1 else ""))
    return views


def photo_room() -> int:
    """Bytes for decoded photos where nobody has said how many: half of what is free, shared with the run's others."""
    return max(available_memory() // 2 // place().local_size, LEAST_ROOM)


def _refuse_what_cannot_fit(frames: Sequence[Frame], options: SceneOptions, room: int) -> None:
    """Raise UserError where two of the photos do not fit into `room` bytes, or what fits there not into this machine.

    By the sizes in the cameras' files, which cost nothing; by those of the photos where that looks wrong.
    """
    there = main_memory()
    needed = list[int]()
    for size_of in (lambda frame: (frame.lens.width, frame.lens.height), lambda frame: image_size(frame.image_path)):
        needed = [_bytes_of(frame, size_of(frame), options) for frame in frames]
        if min(sum(needed), room) <= there and min(sum(needed), 2 * max(needed)) <= room:
            return
    index = max(range(len(frames)), key=needed.__getitem__)
    if min(sum(needed), 2 * needed[index]) > room:
        raise UserError(
            f"{frames[index].image_path} takes {needed[index] / 1e6:,.0f} MB and photos may take {room / 1e6:,.0f}: "
            f"give --image-memory at least {-(-2 * needed[index] // 10**6)}MB, room for two such, or -r a smaller width"
        )
    raise UserError(
        f"{len(frames):,} photos at this size take {sum(needed) / 1e9:,.0f} GB, --image-memory allows "
        f"{room / 1e9:,.0f}, and this machine has {there / 1e9:,.0f}: give --image-memory less, and the photos beyond "
        "are decoded when they are needed"
    )


def _bytes_of(frame: Frame, size: tuple[int, int], options: SceneOptions) -> int:
    """Bytes of a view whose photo has that (width, height) and no transparency, edge map included."""
    width, height = target_size(*size, options.resolution)
    return width * height * (4 + (frame.mask_path is not None) + 4 * (frame.depth is not None))


def _load_into(store: PhotoStore, frame: Frame, options: SceneOptions) -> _Loaded:
    """The frame's view on demand, checked, and offered to the store while it is decoded."""
    loaded = _load_view(frame, options)
    decoded, checksum = loaded.view, _checksum(loaded.view)

    def again() -> View:
        view = _load_view(frame, options).view
        if _checksum(view) != checksum:
            raise UserError(
                f"{frame.image_path}, or its mask or depth map, has changed since the run began: restore it; with "
                "--resume the run goes on from its last checkpoint"
            )
        return view

    pixels = decoded.camera.width * decoded.camera.height
    view = ViewOnDemand(decoded.camera, again, store, decoded.nbytes // pixels, has_mask=decoded.has_mask)
    view.offer(decoded)
    return _Loaded(view, loaded.resized, loaded.remarks)


def _checksum(view: View) -> int:
    """Of all pixels: against accidents, not against forgery."""
    checksum = 0
    for pixels in (view.image, view.mask, view.alpha, view.inverse_depth):
        if pixels is not None:
            checksum = zlib.crc32(pixels.contiguous().view(torch.uint8).numpy().data, checksum)
    return checksum


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
