"""`--method learned-mask`: growth as in gns, then a mask that each Gaussian learns, and a cut by it.

Source: Compact 3D Gaussian Representation (Lee et al., CVPR 2024, arXiv 2311.13681), its section on masking: a Gaussian
is drawn with M·α and M·s in place of its opacity and scales, where M is 1 for sigmoid(m) > ε and else 0; backward it is
sigmoid(m) (the straight-through estimator); the mean of sigmoid(m) is added to the loss, and what is masked is pruned.
ε, the weight of the mean and the step size of m are the published ones for captured scenes.

There masks are learned while the model grows, and it ends with as many Gaussians as that leaves. Here they are learned
on the dense model, as long as the selection of gns may take, and the highest masks are kept then: exactly the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gns.rules import edge_growth, gns
from gns.rules.base import Calendars, Chance, Method, Rule
from gns.rules.calendar import Calendar, Date, Dates, every
from gns.utils.deferred import deferred
from gns.utils.option_table import option

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    import gns.gaussian_renderer as renderer
    import gns.model.population as model
    from gns.model.population import Population
    from gns.scene import Gaussians
    from gns.utils import sampling
else:
    torch = deferred("torch")
    renderer = deferred("gns.gaussian_renderer")
    model = deferred("gns.model.population")
    sampling = deferred("gns.utils.sampling")

MASK = "mask_logits"  # m
THRESHOLD = 0.01  # ε
FIRST_LOGIT = 1.0
RATE = 0.01  # of Adam
HIDDEN_LOGIT = -20.0  # an opacity of 2e-9: far below the 1/255 from which a Gaussian is drawn


@dataclass(frozen=True)
class MaskCalendar(Calendar):
    """Masks are learned from `begin` to `end`, where the cut is made."""

    begin: Date
    prune_at: Dates
    end: Date


@dataclass(frozen=True)
class MaskOptions:
    """What may be chosen about it."""

    mask_weight: float = field(
        default=0.0005, metadata=option("weight of the mean mask in the loss", group="method learned-mask")
    )


@dataclass(frozen=True)
class MaskState:
    """How many there were when masks began to be learned, and when the cut was made, and of how many."""

    began_with: int | None = None
    finished_at: int | None = None
    cut_from: int | None = None

    @property
    def learning(self) -> bool:
        """Whether masks are learned at the moment."""
        return self.began_with is not None and self.finished_at is None


class LearnedMask(Rule[MaskState]):
    """Lets Gaussians learn whether they are needed, and keeps the budget's number of those that are needed most."""

    name = "learned_mask"
    Options = MaskOptions
    calendar: MaskCalendar
    options: MaskOptions

    def extras(self) -> Sequence[model.Extra]:
        return (model.Extra(MASK, initial=FIRST_LOGIT, rate=RATE, inherited=True),)

    def begin(self) -> MaskState:
        return MaskState()

    def prepare(self, state: MaskState, population: Population, it: int) -> MaskState:
        """With no more Gaussians than the budget there is nothing to learn."""
        if it != self.calendar.begin:
            return state
        count = len(population)
        return MaskState(began_with=count, finished_at=it if count <= self.run.budget else None)

    def rendered(self, state: MaskState, population: Population, gaussians: Gaussians) -> Gaussians:
        """Masked Gaussians are not drawn; the others are drawn as they are, and their masks get a gradient.

        At M = 1 the derivatives of log(M·s) and logit(M·α) by M are 1 and 1/(1 − α). What is hidden gets none, as
        published: it draws nothing, and nothing can call it back.
        """
        if not state.learning:
            return gaussians
        mask = torch.sigmoid(population.extra(MASK))
        slope = mask - mask.detach()  # 0, whose gradient is that of the mask
        visible = mask.detach() > THRESHOLD
        transparency = torch.sigmoid(-gaussians.opacity_logits.detach())
        logits = torch.where(visible, gaussians.opacity_logits + slope / transparency, HIDDEN_LOGIT)
        return replace(gaussians, opacity_logits=logits, log_scales=gaussians.log_scales + slope[:, None])

    def penalty(self, state: MaskState, population: Population, it: int) -> Tensor | None:
        if not state.learning:
            return None
        return self.options.mask_weight * torch.sigmoid(population.extra(MASK)).mean()

    def edit(self, state: MaskState, population: Population, it: int, chance: Chance) -> MaskState:
        """Prune what is masked and, at the end, all but the highest masks."""
        if not state.learning:
            return state
        if it in self.calendar.prune_at:
            population.keep(self.prune_mask(population.extra(MASK).detach()))
        if it < self.calendar.end:
            return state
        count = len(population)
        if count > self.run.budget:
            population.keep(sampling.mask_of_largest(population.extra(MASK).detach(), self.run.budget))
            renderer.release_memory()
        return replace(state, finished_at=it, cut_from=count)

    def prune_mask(self, mask_logits: Tensor) -> Tensor:
        """Those of m [N] that pruning spares, [N]: never fewer than the budget."""
        kept = torch.sigmoid(mask_logits) > THRESHOLD
        if int(kept.sum()) < self.run.budget:
            return sampling.mask_of_largest(mask_logits, self.run.budget)
        return kept

    def report(self, state: MaskState) -> dict[str, float]:
        return {} if state.cut_from is None else {"cut_from": state.cut_from}

    def remark(self, state: MaskState, population: Population) -> str | None:
        if state.began_with is None or state.began_with >= self.run.budget:
            return None
        return (
            f"only {state.began_with:,} Gaussians grew, fewer than the budget of {self.run.budget:,}: all are kept, "
            "and no masks are learned"
        )


METHOD = Method(
    summary="growth, then a mask learned for each Gaussian",
    rules=(edge_growth.EdgeGrowth, LearnedMask),
    schedules={
        "standard": Calendars(
            gns.STANDARD.optimisation,
            (edge_growth.STANDARD, MaskCalendar(begin=15_000, prune_at=every(1_000, 16_000, 22_000), end=23_000)),
        )
    },
)
