"""`--method mcmc`: Gaussians as samples, moved by noise and relocated when they fade, never more than the budget.

Source: 3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al., NeurIPS 2024, arXiv 2404.09591); settings
are the published defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gns.rules import adaptive_density
from gns.rules.base import Calendars, Chance, Method, Rule
from gns.rules.calendar import Calendar, Dates, every
from gns.utils.deferred import deferred
from gns.utils.option_table import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    import gns.model.population as model
    from gns.scene import Gaussians
    from gns.utils import rotations, sampling
else:
    torch = deferred("torch")
    rotations = deferred("gns.utils.rotations")
    sampling = deferred("gns.utils.sampling")

INITIAL_OPACITY = 0.5
INITIAL_SCALE = 0.1  # of what the distances between points suggest
DEAD_OPACITY = 0.005  # fainter Gaussians are relocated
GROWTH = 1.05  # of the number of Gaussians, at each event below the budget
MOST_COPIES = 51  # that a Gaussian is divided into at once
# Noise is for the faint: it is multiplied by a sigmoid of the opacity, which falls steeply at 0.005.
NOISE_STEEPNESS = 100.0
NOISE_OPACITY = 0.005


@dataclass(frozen=True)
class RelocationCalendar(Calendar):
    """When Gaussians are relocated and added."""

    relocate: Dates


# Steps and learning rates are those of 3DGS, as published.
STANDARD = Calendars(
    adaptive_density.STANDARD.optimisation,
    (RelocationCalendar(relocate=every(100, 600, 24_900)),),
)


@dataclass(frozen=True)
class RelocationOptions:
    """Strengths, as the published command line names them."""

    noise_lr: float = field(
        default=5e5, metadata=option("strength of the noise on the means", group="method mcmc", at_least=0)
    )
    opacity_reg: float = field(
        default=0.01, metadata=option("weight of the mean opacity in the loss", group="method mcmc", at_least=0)
    )
    scale_reg: float = field(
        default=0.01, metadata=option("weight of the mean scale in the loss", group="method mcmc", at_least=0)
    )


@dataclass(frozen=True)
class RelocationState:
    """Relocation remembers nothing."""


class Relocation(Rule[RelocationState]):
    """Puts faded Gaussians where opaque ones are, adds more the same way up to the budget, and shakes the faint."""

    name = "relocation"
    chances = ("relocation", "noise")
    Options = RelocationOptions
    calendar: RelocationCalendar
    options: RelocationOptions

    def most(self) -> int:
        return self.run.budget

    def begin(self) -> RelocationState:
        return RelocationState()

    def initial(self, gaussians: Gaussians, chance: Chance) -> Gaussians:
        """Half opaque and small. Of more points than the budget a random choice is taken (ours: the published code
        keeps all, and ends with more Gaussians than were asked for)."""
        if len(gaussians) > self.run.budget:
            chosen = torch.randperm(len(gaussians), generator=chance["relocation"])[: self.run.budget]
            gaussians = gaussians.rows(chosen.sort().values)
        gaussians.opacity_logits[:] = math.log(INITIAL_OPACITY / (1 - INITIAL_OPACITY))
        gaussians.log_scales += math.log(INITIAL_SCALE)
        return gaussians

    def penalty(self, state: RelocationState, population: model.Population, it: int) -> Tensor:
        """Equation 10: the fewer and smaller, the better."""
        gaussians = population.gaussians
        by_opacity = self.options.opacity_reg * gaussians.opacities.mean()
        return by_opacity + self.options.scale_reg * gaussians.log_scales.exp().mean()

    def leaves_alone(self, state: RelocationState, population: model.Population, it: int) -> bool:
        return it not in self.calendar.relocate

    def edit(self, state: RelocationState, population: model.Population, it: int, chance: Chance) -> RelocationState:
        if it in self.calendar.relocate:
            self.relocate(population, chance["relocation"])
            self.add(population, chance["relocation"])
        return state

    def relocate(self, population: model.Population, generator: torch.Generator) -> None:
        """Give each dead Gaussian a part of one that lives, drawn by opacity; the whole is to look as before."""
        opacities = population.opacities
        dead, living = (opacities <= DEAD_OPACITY).nonzero().squeeze(1), (opacities > DEAD_OPACITY).nonzero().squeeze(1)
        if len(dead) and len(living):
            origins = living[sampling.draw_with_replacement(opacities[living], len(dead), generator)]
            parts = self._divide(population, origins)
            population.overwrite(dead, parts, origins)

    def add(self, population: model.Population, generator: torch.Generator) -> None:
        """Add 5 %, up to the budget, in the same way."""
        more = min(self.run.budget, int(GROWTH * len(population))) - len(population)
        if more > 0:
            origins = sampling.draw_with_replacement(population.opacities, more, generator)
            population.append(self._divide(population, origins), origins)

    def _divide(self, population: model.Population, origins: Tensor) -> Gaussians:
        """Divide each of the rows `origins` [K] into as many parts as it is named times, and one that stays.

        Returns the K parts that have yet to find a place; the one that stays is put in place here, without moments.
        """
        copies = torch.bincount(origins, minlength=len(population)) + 1
        divided = copies.gt(1).nonzero().squeeze(1)
        parts = population.gaussians.rows(divided)
        opacities, shrinkage = divided_by(population.opacities[divided], copies[divided])
        parts.opacity_logits = torch.logit(opacities)
        parts.log_scales = parts.log_scales + torch.log(shrinkage)[:, None]
        population.overwrite(divided, parts, divided)
        return population.gaussians.rows(origins)

    def stepped(self, state: RelocationState, population: model.Population, it: int, chance: Chance) -> RelocationState:
        """Equation 8: move each mean at random, within its own shape, and the more the fainter it is."""
        rate = self.run.optimisation.learning_rates(it, self.run.extent, {})["means"]
        with torch.no_grad():
            gaussians = population.gaussians
            drawn = torch.randn(len(population), 3, generator=chance["noise"]).to(gaussians.means.device)
            faint = torch.sigmoid(NOISE_STEEPNESS * (NOISE_OPACITY - population.opacities))
            noise = self.options.noise_lr * rate * faint[:, None] * drawn
            axes = rotations.rotation_matrices(gaussians.quats) * gaussians.log_scales.exp()[:, None, :]  # R S
            gaussians.means += (axes @ (axes.mT @ noise[:, :, None])).squeeze(2)  # Σ = R S Sᵀ Rᵀ
        return state


def divided_by(opacities: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity of each of n equal Gaussians that together look like one, and the factor of its scales, [K] each.

    Equation 9: α' = 1 − (1 − α)^(1/n), and Σ' = α² (Σᵢ Σₖ C(i−1, k) (−1)ᵏ α'^(k+1) / √(k+1))⁻² Σ with i from 1 to n and
    k from 0 to i − 1. `copies` are n, [K] int64; more than MOST_COPIES count as that many.
    """
    n = copies.clamp(max=MOST_COPIES)
    alpha = opacities.double()
    parts = 1 - (1 - alpha) ** (1 / n)
    weights = _weights().to(alpha.device)[n - 1]  # [K, MOST_COPIES], of α'^(k+1)
    powers = parts[:, None] ** torch.arange(1, MOST_COPIES + 1, device=alpha.device)
    shrinkage = alpha / (weights * powers).sum(dim=1)
    lowest, highest = DEAD_OPACITY, 1 - torch.finfo(torch.float32).eps
    return parts.clamp(lowest, highest).to(opacities.dtype), shrinkage.to(opacities.dtype)


def _weights() -> Tensor:
    """Σᵢ C(i−1, k) (−1)ᵏ / √(k+1) over i from 1 to n, float64 [n − 1, k].

    The sum over i is the binomial C(n, k+1) (hockey-stick identity).
    """
    rows = [
        [math.comb(n, k + 1) * (-1) ** k / math.sqrt(k + 1) for k in range(MOST_COPIES)]
        for n in range(1, MOST_COPIES + 1)
    ]
    return torch.tensor(rows, dtype=torch.float64)


METHOD = Method(
    summary="Markov chain Monte Carlo: relocation and noise, up to the budget",
    rules=(Relocation,),
    schedules={"standard": STANDARD},
)
