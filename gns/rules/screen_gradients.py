"""The statistic that growth goes by: how strongly the loss pulls a Gaussian across the screen.

Kerbl et al. 2023, section 5.2, average the length of the gradient of the 2D mean over the views that draw a Gaussian.
AbsGS (Ye et al., arXiv 2404.10484) sums absolute values over the pixels instead, so that pulls in opposite directions
do not cancel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gns.gaussian_renderer import ScreenGradients
from gns.model.population import Extra, Population

GRADIENT_SUM = Extra("gradient_sum")  # of the lengths of the screen gradient
VISITS = Extra("visits")  # iterations in which the Gaussian was drawn
EXTRAS = (GRADIENT_SUM, VISITS)

ABSOLUTE = ScreenGradients(absolute=True)
SIGNED = ScreenGradients(signed=True)


@torch.no_grad()
def observe(population: Population, gradients: Tensor, radii: Tensor) -> None:
    """Add one view: screen `gradients` [N, 2] after its backward pass, and `radii` [N], 0 where nothing was drawn."""
    # The gradient is zero where nothing was drawn: only the visits need the radii.
    scratch = population.scratch()
    population.extra("gradient_sum").add_(torch.hypot(gradients[:, 0], gradients[:, 1], out=scratch))
    population.extra("visits").add_(torch.sign(radii, out=scratch))


def mean(population: Population) -> Tensor:
    """Mean length of the screen gradient over the iterations that drew the Gaussian, [N]; 0 if none did."""
    return population.extra("gradient_sum") / population.extra("visits").clamp(min=1.0)


def restart(population: Population) -> None:
    """Forget what was observed."""
    for extra in EXTRAS:
        population.extra(extra.name).zero_()
