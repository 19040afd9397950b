"""Scores on the photos that training does not see."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from gns.appearance.expected import expected_exposures
from gns.appearance.exposure import Exposure, adjusted
from gns.gaussian_renderer import render
from gns.metrics import decibels, fitted_halves
from gns.scene import Gaussians, Scene
from gns.scene.on_demand import in_turn
from gns.training.events import Event, HeldOutScored, IterationEnded, Listener
from gns.utils.png import from_eight_bit, to_eight_bit

_PLAIN: Mapping[str, Tensor] = {}  # all photos have the exposure of the model


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
            learned = event.records.get(Exposure.name, {})
            transforms = {name: torch.tensor(rows) for name, rows in learned.items()}
            known, wanted = ([view.camera for view in views] for views in (scene.train, scene.test))
            exposures = expected_exposures(transforms, known, wanted)
            psnr = held_out_psnr(gaussians, scene, exposures)
            fitted = fitted_psnr(gaussians, scene, exposures) if self._fits_exposure else None
            masked = sum(view.has_mask for view in scene.test)
            yield event.then(HeldOutScored, psnr=psnr, views=len(scene.test), masked=masked, fitted=fitted)


def held_out_psnr(gaussians: Gaussians, scene: Scene, exposures: Mapping[str, Tensor] = _PLAIN) -> float:
    """Mean PSNR in dB over the held-out views (at least one), on 8-bit images as `metrics.py` measures it.

    Of a view that has a mask only the pixels that count are compared. `exposures` are the transforms [3, 4] by which
    photos of some names are imitated (`gns.appearance`).
    """
    return _mean(decibels(*compared) for compared in _compared(gaussians, scene, exposures))


def fitted_psnr(gaussians: Gaussians, scene: Scene, exposures: Mapping[str, Tensor] = _PLAIN) -> float | None:
    """The same over the right halves, after the colours were fitted on the left ones; None where nothing counts."""
    halves = (fitted_halves(*compared) for compared in _compared(gaussians, scene, exposures))
    scores = [decibels(*half) for half in halves if half]
    return _mean(scores) if scores else None


@torch.no_grad()
def _compared(
    gaussians: Gaussians, scene: Scene, exposures: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Rendering, photo and mask of each held-out view, one at a time: many would not fit beside a model."""
    background = torch.tensor(scene.background, device=gaussians.means.device)
    for view in in_turn(scene.test):
        image = render(view.camera, gaussians, background).image
        if (exposure := exposures.get(view.camera.name)) is not None:
            image = adjusted(image, exposure.to(image.device))
        image = to_eight_bit(image)
        photo = view.image.to(image.device)
        mask = None if view.mask is None else view.mask.to(image.device)
        yield from_eight_bit(image), from_eight_bit(photo), mask


def _mean(scores: Iterable[Tensor]) -> float:
    return float(torch.stack(list(scores)).mean())
