"""When the optimiser steps, and how far: what every method has, whatever its rules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from gns.rules.calendar import Calendar, Date, Fixed, Instant, Interval


@dataclass(frozen=True)
class StepPeriod(Calendar):
    """How often the optimiser steps, up to and including iteration `last`; gradients are summed in between."""

    last: Date
    period: Interval
    sh_rest_period: Interval


@dataclass(frozen=True)
class PhotoSize(Calendar):
    """How many times smaller each side of a photo is, up to and including iteration `last`, but not after `at_most`."""

    last: Date
    divisor: float
    at_most: Fixed


@dataclass(frozen=True)
class LearningRates:
    """Adam's step sizes by parameter group. Those of the means are in units of the scene extent and fall log-linearly
    over the run."""

    means_first: float
    means_last: float
    log_scales: float
    quats: float
    opacity_logits: float
    sh_dc: float
    sh_rest: float


_RATES_BY_GROUP = tuple(field.name for field in fields(LearningRates) if not field.name.startswith("means_"))


@dataclass(frozen=True)
class Optimisation(Calendar):
    """Length of a run, steps of the optimiser, and bands of the spherical harmonics."""

    iterations: Date
    sh_degree_interval: Interval  # the spherical-harmonic degree rises by one every so many iterations
    step_periods: tuple[StepPeriod, ...]
    rates: LearningRates
    photo_sizes: tuple[PhotoSize, ...] = ()  # in order; after the last of them photos are as they are
    squared_after: Instant = math.inf  # the loss takes the error squared from then on
    averaged_after: Instant = math.inf  # the model is the mean of the parameters from then on
    sh_decay: float = 0.0  # share of the harmonics above degree 0 that each step of theirs takes away

    def paced(self, share: float) -> Optimisation:
        """The same with all dates of the first half of the run in that `share` of it, and those of the second in the
        rest; iterations to a step stay as they are, and so do the step sizes at an iteration and the averaging."""
        middle, before, after = self.iterations / 2, 2 * share, 2 * (1 - share)

        def moved(date: float) -> float:
            return date * before if date <= middle else self.iterations - (self.iterations - date) * after

        return replace(
            self,
            sh_degree_interval=max(1, round(self.sh_degree_interval * before)),
            step_periods=tuple(replace(period, last=round(moved(period.last))) for period in self.step_periods),
            photo_sizes=tuple(replace(size, last=round(moved(size.last))) for size in self.photo_sizes),
            squared_after=moved(self.squared_after) if math.isfinite(self.squared_after) else math.inf,
        )

    def photo_divisor(self, it: int) -> float:
        """How many times smaller each side of a photo is at `it`."""
        return next((size.divisor for size in self.photo_sizes if it <= min(size.last, size.at_most)), 1.0)

    def squared_error(self, it: int) -> bool:
        """Whether the photometric loss of `it` is the one with a squared error."""
        return it > self.squared_after

    def averages(self, it: int) -> bool:
        """Whether the parameters after `it` count towards the mean that is the model."""
        return it > self.averaged_after

    @property
    def decays(self) -> dict[str, float]:
        """Share of the parameters that a step takes away, by group; none of those that are not in it."""
        return {"sh_rest": self.sh_decay} if self.sh_decay else {}

    def sh_degree(self, it: int) -> int:
        """Spherical-harmonic degree in use at `it`, not yet limited by the model's own."""
        return it // self.sh_degree_interval

    def iterations_per_step(self, it: int, names: Sequence[str]) -> dict[str, int]:
        """Number of iterations, about `it`, whose gradients one step of each of the parameter groups `names` spends."""
        rule = next((rule for rule in self.step_periods if it <= rule.last), self.step_periods[-1])
        return {name: rule.sh_rest_period if name == "sh_rest" else rule.period for name in names}

    def learning_rates(self, it: int, extent: float, factors: Mapping[str, float]) -> dict[str, float]:
        """Step size of each group of Gaussians' parameters at `it`.

        `extent` is the scene's, in world units; `factors` multiply the rates of the groups they name.
        """
        rates = self.rates
        means = rates.means_first * (rates.means_last / rates.means_first) ** (it / self.iterations)
        others = {name: getattr(rates, name) for name in _RATES_BY_GROUP}
        plain = {"means": means * extent, **others}
        return {name: rate * factors[name] if name in factors else rate for name, rate in plain.items()}
