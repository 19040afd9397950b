"""Counts of a population for log and report: opacities, births and deaths, and who outlived a selection.

Everything is read from the parameters, a few numbers per Gaussian, at some hundred iterations of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gns.rules.base import Stretch
from gns.training.state import TrainState

# Bins are even in the logit, in which selection pushes: opacities of 0.0003 to 0.9997.
LOGIT_BINS, LARGEST_LOGIT = 32, 8.0
# And in the logarithm of the largest standard deviation, in extents of the scene: 10⁻⁵ to 1.
SIZE_BINS, SMALLEST_SIZE = 25, -5.0


class Census:
    """Looks at one run's population."""

    def __init__(self, state: TrainState) -> None:
        self._state = state
        self._since = 0
        self._counted = (state.population.born, state.population.died)
        self._stretches = [stretch for rule in state.plan.rules for stretch in rule.stretches() if stretch.selects]
        self._followed: Stretch | None = None
        self._before: dict[str, Tensor] = {}

    def flow(self) -> dict[str, int]:
        """Births and deaths since the last call."""
        population = self._state.population
        before, self._counted = self._counted, (population.born, population.died)
        return {"births": self._counted[0] - before[0], "deaths": self._counted[1] - before[1]}

    def opacities(self) -> list[int]:
        """How many Gaussians are in each of LOGIT_BINS bins of the opacity's logit."""
        return _counts(self._state.population.gaussians.opacity_logits.detach(), *_RANGES["opacity"])

    def survival(self, it: int) -> Mapping[str, Any] | None:
        """Where a selection ends at `it`: how many of which opacity and size it began with, and how many were left.

        Call it after every iteration: where a selection begins it takes note of who is there. None everywhere else.
        """
        ended = self._survival() if self._followed is not None and it == self._followed.last else None
        for stretch in self._stretches:
            # A run that was resumed inside a selection follows those who were left by then.
            if self._followed is not stretch and stretch.first <= it < stretch.last:
                self._followed, self._before = stretch, self._looks()
                self._since = it
                self._state.population.follow()
        return ended

    def _survival(self) -> Mapping[str, Any]:
        assert self._followed is not None
        rows = self._state.population.followed()
        assert rows is not None
        rows = rows[rows >= 0].cpu()
        before, name, self._followed, self._before = self._before, self._followed.name, None, {}
        return {
            "stretch": name,
            "since": self._since,
            **{
                look: {
                    "before": _counts(values, *_RANGES[look]),
                    "survived": _counts(values[rows], *_RANGES[look]),
                }
                for look, values in before.items()
            },
        }

    def _looks(self) -> dict[str, Tensor]:
        """Opacity logit and relative size of everybody, [N] on the CPU."""
        gaussians, extent = self._state.population.gaussians, self._state.plan.rules[0].run.extent
        sizes = gaussians.log_scales.detach().amax(dim=1).double().exp().div(extent).clamp(min=1e-12).log10()
        return {"opacity": gaussians.opacity_logits.detach().cpu().clone(), "size": sizes.cpu()}


_RANGES = {"opacity": (LOGIT_BINS, -LARGEST_LOGIT, LARGEST_LOGIT), "size": (SIZE_BINS, SMALLEST_SIZE, 0.0)}


def _counts(values: Tensor, bins: int, low: float, high: float) -> list[int]:
    """A histogram; what lies beyond the range counts in its first and last bin.

    By numpy, on one thread: torch would wake all of its own for a millisecond's work.
    """
    finite = np.nan_to_num(values.cpu().numpy(), nan=low, posinf=high, neginf=low)
    places = ((finite - low) * (bins / (high - low))).clip(0, bins - 1).astype(np.int64)
    counted: list[int] = np.bincount(places, minlength=bins).tolist()
    return counted
