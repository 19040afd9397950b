"""Training views at several sizes: small photos first cost little and show what matters first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import overload

import cv2
import numpy as np
import torch
from torch import Tensor

from gns.scene import Camera, View

SMALLEST_SIDE = 64  # pixels; a photo is not reduced below: the window of SSIM alone is 11 wide


class ScaledViews(Sequence[View]):
    """Views whose photos are all reduced by one divisor, which training changes as it goes on.

    Each size is made once, by averaging areas, when it is first used; the one before is let go.
    """

    def __init__(
        self, views: Sequence[View], place: Callable[[Sequence[View]], Sequence[View]] = lambda views: views
    ) -> None:
        """The full-size `views`; `place` brings those of a size to where they are trained on."""
        self._views = views
        self._place = place
        self._divisor = 0.0
        self._sized: Sequence[View] = ()  # at the size of the moment
        self._placed: Sequence[View] = ()  # the same where they are trained on
        self.use(1)

    def use(self, divisor: float) -> None:
        """Have every photo at 1/`divisor` of its width and height from now on; 1 is its own size."""
        if divisor == self._divisor:
            return
        self._divisor, self._sized, self._placed = divisor, (), ()
        self._sized = self._views if divisor == 1 else [reduced(view, divisor) for view in self._views]
        self._placed = self._place(self._sized)

    def decode_ahead(self, indices: Iterable[int]) -> None:
        """Hear which views will be asked for soon."""
        for index in indices:
            self._sized[index].decode_ahead()

    def __len__(self) -> int:
        return len(self._views)

    @overload
    def __getitem__(self, index: int) -> View: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[View]: ...
    def __getitem__(self, index: int | slice) -> View | Sequence[View]:
        return self._placed[index]


def reduced(view: View, divisor: float) -> View:
    """The view with each side 1/`divisor` as long, rounded, but not below SMALLEST_SIDE; its camera to match.

    A pixel is the mean of those that it covers, and counts where all of them do.
    """
    camera = view.camera
    divisor = max(1, min(divisor, min(camera.width, camera.height) // SMALLEST_SIDE))
    if divisor == 1:
        return view
    small = camera.resized(round(camera.width / divisor), round(camera.height / divisor))
    return view.changed(small, lambda view: _reduced_to(view, small))


def _reduced_to(view: View, camera: Camera) -> View:
    """The view averaged down to the size of the reduced `camera`."""
    width, height = camera.width, camera.height
    image = cv2.resize(view.image.cpu().numpy(), (width, height), interpolation=cv2.INTER_AREA)
    mask = None
    if view.mask is not None:
        counts = np.where(view.mask.cpu().numpy(), np.float32(1), np.float32(0))
        mask = torch.from_numpy(cv2.resize(counts, (width, height), interpolation=cv2.INTER_AREA) > 0.999)
    return View(
        camera,
        torch.from_numpy(image),
        mask,
        alpha=None if view.alpha is None else _shrunk(view.alpha, width, height),
        inverse_depth=None if view.inverse_depth is None else _shrunk(view.inverse_depth, width, height),
    )


def _shrunk(values: Tensor, width: int, height: int) -> Tensor:
    """`values` [H, W], averaged over areas."""
    return torch.from_numpy(cv2.resize(values.cpu().numpy(), (width, height), interpolation=cv2.INTER_AREA))
