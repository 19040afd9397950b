"""Who has children: candidates by screen gradient, an edge survey to choose among them, and the long-axis split.

Source: Improved-GS, arXiv 2508.12313, as used by GNS, arXiv 2511.16980.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gns.gaussian_renderer import importance
from gns.model.population import Population, Split
from gns.rules.calendar import Growth
from gns.scene import Gaussians, View
from gns.team import ALONE, Team
from gns.utils.sampling import draw_without_replacement

SURVEYED_VIEWS = 10  # of the training views, unless all of them are asked for

# The long-axis split: two children beside each other on the longest axis, together about as large as the parent was.
CHILD_OFFSET = 1.35  # in parent standard deviations, to either side
CHILD_LONG_AXIS = 0.55  # of the parent's standard deviation
CHILD_OTHER_AXES = math.sqrt(1 - 0.45**2)
CHILD_OPACITY = 0.6


@dataclass(frozen=True, eq=False)
class Densification:
    """The method's policy for growth."""

    views: Sequence[View]  # the training views
    final_budget: int  # B
    team: Team = ALONE  # who shares the survey

    def densify(
        self,
        population: Population,
        growth: Growth,
        it: int,
        *,
        survey_all: bool,
        survey_generator: torch.Generator,
        split_generator: torch.Generator,
    ) -> None:
        """The event of iteration `it`: split some Gaussians, drop the faint ones, restart the statistics.

        `survey_all` surveys all training views instead of a few. The CPU generators choose the views to survey and the
        parents.
        """
        statistic = population.screen_gradients
        parents = candidates = self.candidates(statistic, growth, it)
        room = growth.budget(it, self.final_budget) - len(population)
        if 0 < room < len(candidates):
            if it <= growth.survey_until:
                surveyed = self.views if survey_all else _some(self.views, survey_generator)
                scores = edge_survey(population.gaussians, surveyed, self.team)
            else:
                scores = statistic
            parents = candidates[draw_without_replacement(scores[candidates], room, split_generator)]
        if room > 0 and len(parents) > 0:
            population.split(long_axis_split(population.gaussians, parents))
        if it != growth.densify[-1]:
            population.keep(population.opacities >= growth.min_opacity)
        population.restart_statistics()

    def candidates(self, statistic: Tensor, growth: Growth, it: int) -> Tensor:
        """Rows whose mean screen gradient [N] is large enough for a split, [K] int64, ascending."""
        threshold = growth.gradient_threshold
        if it > growth.survey_until and len(statistic) < growth.budget(it, self.final_budget):
            threshold /= growth.late_divisor
        return (statistic >= threshold).nonzero().squeeze(1)


def edge_survey(gaussians: Gaussians, views: Sequence[View], team: Team = ALONE) -> Tensor:
    """How much each Gaussian contributes to image edges, [N]: the mean over views of the normalised contribution.

    A view's contribution is Σ_pixels edge·T·α, divided by the mean of its positive values, so that every view counts
    the same however many edges it has. A team walks the views in step; the result is the same to the bit.
    """
    total = torch.zeros_like(gaussians.opacity_logits.detach())
    for first in range(0, len(views), team.size):
        with team.summing([total]):
            if first + team.rank < len(views):
                total += _edge_contribution(gaussians, views[first + team.rank])
    return total / len(views)


def _edge_contribution(gaussians: Gaussians, view: View) -> Tensor:
    contribution = importance(view.camera, gaussians, view.edges.to(gaussians.means.device))
    positive = (contribution > 0).sum().clamp(min=1)
    mean = contribution.sum() / positive
    return contribution / mean.clamp(min=torch.finfo(mean.dtype).tiny)


def _some(views: Sequence[View], generator: torch.Generator) -> list[View]:
    """A few of the views, drawn without replacement."""
    chosen = torch.randperm(len(views), generator=generator)[:SURVEYED_VIEWS]
    return [views[index] for index in chosen.tolist()]


@torch.no_grad()
def long_axis_split(gaussians: Gaussians, parents: Tensor) -> Split:
    """Two children for each of the rows `parents` [K]: all of the one side first, then all of the other, [2K]."""
    means, log_scales = gaussians.means[parents], gaussians.log_scales[parents]
    quats, opacity_logits = gaussians.quats[parents], gaussians.opacity_logits[parents]
    largest, axis = log_scales.max(dim=1)
    offset = CHILD_OFFSET * largest.exp()[:, None] * _principal_axis(quats, axis)
    is_long = torch.nn.functional.one_hot(axis, 3).bool()
    child_log_scales = log_scales + torch.where(is_long, math.log(CHILD_LONG_AXIS), math.log(CHILD_OTHER_AXES))
    both = (2, *(1,) * (gaussians.sh_rest.dim() - 1))
    children = Gaussians(
        means=torch.cat([means + offset, means - offset]),
        log_scales=child_log_scales.repeat(2, 1),
        quats=quats.repeat(2, 1),
        opacity_logits=_faded(opacity_logits).repeat(2),
        sh_dc=gaussians.sh_dc[parents].repeat(both),
        sh_rest=gaussians.sh_rest[parents].repeat(both),
    )
    return Split(parents, children)


def _principal_axis(quats: Tensor, axis: Tensor) -> Tensor:
    """Column `axis` [K] of the rotation matrix of each quaternion (w, x, y, z) of any length, [K, 3]."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=1).unbind(1)
    columns = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], dim=1),
            torch.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], dim=1),
            torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=1),
        ],
        dim=1,
    )
    return columns[torch.arange(len(axis), device=axis.device), axis]


def _faded(opacity_logits: Tensor) -> Tensor:
    """The opacity_logits of CHILD_OPACITY · sigmoid(opacity_logits), also where the sigmoid rounds to 0."""
    log_opacity = math.log(CHILD_OPACITY) + torch.nn.functional.logsigmoid(opacity_logits)
    return log_opacity - torch.log1p(-log_opacity.exp())
