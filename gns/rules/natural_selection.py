"""Natural selection: pressure on every opacity, its controller, the pruning of what has faded, and the final cut.

Source: Gradient-Driven Natural Selection (Deng et al., arXiv 2511.16980): its natural-selection framework and opacity
decay with a finite opacity prior; figures without another source are those of its released code. Nothing here scores
Gaussians: all logits are pushed down alike, and only the photometric gradient holds one up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gns.rules.base import Chance, Rule
from gns.rules.calendar import Calendar, Date, Dates, Interval, every
from gns.utils.deferred import deferred
from gns.utils.option_table import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    import gns.gaussian_renderer as renderer
    from gns.model.population import Population
    from gns.utils import sampling
else:
    torch = deferred("torch")
    renderer = deferred("gns.gaussian_renderer")
    sampling = deferred("gns.utils.sampling")

# Pressure: rate · (mean of (logit + SHIFT) …)². The shift keeps the slope positive for every logit that matters.
LOGIT_SHIFT = 20.0
LEVEL_FLOOR = 0.05  # the smallest 1 − α that early pressure divides by
LATE_STRENGTH = 3.0  # later pressure, in units of the rate

# Controller
FIRST_RATE = 2e-4  # λ
INITIAL_TARGET = 0.8  # of the opacity at rank B: where the target's line begins (a₀)
TOO_LOW, SOFTER = 0.9, 0.8
TOO_HIGH, HARDER = 1.1, 1.2

NEARLY_THERE = 1.05  # budgets: with fewer Gaussians than this selection is over


@dataclass(frozen=True)
class SelectionPhase(Calendar):
    """Selection from `begin` to `end`, then `recovery` iterations in which opacities stay fast."""

    begin: Date  # the opacity learning rate is raised from here on
    end: Date  # last iteration of selection; it ends sooner when few enough are left
    level_until: Date  # before it, the push cancels the head start of Gaussians that are opaque already
    target_zero_at: Date  # where the controller's target reaches 0
    pulse_interval: Interval
    prune_at: Dates
    prune_opacity: float  # fainter Gaussians are pruned
    recovery: Interval  # iterations after selection until the opacity learning rate is normal again
    opacity_rate_factor: float = 4.0  # on that learning rate: selection decides, not where an opacity started

    @property
    def pulses(self) -> range:
        """Iterations whose loss carries the regulariser."""
        return every(self.pulse_interval, self.begin + 1, self.end)

    def adapts(self, it: int) -> bool:
        """Whether the controller acts at the pulse of iteration `it`: at the 2nd, the 4th, …"""
        return self.pulses.index(it) % 2 == 1

    def target(self, it: int) -> float:
        """Height of the target's line at `it`, as a fraction of its height at `begin`."""
        return max(0.0, 1.0 - (it - self.begin) / max(1, self.target_zero_at - self.begin))


@dataclass(frozen=True)
class SelectionCalendar(Calendar):
    """The selection phases of a run, one after the other."""

    phases: tuple[SelectionPhase, ...]

    def phase(self, it: int) -> SelectionPhase | None:
        """The phase that `it` belongs to, recovery included."""
        return next((phase for phase in self.phases if phase.begin <= it < phase.end + phase.recovery), None)


STANDARD = SelectionCalendar(
    phases=(
        SelectionPhase(
            begin=15_000,
            end=23_000,
            level_until=16_000,
            target_zero_at=22_000,
            pulse_interval=50,
            prune_at=every(50, 16_000, 23_000),
            prune_opacity=0.001,
            recovery=1_000,
        ),
    ),
)

FAST = SelectionCalendar(
    phases=(
        SelectionPhase(
            begin=3_000,
            end=6_000,
            level_until=3_500,
            target_zero_at=6_000,
            pulse_interval=50,
            prune_at=every(50, 3_500, 6_000),
            prune_opacity=0.01,
            recovery=500,
        ),
        SelectionPhase(
            begin=7_000,
            end=10_000,
            level_until=7_500,
            target_zero_at=10_000,
            pulse_interval=50,
            prune_at=every(50, 7_500, 10_000),
            prune_opacity=0.01,
            recovery=500,
        ),
    ),
)


@dataclass(frozen=True)
class SelectionOptions:
    """Corners of the published method that are open to choice."""

    final_cut: str = field(
        default="multinomial",
        metadata=option(
            "how the last surplus goes: drawn by opacity, or the lowest opacities",
            group="method gns",
            choices=("multinomial", "lowest"),
        ),
    )
    detach_pressure: bool = field(
        default=False,
        metadata=option(
            "keep the gradient of selection's early pressure out of its 1 / (1 − α) weight", group="method gns"
        ),
    )


@dataclass(frozen=True)
class SelectionState:
    """The controller's whole memory within a phase."""

    rate: float = FIRST_RATE  # λ, the strength of the pressure
    initial_target: float | None = None  # a₀, set at the phase's first pulse
    finished_at: int | None = None  # iteration at which selection ended

    @property
    def skipped(self) -> bool:
        """Whether selection ended before it began, for want of Gaussians."""
        return self.finished_at is not None and self.initial_target is None


class NaturalSelection(Rule[SelectionState]):
    """Pushes all opacities down alike until exactly the budget is left."""

    name = "natural_selection"
    chances = ("final cut",)
    Options = SelectionOptions
    calendar: SelectionCalendar
    options: SelectionOptions

    def begin(self) -> SelectionState:
        return SelectionState()

    def prepare(self, state: SelectionState, population: Population, it: int) -> SelectionState:
        """A phase begins with a fresh state; the controller acts before a pulse is given."""
        phase = self.calendar.phase(it)
        if phase is None:
            return state
        if it == phase.begin:
            return SelectionState()
        if it not in phase.pulses or state.finished_at is not None:
            return state
        return self.adapted(state, population.gaussians.opacity_logits, phase, it)

    def adapted(self, state: SelectionState, opacity_logits: Tensor, phase: SelectionPhase, it: int) -> SelectionState:
        """The state with which the pulse of iteration `it` is given; `opacity_logits` is [N].

        The first pulse measures a₀. At every second one the opacity at rank B is compared with the target, and the rate
        follows. With fewer than B Gaussians there is nobody to select: the phase is skipped. (The released code's rank
        index wraps round there.)
        """
        if len(opacity_logits) < self.run.budget:
            return replace(state, finished_at=it)
        if state.initial_target is None:
            return replace(state, initial_target=INITIAL_TARGET * self._opacity_at_rank(opacity_logits))
        if not phase.adapts(it):
            return state
        target = state.initial_target * phase.target(it)
        value = self._opacity_at_rank(opacity_logits)
        if value < TOO_LOW * target:
            return replace(state, rate=state.rate * SOFTER)
        if value > TOO_HIGH * target:
            return replace(state, rate=state.rate * HARDER)
        return state

    def _opacity_at_rank(self, opacity_logits: Tensor) -> float:
        """The B-th largest opacity."""
        ranked = opacity_logits.detach().kthvalue(len(opacity_logits) - self.run.budget + 1).values
        return float(torch.sigmoid(ranked))

    def penalty(self, state: SelectionState, population: Population, it: int) -> Tensor | None:
        """What a pulse adds to the loss of its iteration."""
        phase = self.calendar.phase(it)
        if phase is None or it not in phase.pulses or state.finished_at is not None:
            return None
        return self.pressure(state, population.gaussians.opacity_logits, phase, it)

    def pressure(self, state: SelectionState, opacity_logits: Tensor, phase: SelectionPhase, it: int) -> Tensor:
        """The regulariser of a pulse: a scalar to add to the loss, differentiable in `opacity_logits` [N].

        Early in a phase the push on a logit is divided by 1 − α: Gaussians that merely start opaque must compete too.
        The released code differentiates through that weight as well, which makes the slope [1 + (ℓ + 20)·α]/(1 − α)
        instead of 1/(1 − α); `detach_pressure` gives the latter. Later the gradient is the same for all.
        """
        if it >= phase.level_until:
            return LATE_STRENGTH * state.rate * (opacity_logits.mean() + LOGIT_SHIFT).square()
        weight = (1 - torch.sigmoid(opacity_logits)).clamp(min=LEVEL_FLOOR)
        if self.options.detach_pressure:
            weight = weight.detach()
        return state.rate * ((opacity_logits + LOGIT_SHIFT) / weight).mean().square()

    def leaves_alone(self, state: SelectionState, population: Population, it: int) -> bool:
        phase = self.calendar.phase(it)
        if phase is None or state.finished_at is not None:
            return True
        return it not in phase.prune_at and not self.is_over(len(population), phase, it)

    def edit(self, state: SelectionState, population: Population, it: int, chance: Chance) -> SelectionState:
        """Prune what has faded and, where selection ends, make the final cut."""
        phase = self.calendar.phase(it)
        if phase is None or state.finished_at is not None:
            return state
        if it in phase.prune_at:
            population.keep(self.prune_mask(population.opacities, phase))
        if not self.is_over(len(population), phase, it):
            return state
        population.keep(self.final_mask(population.opacities, chance["final cut"]))
        renderer.release_memory()  # a third of the Gaussians is left
        return replace(state, finished_at=it)

    def prune_mask(self, opacities: Tensor, phase: SelectionPhase) -> Tensor:
        """Mask [N] of those that pruning spares.

        The B most opaque are always among them, so that a sudden fading cannot leave fewer than asked for.
        """
        mask = opacities >= phase.prune_opacity
        if int(mask.sum()) < self.run.budget <= len(opacities):
            return sampling.mask_of_largest(opacities, self.run.budget)
        return mask

    def is_over(self, count: int, phase: SelectionPhase, it: int) -> bool:
        """Whether selection ends at `it`, with `count` Gaussians left."""
        return it >= phase.end or (it > phase.begin and count < NEARLY_THERE * self.run.budget)

    def final_mask(self, opacities: Tensor, generator: torch.Generator) -> Tensor:
        """Mask [N] of exactly B survivors, or of all where there are fewer.

        `multinomial` draws them with probability ∝ opacity, as published; `lowest` drops the faintest.
        """
        if len(opacities) <= self.run.budget:
            return torch.ones_like(opacities, dtype=torch.bool)
        if self.options.final_cut == "lowest":
            return sampling.mask_of_largest(opacities, self.run.budget)
        rows = sampling.draw_without_replacement(opacities, self.run.budget, generator)
        return sampling.mask_of(rows, opacities)

    def rate_factors(self, state: SelectionState, it: int) -> dict[str, float]:
        """Opacities learn faster in a phase and in its recovery."""
        phase = self.calendar.phase(it)
        if phase is None or state.skipped:
            return {}
        if state.finished_at is not None and it >= state.finished_at + phase.recovery:
            return {}
        return {"opacity_logits": phase.opacity_rate_factor}

    def report(self, state: SelectionState) -> dict[str, float]:
        return {"rate": state.rate}

    def remark(self, state: SelectionState, population: Population) -> str | None:
        if not state.skipped:
            return None
        return (
            f"only {len(population):,} Gaussians grew, fewer than the budget of {self.run.budget:,}: all are kept, and "
            "there is no selection"
        )
