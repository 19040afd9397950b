"""`--method oneshot-opacity` and `oneshot-contribution`: growth as in gns, then one cut by a score.

What a selection that scores Gaussians by hand makes of the same dense model: the usual way of pruning, in its simplest
form. By opacity, or by contribution: the sum over all training views and pixels of T·α, how much of the photos a
Gaussian paints (as LightGaussian, Fan et al., arXiv 2311.17245, without its factor for volume).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gns.rules import edge_growth, gns
from gns.rules.base import Calendars, Chance, Method, Rule
from gns.rules.calendar import Calendar, Date
from gns.utils.deferred import deferred

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


@dataclass(frozen=True)
class CutCalendar(Calendar):
    """When the cut is made."""

    cut: Date


@dataclass(frozen=True)
class CutState:
    """Whether the cut was made, and of how many."""

    cut_from: int | None = None


class OneShot(Rule[CutState]):
    """Keeps the budget's number of Gaussians with the highest score, once."""

    calendar: CutCalendar

    def scores(self, population: Population) -> Tensor:
        """What decides, [N]; the highest stay."""
        raise NotImplementedError

    def begin(self) -> CutState:
        return CutState()

    def leaves_alone(self, state: CutState, population: Population, it: int) -> bool:
        return it != self.calendar.cut

    def edit(self, state: CutState, population: Population, it: int, chance: Chance) -> CutState:
        if it != self.calendar.cut:
            return state
        count = len(population)
        if count > self.run.budget:
            population.keep(sampling.mask_of_largest(self.scores(population), self.run.budget))
            renderer.release_memory()
        return CutState(cut_from=count)

    def remark(self, state: CutState, population: Population) -> str | None:
        if state.cut_from is None or state.cut_from >= self.run.budget:
            return None
        return f"only {state.cut_from:,} Gaussians grew, fewer than the budget of {self.run.budget:,}: all are kept"


class OneShotOpacity(OneShot):
    """The most opaque stay."""

    name = "oneshot_opacity"

    def scores(self, population: Population) -> Tensor:
        return population.opacities


class OneShotContribution(OneShot):
    """Those stay that paint most of the training photos."""

    name = "oneshot_contribution"

    def scores(self, population: Population) -> Tensor:
        team, views = self.run.team, self.run.views
        total = torch.zeros_like(population.opacities)
        for first in range(0, len(views), team.size):  # a team walks the views in step, to the same bits
            with team.summing([total]):
                if first + team.rank < len(views):
                    camera = views[first + team.rank].camera
                    everywhere = total.new_ones(camera.height, camera.width)
                    total += renderer.importance(camera, population.gaussians, everywhere)
        return total


def _method(rule: type[OneShot], summary: str) -> Method:
    calendars = Calendars(gns.STANDARD.optimisation, (edge_growth.STANDARD, CutCalendar(cut=15_000)))
    return Method(summary, (edge_growth.EdgeGrowth, rule), {"standard": calendars})


BY_OPACITY = _method(OneShotOpacity, "growth, then one cut by opacity")
BY_CONTRIBUTION = _method(OneShotContribution, "growth, then one cut by contribution to the photos")
