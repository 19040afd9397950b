"""Masks that Gaussians learn: what is drawn, what they learn from, and who is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gns.model.population import Population
from gns.rules.learned_mask import METHOD as LEARNED_MASK
from gns.rules.learned_mask import THRESHOLD, LearnedMask, MaskCalendar, MaskOptions, MaskState
from gns.testing.examples import random_gaussians
from gns.testing.tiny import TINY_BUDGET, tiny_config, tiny_run, tiny_scene
from gns.training.loop import train

CALENDAR = MaskCalendar(begin=10, prune_at=range(20, 41, 10), end=50)
NO_CHANCE: dict[str, torch.Generator] = {}


def rule(budget: int = 2, weight: float = 0.0005) -> LearnedMask:
    return LearnedMask(tiny_run(budget=budget), CALENDAR, MaskOptions(weight))


def population(masks: list[float]) -> Population:
    """Gaussians whose sigmoid(m) are `masks`."""
    made = Population(random_gaussians(len(masks)), rule().extras())
    with torch.no_grad():
        made.extra("mask_logits").copy_(torch.logit(torch.tensor(masks)))
    return made


LEARNING = MaskState(began_with=4)


def published(gaussians: Any, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Opacities [N] and scales [N, 3] as the paper has them: M·α and M·s with the straight-through estimator."""
    soft = torch.sigmoid(mask_logits)
    mask = ((soft > THRESHOLD).float() - soft).detach() + soft
    return mask * torch.sigmoid(gaussians.opacity_logits), mask[:, None] * gaussians.log_scales.exp()


def test_what_is_masked_is_not_drawn_and_the_rest_is_as_it_was() -> None:
    crowd = population([0.9, 0.011, 0.009, 0.5])
    drawn = rule().rendered(LEARNING, crowd, crowd.gaussians)
    on = torch.tensor([True, True, False, True])
    for name, values in drawn.named_tensors():
        assert torch.equal(values[on], getattr(crowd.gaussians, name)[on]), name
    assert float(torch.sigmoid(drawn.opacity_logits.detach()[2])) < 1e-6 < 1 / 255


def test_masks_learn_from_opacity_and_scales_as_published() -> None:
    """The gradient of any loss of the two, by m, against the paper's formulae under autograd."""
    crowd = population([0.9, 0.3, 0.02, 0.6])
    masks = crowd.extra("mask_logits")
    chance = torch.Generator().manual_seed(0)
    opacity_weights, scale_weights = torch.randn(4, generator=chance), torch.randn(4, 3, generator=chance)
    opacities, scales = published(crowd.gaussians, masks)
    (expected,) = torch.autograd.grad((opacity_weights * opacities).sum() + (scale_weights * scales).sum(), masks)
    drawn = rule().rendered(LEARNING, crowd, crowd.gaussians)
    loss = (opacity_weights * torch.sigmoid(drawn.opacity_logits)).sum()
    loss = loss + (scale_weights * drawn.log_scales.exp()).sum()
    (found,) = torch.autograd.grad(loss, masks)
    assert expected.abs().min() > 1e-5
    assert torch.allclose(found, expected, rtol=1e-4)


def test_the_loss_carries_the_mean_mask_while_masks_are_learned() -> None:
    crowd = population([0.9, 0.3, 0.02, 0.6])
    penalty = rule(weight=0.5).penalty(LEARNING, crowd, 11)
    assert penalty is not None and float(penalty.detach()) == pytest.approx(0.5 * 1.82 / 4)
    penalty.backward()  # type: ignore[no-untyped-call]
    masks = torch.tensor([0.9, 0.3, 0.02, 0.6])
    assert torch.allclose(crowd.extra("mask_logits").grad, 0.5 * masks * (1 - masks) / 4)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [MaskState(), MaskState(began_with=4, finished_at=50, cut_from=4)])
def test_before_and_after_there_are_no_masks(state: MaskState) -> None:
    crowd = population([0.9, 0.3, 0.001, 0.6])
    assert rule().rendered(state, crowd, crowd.gaussians) is crowd.gaussians
    assert rule().penalty(state, crowd, 60) is None
    assert rule().edit(state, crowd, 20, NO_CHANCE) is state and len(crowd) == 4


def test_what_is_masked_is_pruned_but_never_below_the_budget() -> None:
    crowd = population([0.9, 0.009, 0.3, 0.011])
    kept = crowd.gaussians.means.detach()[[0, 2, 3]].clone()
    assert rule().edit(LEARNING, crowd, 19, NO_CHANCE) is LEARNING and len(crowd) == 4
    assert rule().edit(LEARNING, crowd, 20, NO_CHANCE) is LEARNING
    assert torch.equal(crowd.gaussians.means, kept)
    faded = population([0.003, 0.001, 0.004, 0.002])
    best = faded.gaussians.means.detach()[[0, 2]].clone()
    rule().edit(LEARNING, faded, 30, NO_CHANCE)
    assert torch.equal(faded.gaussians.means, best)


def test_the_highest_masks_are_kept_in_the_end() -> None:
    crowd = population([0.5, 0.9, 0.3, 0.8, 0.02])
    best = crowd.gaussians.means.detach()[[1, 3]].clone()
    state = rule().edit(LEARNING, crowd, 50, NO_CHANCE)
    assert state == MaskState(began_with=4, finished_at=50, cut_from=5)
    assert torch.equal(crowd.gaussians.means, best)
    assert rule().report(state) == {"cut_from": 5} and rule().report(LEARNING) == {}


def test_masks_begin_with_the_calendar_where_there_is_something_to_choose() -> None:
    crowd = population([0.5] * 4)
    assert rule().prepare(MaskState(), crowd, 9) == MaskState()
    assert rule().prepare(MaskState(), crowd, 10) == MaskState(began_with=4)
    few = rule(budget=5).prepare(MaskState(), crowd, 10)
    assert few == MaskState(began_with=4, finished_at=10) and not few.learning
    remark = rule(budget=5).remark(few, crowd)
    assert remark is not None and "only 4 Gaussians grew, fewer than the budget of 5" in remark
    assert rule().remark(LEARNING, crowd) is None


def test_its_calendar_is_that_of_the_selection_it_stands_beside() -> None:
    _, masks = LEARNED_MASK.schedules["standard"].rules
    assert isinstance(masks, MaskCalendar)
    assert (masks.begin, masks.end, list(masks.prune_at)) == (15_000, 23_000, list(range(16_000, 22_001, 1_000)))


def test_a_run_ends_at_the_budget_with_masks_learned_on_the_way() -> None:
    """A heavy mean moves every mask down; they differ because the photos hold some up."""
    config = tiny_config(method="learned-mask", rules={"learned_mask": MaskOptions(mask_weight=0.05)})
    counts: list[int] = []

    def count(event: Any) -> None:
        counts.append(event.count)

    state = train(tiny_scene(), config, on_event=count)
    assert len(state.population) == TINY_BUDGET and max(counts[50:]) > 1.5 * TINY_BUDGET
    masks = torch.sigmoid(state.population.extra("mask_logits").detach())
    assert masks.max() - masks.min() > 0.02
    memory = state.rules["learned_mask"]
    assert memory.finished_at == 230 and memory.cut_from > 1.5 * TINY_BUDGET
