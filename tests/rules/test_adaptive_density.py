"""Adaptive density control against cases worked out by hand, and its calendar against the published one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gns.model.population import Population
from gns.rules import plan_of
from gns.rules.adaptive_density import METHOD, AdaptiveDensity, DensityState
from gns.scene import Gaussians
from gns.team import SINGLE

EXTENT = 10.0  # small is up to 0.1, large from 1.0 on
THRESHOLD = 2e-4
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def _rule(iterations: int = 30_000, background: tuple[float, float, float] = BLACK) -> AdaptiveDensity:
    options = {rule.name: rule.Options() for rule in METHOD.rules}
    plan = plan_of(
        "3dgs", "standard", iterations, options, budget=0, extent=EXTENT, background=background, views=[], team=SINGLE
    )
    (rule,) = plan.rules
    assert isinstance(rule, AdaptiveDensity)
    return rule


def _population(scales: list[list[float]], opacities: list[float], pulls: list[float]) -> Population:
    """Gaussians with these axes and opacities, whose mean screen gradients are `pulls`."""
    count = len(scales)
    generator = torch.Generator().manual_seed(0)
    gaussians = Gaussians(
        means=torch.randn(count, 3, generator=generator),
        log_scales=torch.tensor(scales).log(),
        quats=torch.randn(count, 4, generator=generator),
        opacity_logits=torch.logit(torch.tensor(opacities)),
        sh_dc=torch.randn(count, 1, 3, generator=generator),
        sh_rest=torch.randn(count, 3, 3, generator=generator),
    )
    population = Population(gaussians, _rule().extras())
    population.extra("gradient_sum").copy_(2 * torch.tensor(pulls))
    population.extra("visits").fill_(2.0)
    return population


def _chance(seed: int = 0) -> dict[str, torch.Generator]:
    return {"split": torch.Generator().manual_seed(seed)}


def _edit(population: Population, it: int, rule: AdaptiveDensity | None = None) -> None:
    (rule or _rule()).edit(DensityState(), population, it, _chance())


def _rows(population: Population) -> dict[str, Tensor]:
    return {name: values.detach().clone() for name, values in population.gaussians.named_tensors()}


def test_a_small_one_is_cloned_and_its_parent_stays() -> None:
    population = _population([[0.1, 0.02, 0.03], [0.1, 0.02, 0.03]], [0.5, 0.5], [THRESHOLD, 0.9 * THRESHOLD])
    before = _rows(population)
    _edit(population, 600)
    assert len(population) == 3
    for name, values in _rows(population).items():
        assert torch.equal(values, torch.cat([before[name], before[name][:1]])), name


def test_a_large_one_is_split_in_two_of_a_smaller_scale() -> None:
    population = _population([[0.2, 0.02, 0.03], [0.4, 0.3, 0.2]], [0.5, 0.5], [0.0, 1.0])
    before = _rows(population)
    _edit(population, 600)
    after = _rows(population)
    assert len(population) == 3
    assert torch.equal(after["means"][0], before["means"][0])
    assert torch.allclose(after["log_scales"][1:].exp(), torch.tensor([[0.25, 0.1875, 0.125]] * 2))  # divided by 1.6
    for name in ("quats", "opacity_logits", "sh_dc", "sh_rest"):
        assert torch.equal(after[name][1:], before[name][[1, 1]]), name
    assert not torch.equal(after["means"][1], after["means"][2])


def test_children_are_drawn_from_their_parent() -> None:
    """The offsets of many children have the covariance R S² Rᵀ of the parent."""
    axes = torch.tensor([[2.0, 1.0, 0.5]])
    count = 20_000
    population = _population(axes.repeat(count, 1).tolist(), [0.5] * count, [1.0] * count)
    turn = torch.tensor([math.cos(0.4), 0.0, 0.0, math.sin(0.4)])  # by 0.8 about z
    with torch.no_grad():
        population.gaussians.means.zero_()
        population.gaussians.quats[:] = 3 * turn
    _rule().densify(population, torch.Generator().manual_seed(1))
    offsets = population.gaussians.means.detach()
    cos, sin = math.cos(0.8), math.sin(0.8)
    rotation = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    expected = rotation @ torch.diag(axes[0].square()) @ rotation.T
    assert len(offsets) == 2 * count
    assert torch.allclose(offsets.T @ offsets / len(offsets), expected, atol=0.06)
    assert offsets.mean(dim=0).abs().max() < 0.05


def test_the_faint_go_and_from_the_first_reset_on_the_huge() -> None:
    for it, left in ((600, 3), (3_000, 3), (3_100, 2)):
        population = _population(
            [[0.01] * 3, [0.5] * 3, [1.01, 0.1, 0.1], [0.1] * 3], [0.0051, 0.5, 0.5, 0.0049], [0] * 4
        )
        _edit(population, it)
        assert len(population) == left, it


def test_statistics_begin_anew_after_each_event_and_only_then() -> None:
    population = _population([[0.1] * 3] * 2, [0.5] * 2, [1e-5, 1e-5])
    _edit(population, 650)
    assert population.extra("visits").tolist() == [2.0, 2.0]
    _edit(population, 700)
    assert population.extra("visits").tolist() == [0.0, 0.0]


@pytest.mark.parametrize("background", [BLACK, WHITE])
def test_resets(background: tuple[float, float, float]) -> None:
    rule = _rule(background=background)
    reset = []
    for it in range(100, 15_001, 100):
        population = _population([[0.1] * 3] * 2, [0.5, 0.007], [0.0, 0.0])
        _edit(population, it, rule)
        opacities = population.opacities.tolist()
        if opacities[0] < 0.4:
            assert opacities == pytest.approx([0.01, 0.007])
            reset.append(it)
    assert reset == ([500] if background == WHITE else []) + [3_000, 6_000, 9_000, 12_000]


def test_calendar() -> None:
    rule = _rule()
    assert [it for it in range(1, 30_001) if rule.wants(it)] == list(range(1, 15_000))
    wanted: Any = rule.wants(1)
    assert wanted.signed and not wanted.absolute
    assert list(rule.calendar.densify) == list(range(600, 15_000, 100))
    short = _rule(3_000).calendar
    assert list(short.densify) == list(range(60, 1_500, 10)) and short.opacity_resets == (300, 600, 900, 1_200)
    rates = rule.run.optimisation.learning_rates(15_000, EXTENT, {})
    assert rates["means"] == pytest.approx(1.6e-5 * EXTENT)  # the geometric mean
    assert rates["sh_rest"] == pytest.approx(1.25e-4) and rates["opacity_logits"] == 0.05
