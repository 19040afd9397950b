"""Growth by long-axis splits: candidates by screen gradient, an edge survey to choose among them, and plain culls.

Source: Improved-GS (Deng et al., arXiv 2508.12313), as GNS uses it (arXiv 2511.16980); figures without another source
are those of its released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from gns.rules.base import Chance, Rule, Stretch
from gns.rules.calendar import Calendar, Date, Dates, Fixed, Instant, SomeDates, every
from gns.utils.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    import gns.gaussian_renderer as renderer
    import gns.model.population as model
    from gns import losses
    from gns.rules import screen_gradients
    from gns.scene import Gaussians, View
    from gns.team import Team
    from gns.utils import rotations, sampling
else:
    torch = deferred("torch")
    renderer = deferred("gns.gaussian_renderer")
    model = deferred("gns.model.population")
    losses = deferred("gns.losses")
    screen_gradients = deferred("gns.rules.screen_gradients")
    rotations = deferred("gns.utils.rotations")
    sampling = deferred("gns.utils.sampling")

SURVEYED_VIEWS = 10  # of the training views, unless all of them are asked for

# The long-axis split: two children beside each other on the longest axis, together about as large as the parent was.
CHILD_OFFSET = 1.35  # in parent standard deviations, to either side
CHILD_LONG_AXIS = 0.55  # of the parent's standard deviation
CHILD_OTHER_AXES = math.sqrt(1 - 0.45**2)
CHILD_OPACITY = 0.6


@dataclass(frozen=True)
class Growth(Calendar):
    """A stretch of densification: when, and how fast the population may grow."""

    observe: Dates  # iterations whose screen gradients enter the statistics
    densify: Dates  # the events
    survey_until: Date  # later events draw parents by the gradient statistic, earlier ones by the edge survey
    ceiling: float  # size of the dense model, in final budgets
    budget_from: Instant  # iteration at which the square-root budget curve is 0 …
    budget_span: Instant  # … and the number of iterations it takes to reach the ceiling
    gradient_threshold: float = 3e-4  # smallest statistic of a candidate
    late_divisor: float = 1.5  # of that threshold, after `survey_until`, while there is room
    min_opacity: float = 0.005  # fainter Gaussians go at every event but the last
    apart: Fixed = 1  # iterations from one event to the next at least, however short the run

    def scaled(self, factor: float, shift: float = 0.0) -> Growth:
        return super().scaled(factor, shift).spaced(self.apart)

    def spaced(self, interval: int) -> Growth:
        """The same with at least `interval` iterations from one event to the next, here and at any other length."""
        return replace(self, apart=interval, densify=_spaced(self.densify, interval))

    def budget(self, it: int, final_budget: int) -> int:
        """Number of Gaussians allowed after the event of iteration `it`: ⌊ceiling·B·√((it − from)/span)⌋, capped."""
        share = min(max((it - self.budget_from) / self.budget_span, 0.0), 1.0)
        return math.floor(self.ceiling * final_budget * math.sqrt(share))


def _spaced(dates: range, interval: int) -> range:
    """As many of the dates as can be `interval` apart, the last one among them."""
    last, interval = dates[-1], max(interval, dates.step)
    return every(interval, last - (last - dates[0]) // interval * interval, last)


@dataclass(frozen=True)
class GrowthCalendar(Calendar):
    """All dates of growth, and the culls between them."""

    early_cleanup: Date
    growths: tuple[Growth, ...]
    full_surveys: SomeDates  # the densify events here score over all training views instead of a few
    opacity_resets: SomeDates
    recovery_prunes: SomeDates
    reset_epochs: float = 0.0  # how often each photo is seen from a reset to the next, or to growth's end, at least
    by_error: bool = False  # surveys look for where renderings are unlike the photos, not for the photos' edges
    early_cleanup_opacity: float = 0.02  # below this a Gaussian, started at 0.1, has been told to go
    opacity_reset_ceiling: float = 0.05
    recovery_prune_fraction: float = 0.2  # the faintest share, which has not recovered since the reset

    def growth(self, it: int) -> Growth | None:
        """The growth whose statistics are being gathered at `it`."""
        return next((growth for growth in self.growths if it in growth.observe), None)

    def resets(self, epoch: float) -> list[int]:
        """Those of `opacity_resets` after which there is time enough; each photo is seen once in `epoch` iterations.

        What was opaque comes back by the photos that show it: where each was seen once or twice the fog of faint
        Gaussians is still there, and growth is aimed by it.
        """
        apart = self.reset_epochs * epoch
        kept: list[int] = []
        for it in self.opacity_resets:
            end = next((growth.observe[-1] for growth in self.growths if it <= growth.observe[-1]), it)
            if end - it >= apart and (not kept or it - kept[-1] >= apart):
                kept.append(it)
        return kept

    def acts(self, it: int) -> bool:
        """Whether parameters or rows may change at `it`."""
        growth = self.growth(it)
        events = (self.early_cleanup, *self.recovery_prunes, *self.opacity_resets)
        return it in events or (growth is not None and it in growth.densify)

    def surveys_all_views(self, it: int) -> bool:
        """Whether the densify event of `it` is the first at or after one of `full_surveys`.

        At the natural length those are events themselves; scaled milestones may fall between two scaled events.
        """
        growth = self.growth(it)
        return growth is not None and any(it - growth.densify.step < full <= it for full in self.full_surveys)


STANDARD = GrowthCalendar(
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
)

# The second growth starts from B Gaussians: its budget curve passes B about where it begins.
FAST = GrowthCalendar(
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
)


@dataclass(frozen=True)
class GrowthState:
    """Growth remembers nothing between iterations but what the population holds."""


class EdgeGrowth(Rule[GrowthState]):
    """Splits what moves much on the screen, and among that what contributes most to the edges of the photos."""

    name = "edge_growth"
    chances = ("survey", "split")
    calendar: GrowthCalendar

    def extras(self) -> Sequence[model.Extra]:
        return screen_gradients.EXTRAS

    def most(self) -> int:
        return math.ceil(max(growth.ceiling for growth in self.calendar.growths) * self.run.budget)

    def stretches(self) -> Sequence[Stretch]:
        return [Stretch("growth", growth.observe[0], growth.densify[-1]) for growth in self.calendar.growths]

    def begin(self) -> GrowthState:
        return GrowthState()

    def wants(self, it: int) -> renderer.ScreenGradients | None:
        return None if self.calendar.growth(it) is None else screen_gradients.ABSOLUTE

    def observe(
        self, state: GrowthState, population: model.Population, output: renderer.RenderOutput, it: int
    ) -> GrowthState:
        screen_gradients.observe(population, output.abs_grad, output.radii)
        return state

    def leaves_alone(self, state: GrowthState, population: model.Population, it: int) -> bool:
        return not self.calendar.acts(it)

    def edit(self, state: GrowthState, population: model.Population, it: int, chance: Chance) -> GrowthState:
        calendar = self.calendar
        growth = calendar.growth(it)
        if growth and it in growth.densify:
            self.densify(population, growth, it, chance)
        if it == calendar.early_cleanup:
            population.keep(population.opacities >= calendar.early_cleanup_opacity)
        if it in calendar.recovery_prunes:
            population.keep(all_but_faintest(population.opacities, calendar.recovery_prune_fraction))
        if it in self._resets:
            population.reset_opacities(calendar.opacity_reset_ceiling)
        return state

    def densify(self, population: model.Population, growth: Growth, it: int, chance: Chance) -> None:
        """The event of iteration `it`: split some Gaussians, drop the faint ones, restart the statistics.

        The generators choose the views to survey and the parents.
        """
        statistic = screen_gradients.mean(population)
        parents = candidates = self.candidates(statistic, growth, it)
        room = growth.budget(it, self.run.budget) - len(population)
        if 0 < room < len(candidates):
            scores = self._scores(population, growth, it, chance) if it <= growth.survey_until else statistic
            parents = candidates[sampling.draw_without_replacement(scores[candidates], room, chance["split"])]
        if room > 0 and len(parents) > 0:
            population.split(long_axis_split(population.gaussians, parents))
        if it != growth.densify[-1]:
            population.keep(population.opacities >= growth.min_opacity)
        screen_gradients.restart(population)

    def candidates(self, statistic: Tensor, growth: Growth, it: int) -> Tensor:
        """Rows whose mean screen gradient [N] is large enough for a split, [K] int64, ascending."""
        threshold = growth.gradient_threshold
        if it > growth.survey_until and len(statistic) < growth.budget(it, self.run.budget):
            threshold /= growth.late_divisor
        return (statistic >= threshold).nonzero().squeeze(1)

    @cached_property
    def _resets(self) -> list[int]:
        return self.calendar.resets(len(self.run.views) / self.run.team.size)

    def _scores(self, population: model.Population, growth: Growth, it: int, chance: Chance) -> Tensor:
        views = self.run.views
        surveyed = views if self.calendar.surveys_all_views(it) else _some(views, chance["survey"])
        if not self.calendar.by_error:
            return survey(population.gaussians, surveyed, self.run.team)

        def unlike(view: View) -> Tensor:
            return photo_dissimilarity(population.gaussians, view, self.run.background)

        return survey(population.gaussians, surveyed, self.run.team, unlike)


def photo_edges(view: View) -> Tensor:
    """What a survey looks for as it was published: the edges of the photo, [H, W]."""
    return view.edges


def photo_dissimilarity(gaussians: Gaussians, view: View, background: Tensor | Sequence[float]) -> Tensor:
    """How unlike the photo its rendering is around each pixel, [H, W]: 1 − SSIM, not negative, mean of the channels.

    Growth by structural dissimilarity is that of Rota Bulò et al., arXiv 2404.06109.
    """
    view = view.decoded()
    with torch.no_grad():
        image = renderer.render(view.camera, gaussians, background).image
        mask = None if view.mask is None else view.mask.to(image.device)
        return losses.dissimilarity(image, view.image.to(image.device), mask)


def survey(
    gaussians: Gaussians, views: Sequence[View], team: Team, weights: Callable[[View], Tensor] = photo_edges
) -> Tensor:
    """How much each Gaussian contributes to what matters in the photos, [N]: the mean over views, each normalised.

    A view's contribution is Σ_pixels w·T·α with its `weights` w, divided by the mean of its positive values, so that
    every view counts the same however many edges it has. A team walks the views in step; the result is the same to the
    bit.
    """
    total = torch.zeros_like(gaussians.opacity_logits.detach())
    for first in range(0, len(views), team.size):
        with team.summing([total]):
            if first + team.rank < len(views):
                view = views[first + team.rank]
                total += _contribution(gaussians, view, weights(view))
    return total / len(views)


def _contribution(gaussians: Gaussians, view: View, weights: Tensor) -> Tensor:
    contribution = renderer.importance(view.camera, gaussians, weights.to(gaussians.means.device))
    positive = (contribution > 0).sum().clamp(min=1)
    mean = contribution.sum() / positive
    return contribution / mean.clamp(min=torch.finfo(mean.dtype).tiny)


def _some(views: Sequence[View], generator: torch.Generator) -> list[View]:
    """A few of the views, drawn without replacement."""
    chosen = torch.randperm(len(views), generator=generator)[:SURVEYED_VIEWS]
    return [views[index] for index in chosen.tolist()]


def all_but_faintest(opacities: Tensor, fraction: float) -> Tensor:
    """Mask [N] that leaves out the ⌊fraction·N⌋ lowest opacities; of equals the first stay."""
    return sampling.mask_of_largest(opacities, len(opacities) - math.floor(fraction * len(opacities)))


def long_axis_split(gaussians: Gaussians, parents: Tensor) -> model.Split:
    """Two children for each of the rows `parents` [K]: all of the one side first, then all of the other, [2K]."""
    with torch.no_grad():
        means, log_scales = gaussians.means[parents], gaussians.log_scales[parents]
        quats, opacity_logits = gaussians.quats[parents], gaussians.opacity_logits[parents]
        largest, axis = log_scales.max(dim=1)
        offset = CHILD_OFFSET * largest.exp()[:, None] * _principal_axis(quats, axis)
        is_long = torch.nn.functional.one_hot(axis, 3).bool()
        child_log_scales = log_scales + torch.where(is_long, math.log(CHILD_LONG_AXIS), math.log(CHILD_OTHER_AXES))
        both = (2, *(1,) * (gaussians.sh_rest.dim() - 1))
        children = type(gaussians)(
            means=torch.cat([means + offset, means - offset]),
            log_scales=child_log_scales.repeat(2, 1),
            quats=quats.repeat(2, 1),
            opacity_logits=_faded(opacity_logits).repeat(2),
            sh_dc=gaussians.sh_dc[parents].repeat(both),
            sh_rest=gaussians.sh_rest[parents].repeat(both),
        )
        return model.Split(parents, children, origins=parents.repeat(2))


def _principal_axis(quats: Tensor, axis: Tensor) -> Tensor:
    """Column `axis` [K] of the rotation matrix of each quaternion (w, x, y, z) of any length, [K, 3]."""
    return rotations.rotation_matrices(quats)[torch.arange(len(axis), device=axis.device), :, axis]


def _faded(opacity_logits: Tensor) -> Tensor:
    """The logits of CHILD_OPACITY · sigmoid(opacity_logits), also where the sigmoid rounds to 0."""
    log_opacity = math.log(CHILD_OPACITY) + torch.nn.functional.logsigmoid(opacity_logits)
    return log_opacity - torch.log1p(-log_opacity.exp())
