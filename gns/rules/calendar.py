"""Every iteration number of a run, and every rate and threshold that belongs to one.

A schedule is data: `STANDARD` and `FAST` are two values of one type, and nothing else in the package names an
iteration. Iterations are 1-based. Source: Deng et al., arXiv 2511.16980 (selection, learning rates); arXiv 2508.12313
(densification).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# The six parameter groups, by the field names of `gns.scene.Gaussians`.
GROUPS = ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")


def every(interval: int, first: int, last: int) -> range:
    """The iterations first, first + interval, … that do not exceed `last`."""
    return range(first, last + 1, interval)


def _scaled_iteration(iteration: int, factor: float) -> int:
    return round(iteration * factor)


def _scaled_interval(interval: int, factor: float) -> int:
    return max(1, round(interval * factor))


def _scaled_iterations(iterations: tuple[int, ...], factor: float) -> tuple[int, ...]:
    return tuple(_scaled_iteration(it, factor) for it in iterations)


def _scaled_range(iterations: range, factor: float) -> range:
    # The last member is scaled, not `stop`: rounding must not drop the final event of a calendar that includes its end.
    return every(
        _scaled_interval(iterations.step, factor),
        _scaled_iteration(iterations[0], factor),
        _scaled_iteration(iterations[-1], factor),
    )


@dataclass(frozen=True)
class Growth:
    """A stretch of densification: when, and how fast the population may grow."""

    observe: range  # iterations whose screen gradients enter the statistics
    densify: range  # the events
    survey_until: int  # later events draw parents by the gradient statistic, earlier ones by the edge survey
    ceiling: float  # size of the dense model, in final budgets
    budget_from: float  # iteration at which the square-root budget curve is 0 …
    budget_span: float  # … and the number of iterations it takes to reach the ceiling
    gradient_threshold: float = 3e-4  # smallest statistic of a candidate
    late_divisor: float = 1.5  # of that threshold, after `survey_until`, while there is room
    min_opacity: float = 0.005  # fainter Gaussians go at every event but the last

    def budget(self, it: int, final_budget: int) -> int:
        """Number of Gaussians allowed after the event of iteration `it`: ⌊ceiling·B·√((it − from)/span)⌋, capped."""
        share = min(max((it - self.budget_from) / self.budget_span, 0.0), 1.0)
        return math.floor(self.ceiling * final_budget * math.sqrt(share))

    def scaled(self, factor: float) -> Growth:
        """The same growth with every iteration and interval multiplied by `factor`."""
        return replace(
            self,
            observe=_scaled_range(self.observe, factor),
            densify=_scaled_range(self.densify, factor),
            survey_until=_scaled_iteration(self.survey_until, factor),
            budget_from=self.budget_from * factor,
            budget_span=self.budget_span * factor,
        )


@dataclass(frozen=True)
class Phase:
    """One round of natural selection: a contest from `begin` to `end`, then `recovery` iterations of fast opacity."""

    begin: int  # the opacity learning rate is raised from here on
    end: int  # last iteration of the contest; it ends sooner when few enough are left
    level_until: int  # before it, the push cancels the head start of Gaussians that are opaque already
    goal_zero: int  # where the controller's goal line reaches 0
    pulse_interval: int
    deaths: range
    death_opacity: float  # fainter Gaussians die
    recovery: int  # iterations after the contest until the opacity learning rate is normal again
    opacity_rate_factor: float = 4.0  # on that learning rate: the contest decides, not where an opacity started

    @property
    def pulses(self) -> range:
        """Iterations whose loss carries the regulariser."""
        return every(self.pulse_interval, self.begin + 1, self.end)

    def adapts(self, it: int) -> bool:
        """Whether the controller acts at the pulse of iteration `it`: at the 2nd, the 4th, …"""
        return self.pulses.index(it) % 2 == 1

    def goal(self, it: int) -> float:
        """Height of the goal line at `it`, as a fraction of its height at `begin`."""
        return max(0.0, 1.0 - (it - self.begin) / max(1, self.goal_zero - self.begin))

    def scaled(self, factor: float) -> Phase:
        """The same round with every iteration and interval multiplied by `factor`."""
        return replace(
            self,
            begin=_scaled_iteration(self.begin, factor),
            end=_scaled_iteration(self.end, factor),
            level_until=_scaled_iteration(self.level_until, factor),
            goal_zero=_scaled_iteration(self.goal_zero, factor),
            pulse_interval=_scaled_interval(self.pulse_interval, factor),
            deaths=_scaled_range(self.deaths, factor),
            recovery=_scaled_interval(self.recovery, factor),
        )


@dataclass(frozen=True)
class StepPeriod:
    """How often the optimiser steps, up to and including iteration `last`; gradients are summed in between."""

    last: int
    period: int
    sh_rest_period: int

    def scaled(self, factor: float) -> StepPeriod:
        """The same rule with its end and its periods multiplied by `factor`."""
        return StepPeriod(
            last=_scaled_iteration(self.last, factor),
            period=_scaled_interval(self.period, factor),
            sh_rest_period=_scaled_interval(self.sh_rest_period, factor),
        )


@dataclass(frozen=True)
class LearningRates:
    """Adam's step sizes. Those of the means are in units of the scene extent and fall log-linearly over the run."""

    means_first: float = 4e-5
    means_last: float = 2e-6
    log_scales: float = 5e-3
    quats: float = 1e-3
    opacity_logits: float = 2.5e-2
    sh_dc: float = 2.5e-3
    sh_rest: float = 2.5e-4


@dataclass(frozen=True)
class Schedule:
    """When everything happens in a run of `iterations` iterations."""

    iterations: int
    sh_degree_interval: int  # the spherical-harmonic degree rises by one every so many iterations
    early_cleanup: int
    growths: tuple[Growth, ...]
    full_surveys: tuple[int, ...]  # the densify events here score over all training views instead of a few
    opacity_resets: tuple[int, ...]
    recovery_prunes: tuple[int, ...]
    phases: tuple[Phase, ...]
    step_periods: tuple[StepPeriod, ...]
    rates: LearningRates = LearningRates()
    early_cleanup_opacity: float = 0.02  # below this a Gaussian, started at 0.1, has been told to go
    opacity_reset_ceiling: float = 0.05
    recovery_prune_fraction: float = 0.2  # the faintest share that has not recovered since the reset

    def scaled(self, iterations: int) -> Schedule:
        """This schedule stretched to `iterations`: every milestone and every interval (≥ 1) scales alike.

        At the natural length all numbers stay exactly as they are. Published code only truncates a shorter run, so that
        selection never happens there.
        """
        factor = iterations / self.iterations
        return replace(
            self,
            iterations=iterations,
            sh_degree_interval=_scaled_interval(self.sh_degree_interval, factor),
            early_cleanup=_scaled_iteration(self.early_cleanup, factor),
            growths=tuple(growth.scaled(factor) for growth in self.growths),
            full_surveys=_scaled_iterations(self.full_surveys, factor),
            opacity_resets=_scaled_iterations(self.opacity_resets, factor),
            recovery_prunes=_scaled_iterations(self.recovery_prunes, factor),
            phases=tuple(phase.scaled(factor) for phase in self.phases),
            step_periods=tuple(period.scaled(factor) for period in self.step_periods),
        )

    def sh_degree(self, it: int) -> int:
        """Spherical-harmonic degree in use at `it`, not yet limited by the model's own."""
        return it // self.sh_degree_interval

    def growth(self, it: int) -> Growth | None:
        """The growth whose statistics are being gathered at `it`."""
        return next((growth for growth in self.growths if it in growth.observe), None)

    def surveys_all_views(self, it: int) -> bool:
        """Whether the densify event of `it` is the first at or after one of `full_surveys`.

        At the natural length those are events themselves; scaled milestones may fall between two scaled events.
        """
        growth = self.growth(it)
        return growth is not None and any(it - growth.densify.step < full <= it for full in self.full_surveys)

    def phase(self, it: int) -> Phase | None:
        """The round of selection that `it` belongs to, recovery included."""
        return next((phase for phase in self.phases if phase.begin <= it < phase.end + phase.recovery), None)

    def stepping(self, it: int) -> tuple[str, ...]:
        """Names of the parameter groups that the optimiser steps at the end of `it`."""
        return tuple(name for name, period in self.iterations_per_step(it).items() if it % period == 0)

    def iterations_per_step(self, it: int) -> dict[str, int]:
        """Number of iterations, about `it`, whose gradients one step of each parameter group spends."""
        rule = next((rule for rule in self.step_periods if it <= rule.last), self.step_periods[-1])
        return {name: rule.sh_rest_period if name == "sh_rest" else rule.period for name in GROUPS}

    def learning_rates(self, it: int, extent: float, opacity_factor: float = 1.0) -> dict[str, float]:
        """Step size of each parameter group at `it`.

        `extent` is the scene's, in world units; `opacity_factor` multiplies the rate of the opacity opacity_logits.
        """
        progress = it / self.iterations
        means = self.rates.means_first * (self.rates.means_last / self.rates.means_first) ** progress
        return {
            "means": means * extent,
            "log_scales": self.rates.log_scales,
            "quats": self.rates.quats,
            "opacity_logits": self.rates.opacity_logits * opacity_factor,
            "sh_dc": self.rates.sh_dc,
            "sh_rest": self.rates.sh_rest,
        }


STANDARD = Schedule(
    iterations=30_000,
    sh_degree_interval=1_000,
    early_cleanup=300,
    growths=(
        Growth(
            observe=every(1, 501, 14_999),
            densify=every(100, 600, 14_900),
            survey_until=14_500,
            ceiling=3.0,
            budget_from=500,
            budget_span=14_000,
        ),
    ),
    full_surveys=(3_400, 6_400),
    opacity_resets=(3_000, 6_000, 9_000, 12_000),
    recovery_prunes=(3_300, 6_300),
    phases=(
        Phase(
            begin=15_000,
            end=23_000,
            level_until=16_000,
            goal_zero=22_000,
            pulse_interval=50,
            deaths=every(50, 16_000, 23_000),
            death_opacity=0.001,
            recovery=1_000,
        ),
    ),
    step_periods=(StepPeriod(20_000, 1, 1), StepPeriod(24_000, 5, 5), StepPeriod(30_000, 20, 20)),
)

# The second growth starts from B Gaussians: its budget curve passes B about where it begins.
FAST = Schedule(
    iterations=15_000,
    sh_degree_interval=500,
    early_cleanup=300,
    growths=(
        Growth(
            observe=every(1, 501, 3_000),
            densify=every(100, 600, 3_000),
            survey_until=2_800,
            ceiling=2.0,
            budget_from=300,
            budget_span=2_500,
        ),
        Growth(
            observe=every(1, 6_001, 7_000),
            densify=every(100, 6_100, 7_000),
            survey_until=6_700,
            ceiling=2.0,
            budget_from=5_700,
            budget_span=1_000,
        ),
    ),
    full_surveys=(1_400, 2_400),
    opacity_resets=(1_000, 2_000),
    recovery_prunes=(1_300, 2_300),
    phases=(
        Phase(
            begin=3_000,
            end=6_000,
            level_until=3_500,
            goal_zero=6_000,
            pulse_interval=50,
            deaths=every(50, 3_500, 6_000),
            death_opacity=0.01,
            recovery=500,
        ),
        Phase(
            begin=7_000,
            end=10_000,
            level_until=7_500,
            goal_zero=10_000,
            pulse_interval=50,
            deaths=every(50, 7_500, 10_000),
            death_opacity=0.01,
            recovery=500,
        ),
    ),
    step_periods=(
        StepPeriod(3_000, 1, 1),
        StepPeriod(6_000, 1, 5),
        StepPeriod(10_000, 10, 10),
        StepPeriod(15_000, 20, 20),
    ),
)

SCHEDULES = {"standard": STANDARD, "fast": FAST}
