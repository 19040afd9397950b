"""What a run needs of a GPU's memory: an estimate, where the photos are kept, and what to say when it is not enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

from gns.errors import UserError, is_lack_of_memory
from gns.gaussian_renderer.backends import backend_of
from gns.scene import View
from gns.scene.on_demand import in_turn
from gns.utils.main_memory import main_memory

INSTANCES_A_GAUSSIAN = 3  # tile instances in a dense model; 2 to 4 on photos of 1.6 megapixels
_SLOTS = 4  # uploads under way at a time
_GIGA = 1e9


def training_bytes(gaussians: int, sh_degree: int, pixels: int, device: torch.device) -> int:
    """Most memory that training on `device` takes at once with this many Gaussians and photos of `pixels` each.

    Without the photos.

    In bytes a Gaussian of degree 3: parameters, gradients and two moments 4 · 236, statistics 8; while rows are cut and
    joined, the old parameters 236 and one new tensor, at most 180 (the mean of the last steps, 236, comes when rows are
    no longer cut); the rest is the renderer's. 1.8 M Gaussians at 1.6 megapixels come to 3.5 GB on a GPU; torch and the
    driver add half a gigabyte of their own.
    """
    rest = 3 * ((sh_degree + 1) ** 2 - 1)
    parameters, largest = 4 * (14 + rest), 4 * max(rest, 4)
    model = gaussians * (4 * parameters + 8)
    surgery = gaussians * (parameters + largest)
    rendering = backend_of(device).rendering_bytes(gaussians, INSTANCES_A_GAUSSIAN * gaussians, pixels)
    return model + surgery + rendering


def photo_bytes(views: Sequence[View]) -> int:
    """Memory of all photos with what belongs to their pixels, and with the edge maps that the survey will add."""
    return sum(view.nbytes for view in views)


def views_on(views: Sequence[View], device: torch.device, room: int) -> Sequence[View]:
    """The views with their pixels on `device`: for good if they fit into `room` bytes, else copied when asked for.

    Those whose pixels are there already are returned as they are.
    """
    if all(view.device == device for view in views):
        return views
    if photo_bytes(views) > room:
        return Uploads(views, device)
    return [_moved(view, device) for view in in_turn(views)]


def _moved(view: View, device: torch.device) -> View:
    return replace(
        view,
        image=view.image.contiguous().to(device),
        mask=None if view.mask is None else view.mask.contiguous().to(device),
        alpha=None if view.alpha is None else view.alpha.contiguous().to(device),
        inverse_depth=None if view.inverse_depth is None else view.inverse_depth.contiguous().to(device),
    )


def room_for_photos(device: torch.device, needed: int, most: int | None = None) -> int:
    """Bytes of the free memory of `device` that are left when training has what it needs, not more than `most`."""
    if device.type == "cpu":  # where the photos are already
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return free - needed if most is None else min(free - needed, most)


class Uploads(Sequence[View]):
    """Views whose pixels stay in main memory and are copied to the device when one is asked for.

    They pass through a ring of page-locked buffers, so that the host does not wait for a copy to end.
    """

    def __init__(self, views: Sequence[View], device: torch.device) -> None:
        self._views = views
        self._device = device
        self._pinned = device.type == "cuda"
        size = max(3 * view.camera.width * view.camera.height for view in views)
        self._ring = [torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned) for _ in range(_SLOTS)]
        self._done: list[torch.cuda.Event | None] = [None] * _SLOTS
        self._next = 0

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, index: int) -> View: ...
    @overload
    def __getitem__(self, index: slice) -> list[View]: ...
    def __getitem__(self, index: int | slice) -> View | list[View]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        view = self._views[index].decoded()
        mask = None if view.mask is None else self._upload(view.mask.contiguous().view(torch.uint8)).view(torch.bool)
        alpha = None if view.alpha is None else self._upload(view.alpha.contiguous())
        # Rare, and too large for the ring: the host waits for these.
        depth = None if view.inverse_depth is None else view.inverse_depth.to(self._device)
        return replace(view, image=self._upload(view.image), mask=mask, alpha=alpha, inverse_depth=depth)

    def _upload(self, values: Tensor) -> Tensor:
        """A copy of uint8 `values` on the device."""
        slot, self._next = self._next, (self._next + 1) % _SLOTS
        if (done := self._done[slot]) is not None:
            done.synchronize()  # of the copy before the last three: long past
        staged = self._ring[slot][: values.numel()].view(values.shape)
        staged.copy_(values)
        copy = torch.empty_like(staged, device=self._device, pin_memory=False)
        copy.copy_(staged, non_blocking=True)
        if self._pinned:
            self._done[slot] = torch.cuda.current_stream(self._device).record_event()
        return copy


def refuse_too_large(device: torch.device, needed: int, gaussians: int, photos: int = 0) -> None:
    """Raise UserError where a run that grows to `gaussians` takes more, `needed` bytes, than `device` has at all.

    In main memory the `photos` take theirs beside them. The system would grant the memory, and end the process hours
    later when it is used.
    """
    there = main_memory() if device.type == "cpu" else torch.cuda.mem_get_info(device)[1]
    beside = photos if device.type == "cpu" else 0
    if needed + beside > there:
        taken = f", its photos {beside / _GIGA:.1f} GB," if beside else ""
        less = ", or --image-memory less" if beside else ""
        raise UserError(
            f"growing to {gaussians:,} Gaussians takes about {needed / _GIGA:.1f} GB{taken} and {device} has "
            f"{there / _GIGA:.1f}: lower --final-budget, or give -r a smaller width{less}"
        )


@contextmanager
def shortage_explained(device: torch.device, needed: int, gaussians: int) -> Iterator[None]:
    """Turn a lack of memory inside the block into a UserError that says what a run takes and what to lower.

    `needed` is the estimate in bytes for a run that grows to `gaussians`.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise UserError(shortage(device, needed, gaussians)) from error
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        raise UserError(
            f"the main memory is used up: growing to {gaussians:,} Gaussians takes about {needed / _GIGA:.1f} GB, and "
            "the photos their own; lower --final-budget or give -r a smaller width, or close other programs and go on "
            "from the last checkpoint with --resume"
        ) from error


def shortage(device: torch.device, needed: int, gaussians: int) -> str:
    """The sentence for a lack of GPU memory."""
    free, total = torch.cuda.mem_get_info(device)
    ours = torch.cuda.memory_reserved(device)
    return (
        f"the memory of {device} is used up: growing to {gaussians:,} Gaussians takes about {needed / _GIGA:.1f} GB, "
        f"and of its {total / _GIGA:.1f} GB other programs leave {(free + ours) / _GIGA:.1f}; lower --final-budget or "
        "give -r a smaller width, or close those programs and go on from the last checkpoint with --resume"
    )
