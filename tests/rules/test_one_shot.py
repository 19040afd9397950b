"""One cut by a score, and growth that needs none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gns.gaussian_renderer import reference
from gns.model.population import Population
from gns.rules.base import NoOptions
from gns.rules.edge_growth import GrowthCalendar
from gns.rules.improved_gs import STANDARD as IMPROVED
from gns.rules.one_shot import CutCalendar, CutState, OneShotContribution, OneShotOpacity
from gns.testing.examples import random_gaussians
from gns.testing.tiny import TINY_BUDGET, tiny_config, tiny_run, tiny_scene
from gns.training.loop import train

CUT = CutCalendar(cut=15_000)
NO_CHANCE: dict[str, torch.Generator] = {}


def test_the_most_opaque_stay() -> None:
    population = Population(random_gaussians(6))
    with torch.no_grad():
        population.gaussians.opacity_logits.copy_(torch.tensor([0.3, -1.0, 2.0, 0.1, -3.0, 1.0]))
    means = population.gaussians.means.detach().clone()
    rule = OneShotOpacity(tiny_run(budget=3), CUT, NoOptions())
    assert rule.edit(CutState(), population, 14_999, NO_CHANCE) == CutState() and len(population) == 6
    assert rule.edit(CutState(), population, 15_000, NO_CHANCE) == CutState(cut_from=6)
    assert torch.equal(population.gaussians.means, means[[0, 2, 5]])


def test_those_that_paint_most_stay() -> None:
    """Against the reference's T·α, summed over pixels and views."""
    scene = tiny_scene()
    gaussians = random_gaussians(40)
    gaussians.log_scales -= 2
    painted = torch.zeros(40, dtype=torch.float64)
    for view in scene.train:
        everywhere = torch.ones(view.camera.height, view.camera.width)
        importance = reference.render(view.camera, gaussians, torch.zeros(3), edges=everywhere).importance
        assert importance is not None
        painted += importance
    assert (painted > 0).sum() > 10
    population = Population(gaussians)
    rule = OneShotContribution(tiny_run(budget=10, views=scene.train), CUT, NoOptions())
    assert torch.allclose(rule.scores(population).double(), painted, rtol=1e-4, atol=1e-4)
    rule.edit(CutState(), population, 15_000, NO_CHANCE)
    best = painted.argsort(descending=True)[:10].sort().values
    assert torch.equal(population.gaussians.means, gaussians.means[best])


def test_too_few_are_all_kept_and_said() -> None:
    population = Population(random_gaussians(5))
    rule = OneShotOpacity(tiny_run(budget=9), CUT, NoOptions())
    state = rule.edit(CutState(), population, 15_000, NO_CHANCE)
    assert len(population) == 5
    remark = rule.remark(state, population)
    assert remark is not None and "only 5 Gaussians grew, fewer than the budget of 9" in remark
    assert rule.remark(CutState(cut_from=9), population) is rule.remark(CutState(), population) is None


@pytest.mark.parametrize("method", ["improved-gs", "oneshot-opacity", "oneshot-contribution"])
def test_ends_at_the_budget(method: str) -> None:
    counts: list[int] = []

    def count(event: Any) -> None:
        counts.append(event.count)

    state = train(tiny_scene(), tiny_config(method=method), on_event=count)
    assert len(state.population) == TINY_BUDGET
    dense = max(counts[50:])  # past the initial points
    assert dense > 1.5 * TINY_BUDGET if method.startswith("oneshot") else dense <= 120


def test_improved_gs_is_the_growth_of_gns_to_one_budget() -> None:
    (calendar,) = IMPROVED.rules
    assert isinstance(calendar, GrowthCalendar)
    (growth,) = calendar.growths
    assert [growth.budget(it, 1_000) for it in (600, 4_000, 14_500, 14_900)] == [84, 500, 1_000, 1_000]
