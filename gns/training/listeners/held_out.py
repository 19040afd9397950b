"""Scores on the photos that training does not see."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch

from gns.gaussian_renderer import render
from gns.metrics import decibels
from gns.scene import Gaussians, Scene
from gns.training.events import Event, HeldOutScored, IterationEnded, Listener
from gns.utils.png import from_eight_bit, to_eight_bit


class HeldOut(Listener):
    """Measures the held-out photos at some iterations and at the end."""

    def __init__(self, scene: Scene, iterations: Collection[int], *, is_main: bool = True) -> None:
        self._scene = scene
        self._iterations = set(iterations)
        self._is_main = is_main

    def due(self, moment: IterationEnded) -> bool:
        return moment.last or moment.iteration in self._iterations

    def hear(self, event: Event) -> Iterable[Event]:
        if isinstance(event, IterationEnded) and self.due(event) and self._scene.test and self._is_main:
            psnr = held_out_psnr(event.gaussians, self._scene)
            masked = sum(view.mask is not None for view in self._scene.test)
            yield event.then(HeldOutScored, psnr=psnr, views=len(self._scene.test), masked=masked)


@torch.no_grad()
def held_out_psnr(gaussians: Gaussians, scene: Scene) -> float:
    """Mean PSNR in dB over the held-out views (at least one), on 8-bit images as `metrics.py` measures it.

    Of a view that has a mask only the pixels that count are compared.
    """
    background = torch.tensor(scene.background, device=gaussians.means.device)
    scores = []
    for view in scene.test:  # one picture at a time: many would not fit beside a model
        image = to_eight_bit(render(view.camera, gaussians, background).image)
        photo = view.image.to(image.device)
        mask = None if view.mask is None else view.mask.to(image.device)
        scores.append(decibels(from_eight_bit(image), from_eight_bit(photo), mask))
    return float(torch.stack(scores).mean())
