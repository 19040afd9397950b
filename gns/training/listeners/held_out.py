"""Scores on the photos that training does not see."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor

from gns.gaussian_renderer import render
from gns.metrics import decibels, fitted_halves
from gns.scene import Gaussians, Scene
from gns.scene.on_demand import in_turn
from gns.training.events import Event, HeldOutScored, IterationEnded, Listener
from gns.utils.png import from_eight_bit, to_eight_bit


class HeldOut(Listener):
    """Measures the held-out photos at some iterations and at the end."""

    def __init__(
        self, scene: Scene, iterations: Collection[int], *, fits_exposure: bool = False, is_main: bool = True
    ) -> None:
        """At so many `iterations`; `fits_exposure` adds the score after each photo's exposure is fitted."""
        self._scene = scene
        self._iterations = set(iterations)
        self._fits_exposure = fits_exposure
        self._is_main = is_main

    def due(self, moment: IterationEnded) -> bool:
        return moment.last or moment.iteration in self._iterations

    def hear(self, event: Event) -> Iterable[Event]:
        if isinstance(event, IterationEnded) and self.due(event) and self._scene.test and self._is_main:
            gaussians, scene = event.gaussians, self._scene
            psnr = held_out_psnr(gaussians, scene)
            fitted = fitted_psnr(gaussians, scene) if self._fits_exposure else None
            masked = sum(view.has_mask for view in scene.test)
            yield event.then(HeldOutScored, psnr=psnr, views=len(scene.test), masked=masked, fitted=fitted)


def held_out_psnr(gaussians: Gaussians, scene: Scene) -> float:
    """Mean PSNR in dB over the held-out views (at least one), on 8-bit images as `metrics.py` measures it.

    Of a view that has a mask only the pixels that count are compared.
    """
    return _mean(decibels(*compared) for compared in _compared(gaussians, scene))


def fitted_psnr(gaussians: Gaussians, scene: Scene) -> float | None:
    """The same over the right halves, after the colours were fitted on the left ones; None where nothing counts."""
    halves = (fitted_halves(*compared) for compared in _compared(gaussians, scene))
    scores = [decibels(*half) for half in halves if half]
    return _mean(scores) if scores else None


@torch.no_grad()
def _compared(gaussians: Gaussians, scene: Scene) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Rendering, photo and mask of each held-out view, one at a time: many would not fit beside a model."""
    background = torch.tensor(scene.background, device=gaussians.means.device)
    for view in in_turn(scene.test):
        image = to_eight_bit(render(view.camera, gaussians, background).image)
        photo = view.image.to(image.device)
        mask = None if view.mask is None else view.mask.to(image.device)
        yield from_eight_bit(image), from_eight_bit(photo), mask


def _mean(scores: Iterable[Tensor]) -> float:
    return float(torch.stack(list(scores)).mean())
