"""`--method 3dgs`: adaptive density control, which grows a model to whatever the photos ask for.

Source: 3D Gaussian Splatting (Kerbl et al., 2023), section 5.2 and appendix B; settings are the published defaults.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gns.rules.base import Calendars, Chance, Method, Rule
from gns.rules.calendar import Calendar, Date, Dates, SomeDates, every
from gns.rules.optimisation import LearningRates, Optimisation, StepPeriod
from gns.utils.deferred import deferred

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    import gns.gaussian_renderer as renderer
    import gns.model.population as model
    from gns.rules import screen_gradients
    from gns.scene import Gaussians
    from gns.utils import rotations
else:
    torch = deferred("torch")
    renderer = deferred("gns.gaussian_renderer")
    model = deferred("gns.model.population")
    screen_gradients = deferred("gns.rules.screen_gradients")
    rotations = deferred("gns.utils.rotations")

SPLIT_SHRINKAGE = 1.6  # φ of section 5.2: a child's scale is its parent's divided by this
CHILDREN = 2  # of a split


@dataclass(frozen=True)
class DensityCalendar(Calendar):
    """When the model is densified, and by which thresholds."""

    observe: Dates  # iterations whose screen gradients enter the statistics
    densify: Dates  # the events
    opacity_resets: SomeDates
    white_reset: Date  # one more reset, where the background is white
    prune_large_after: Date  # until the first reset every size is allowed
    gradient_threshold: float = 2e-4  # τ_pos, of the mean in units of half the image
    small: float = 0.01  # of the scene's extent: up to this largest scale a Gaussian is cloned, above it split
    large: float = 0.1  # of the scene's extent: larger ones are pruned
    min_opacity: float = 0.005  # ε_α
    reset_opacity: float = 0.01


STANDARD = Calendars(
    Optimisation(
        iterations=30_000,
        sh_degree_interval=1_000,
        step_periods=(StepPeriod(30_000, 1, 1),),
        rates=LearningRates(
            means_first=1.6e-4,
            means_last=1.6e-6,
            log_scales=5e-3,
            quats=1e-3,
            opacity_logits=5e-2,
            sh_dc=2.5e-3,
            sh_rest=2.5e-3 / 20,
        ),
    ),
    (
        DensityCalendar(
            observe=every(1, 1, 14_999),
            densify=every(100, 600, 14_900),
            opacity_resets=(3_000, 6_000, 9_000, 12_000),
            white_reset=500,
            prune_large_after=3_000,
        ),
    ),
)


@dataclass(frozen=True)
class DensityState:
    """Density control remembers nothing between iterations but what the population holds."""


class AdaptiveDensity(Rule[DensityState]):
    """Clones small Gaussians that the loss pulls at, splits large ones, and prunes the faint and the huge.

    The released code also means to prune what is larger than 20 pixels on the screen, but forgets the radii just before
    it looks at them: nothing is ever pruned for that, and neither is it here.
    """

    name = "adaptive_density"
    chances = ("split",)
    calendar: DensityCalendar

    def extras(self) -> Sequence[model.Extra]:
        return screen_gradients.EXTRAS

    def begin(self) -> DensityState:
        return DensityState()

    def wants(self, it: int) -> renderer.ScreenGradients | None:
        return screen_gradients.SIGNED if it in self.calendar.observe else None

    def observe(
        self, state: DensityState, population: model.Population, output: renderer.RenderOutput, it: int
    ) -> DensityState:
        screen_gradients.observe(population, output.signed_grad, output.radii)
        return state

    def leaves_alone(self, state: DensityState, population: model.Population, it: int) -> bool:
        return it not in self.calendar.densify and not self._resets_opacities(it)

    def edit(self, state: DensityState, population: model.Population, it: int, chance: Chance) -> DensityState:
        calendar = self.calendar
        if it in calendar.densify:
            self.densify(population, chance["split"])
            population.keep(self.prune_mask(population.gaussians, it))
            screen_gradients.restart(population)
        if self._resets_opacities(it):
            population.reset_opacities(calendar.reset_opacity)
        return state

    def _resets_opacities(self, it: int) -> bool:
        is_white = self.run.background == (1.0, 1.0, 1.0)
        return it in self.calendar.opacity_resets or (is_white and it == self.calendar.white_reset)

    def densify(self, population: model.Population, generator: torch.Generator) -> None:
        """Clone and split all whose mean screen gradient reaches the threshold."""
        pulled = screen_gradients.mean(population) >= self.calendar.gradient_threshold
        is_small = _largest_scales(population.gaussians) <= self.calendar.small * self.run.extent
        cloned, parents = (pulled & is_small).nonzero().squeeze(1), (pulled & ~is_small).nonzero().squeeze(1)
        if len(cloned) + len(parents):
            origins = torch.cat([cloned, *[parents] * CHILDREN])
            children = population.gaussians.rows(origins)
            first = len(cloned)
            with torch.no_grad():
                children.means[first:] += _offsets(children, first, generator)
                children.log_scales[first:] -= math.log(SPLIT_SHRINKAGE)
            population.split(model.Split(parents, children, origins))

    def prune_mask(self, gaussians: Gaussians, it: int) -> Tensor:
        """Mask [N] of those that are opaque enough and not too large."""
        mask = gaussians.opacities.detach() >= self.calendar.min_opacity
        if it > self.calendar.prune_large_after:
            mask &= _largest_scales(gaussians) <= self.calendar.large * self.run.extent
        return mask


def _largest_scales(gaussians: Gaussians) -> Tensor:
    """Standard deviation along the longest axis, [N], in world units."""
    return gaussians.log_scales.detach().max(dim=1).values.exp()


def _offsets(gaussians: Gaussians, first: int, generator: torch.Generator) -> Tensor:
    """A point drawn from each Gaussian from row `first` on, relative to its mean, [K, 3]."""
    scales = gaussians.log_scales[first:].exp()
    drawn = torch.randn(len(scales), 3, generator=generator).to(scales.device, scales.dtype)
    return (rotations.rotation_matrices(gaussians.quats[first:]) @ (scales * drawn)[:, :, None]).squeeze(2)


METHOD = Method(
    summary="adaptive density control, to whatever number it grows",
    rules=(AdaptiveDensity,),
    schedules={"standard": STANDARD},
    budgeted=False,
)
