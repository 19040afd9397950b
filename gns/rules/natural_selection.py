"""Who dies: the pressure on every opacity, its controller, death, the final draw, and the plain culls before them.

Source: Deng et al., arXiv 2511.16980, and its released code. Nothing here scores Gaussians: all logits are pushed down
alike, and only the photometric gradient holds one up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gns.rules.calendar import Phase
from gns.utils.sampling import draw_without_replacement

# Pressure: rate · (mean of (logit + SHIFT) …)². The shift keeps the slope positive for every logit that matters.
LOGIT_SHIFT = 20.0
LEVEL_FLOOR = 0.05  # the smallest 1 − α that early pressure divides by
LATE_STRENGTH = 3.0  # later pressure, in units of the rate

# Controller
FIRST_RATE = 2e-4
PRIOR_FRACTION = 0.8  # of the opacity at rank B: where the goal line begins
TOO_LOW, SOFTER = 0.9, 0.8
TOO_HIGH, HARDER = 1.1, 1.2

NEARLY_THERE = 1.05  # budgets: with fewer Gaussians than this the contest is over


@dataclass(frozen=True)
class SelectionState:
    """The controller's whole memory within a round."""

    rate: float = FIRST_RATE  # λ, the strength of the pressure
    prior: float | None = None  # a₀, set at the round's first pulse
    settled: int | None = None  # iteration at which the round ended

    @property
    def skipped(self) -> bool:
        """Whether the round ended before it began, for want of Gaussians."""
        return self.settled is not None and self.prior is None


@dataclass(frozen=True)
class NaturalSelection:
    """The method's policy. It remembers nothing: what changes is in `SelectionState`."""

    budget: int  # B, the number of survivors
    final_cut: str = "multinomial"  # or "lowest"
    detach_pressure: bool = False

    def adapt(self, state: SelectionState, opacity_logits: Tensor, phase: Phase, it: int) -> SelectionState:
        """The state with which the pulse of iteration `it` is given; `opacity_logits` is [N].

        The first pulse measures a₀. At every second one the opacity at rank B is compared with the goal line, and the
        rate follows. With fewer than B Gaussians there is nobody to select: the round is skipped. (The released code's
        rank index wraps round there.)
        """
        if len(opacity_logits) < self.budget:
            return replace(state, settled=it)
        if state.prior is None:
            return replace(state, prior=PRIOR_FRACTION * self._opacity_at_rank(opacity_logits))
        if not phase.adapts(it):
            return state
        goal = state.prior * phase.goal(it)
        value = self._opacity_at_rank(opacity_logits)
        if value < TOO_LOW * goal:
            return replace(state, rate=state.rate * SOFTER)
        if value > TOO_HIGH * goal:
            return replace(state, rate=state.rate * HARDER)
        return state

    def _opacity_at_rank(self, opacity_logits: Tensor) -> float:
        """The B-th largest opacity."""
        ranked = opacity_logits.detach().kthvalue(len(opacity_logits) - self.budget + 1).values
        return float(torch.sigmoid(ranked))

    def penalty(self, state: SelectionState, opacity_logits: Tensor, phase: Phase, it: int) -> Tensor:
        """The regulariser of a pulse: a scalar to add to the loss, differentiable in `opacity_logits` [N].

        Early in a round the push on a logit is divided by 1 − α: Gaussians that merely start opaque must compete too.
        The released code differentiates through that weight as well, which makes the slope [1 + (ℓ + 20)·α]/(1 − α)
        instead of 1/(1 − α); `detach_pressure` gives the latter. Later the gradient is the same for all.
        """
        if it >= phase.level_until:
            return LATE_STRENGTH * state.rate * (opacity_logits.mean() + LOGIT_SHIFT).square()
        weight = (1 - torch.sigmoid(opacity_logits)).clamp(min=LEVEL_FLOOR)
        if self.detach_pressure:
            weight = weight.detach()
        return state.rate * ((opacity_logits + LOGIT_SHIFT) / weight).mean().square()

    def living(self, opacities: Tensor, phase: Phase) -> Tensor:
        """Mask [N] of those that the death of faint Gaussians spares.

        The B most opaque are never among the dead, so that a sudden death cannot leave fewer than asked for.
        """
        mask = opacities >= phase.death_opacity
        if int(mask.sum()) < self.budget <= len(opacities):
            return _most_opaque(opacities, self.budget)
        return mask

    def is_over(self, count: int, phase: Phase, it: int) -> bool:
        """Whether the contest ends at `it`, with `count` Gaussians left."""
        return it >= phase.end or (it > phase.begin and count < NEARLY_THERE * self.budget)

    def survivors(self, opacities: Tensor, generator: torch.Generator) -> Tensor:
        """Mask [N] of exactly B survivors, or of all where there are fewer.

        `multinomial` draws them with probability ∝ opacity, as published; `lowest` drops the faintest.
        """
        if len(opacities) <= self.budget:
            return torch.ones_like(opacities, dtype=torch.bool)
        if self.final_cut == "lowest":
            return _most_opaque(opacities, self.budget)
        return _mask_of(draw_without_replacement(opacities, self.budget, generator), opacities)

    def settle(self, state: SelectionState, it: int) -> SelectionState:
        """The state once the survivors of `it` are drawn."""
        return replace(state, settled=it)

    def opacity_factor(self, state: SelectionState, phase: Phase | None, it: int) -> float:
        """What to multiply the opacity learning rate by at `it`: more than 1 in a contest and in its recovery."""
        if phase is None or state.skipped:
            return 1.0
        recovered = state.settled is not None and it >= state.settled + phase.recovery
        return 1.0 if recovered else phase.opacity_rate_factor


def all_but_faintest(opacities: Tensor, fraction: float) -> Tensor:
    """Mask [N] that leaves out the ⌊fraction·N⌋ lowest opacities."""
    return _most_opaque(opacities, len(opacities) - math.floor(fraction * len(opacities)))


def _most_opaque(opacities: Tensor, count: int) -> Tensor:
    """Mask [N] of the `count` highest opacities; of equals the first come first."""
    return _mask_of(torch.argsort(opacities, descending=True, stable=True)[:count], opacities)


def _mask_of(rows: Tensor, like: Tensor) -> Tensor:
    mask = torch.zeros_like(like, dtype=torch.bool)
    mask[rows] = True
    return mask
