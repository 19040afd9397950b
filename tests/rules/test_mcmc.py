"""Relocation against its equations and cases worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gns.model.population import Population
from gns.rules import plan_of
from gns.rules.mcmc import METHOD, Relocation, RelocationOptions, RelocationState, divided_by
from gns.scene import Gaussians
from gns.team import SINGLE

EXTENT = 2.0


def _rule(budget: int, options: RelocationOptions | None = None) -> Relocation:
    plan = plan_of(
        "mcmc",
        "standard",
        30_000,
        {"relocation": options or RelocationOptions()},
        budget=budget,
        extent=EXTENT,
        background=(0.0, 0.0, 0.0),
        views=[],
        team=SINGLE,
    )
    (rule,) = plan.rules
    assert METHOD.budgeted and isinstance(rule, Relocation)
    return rule


def _gaussians(opacities: list[float], seed: int = 0) -> Gaussians:
    count = len(opacities)
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=torch.randn(count, 3, generator=generator),
        log_scales=torch.randn(count, 3, generator=generator) - 2,
        quats=torch.randn(count, 4, generator=generator),
        opacity_logits=torch.logit(torch.tensor(opacities)),
        sh_dc=torch.randn(count, 1, 3, generator=generator),
        sh_rest=torch.randn(count, 3, 3, generator=generator),
    )


def _chance(seed: int = 0) -> dict[str, torch.Generator]:
    return {name: torch.Generator().manual_seed(seed) for name in Relocation.chances}


# Dividing one Gaussian


def test_one_part_is_the_whole() -> None:
    opacities, shrinkage = divided_by(torch.tensor([0.3, 0.9]), torch.tensor([1, 1]))
    assert opacities.tolist() == pytest.approx([0.3, 0.9])
    assert shrinkage.tolist() == pytest.approx([1.0, 1.0])


def test_two_parts_by_hand() -> None:
    """α = 0.75, n = 2: α' = 1 − √0.25 = 0.5, and Σᵢ Σₖ … = 0.5 + (0.5 − 0.25/√2) = 0.823223."""
    opacities, shrinkage = divided_by(torch.tensor([0.75]), torch.tensor([2]))
    assert float(opacities) == pytest.approx(0.5)
    assert float(shrinkage) == pytest.approx(0.75 / 0.823223, rel=1e-5)


@pytest.mark.parametrize("copies", [2, 3, 7, 51])
def test_parts_look_like_the_whole(copies: int) -> None:
    """In the middle they blend to the old opacity, and their sum over the screen is that of the old one.

    A Gaussian of width 1 and opacity α has α·√(2π) along a line; n of width w and opacity α' blend to
    ∫ 1 − (1 − α'·exp(−x²/2w²))ⁿ dx.
    """
    alpha = 0.8
    opacities, shrinkage = divided_by(torch.tensor([alpha], dtype=torch.float64), torch.tensor([copies]))
    assert float(1 - (1 - opacities) ** copies) == pytest.approx(alpha)
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    part = float(opacities) * torch.exp(-x.square() / (2 * float(shrinkage) ** 2))
    blended = torch.trapezoid(1 - (1 - part) ** copies, x)
    assert float(blended) == pytest.approx(alpha * math.sqrt(2 * math.pi), rel=1e-6)


def test_more_than_fifty_one_parts_count_as_that_many() -> None:
    fifty_one, many = (divided_by(torch.tensor([0.8]), torch.tensor([n])) for n in (51, 1_000))
    assert torch.equal(fifty_one[0], many[0]) and torch.equal(fifty_one[1], many[1])


# Events


def test_the_dead_take_a_part_of_the_living() -> None:
    population = Population(_gaussians([0.75, 0.004, 0.005]))
    before = {name: values.detach().clone() for name, values in population.gaussians.named_tensors()}
    _rule(3).relocate(population, torch.Generator().manual_seed(0))
    after = population.gaussians
    # Both dead ones can only have come to row 0: three parts of it, α' = 1 − ∛0.25.
    assert population.opacities.tolist() == pytest.approx([1 - 0.25 ** (1 / 3)] * 3, rel=1e-5)
    for name in ("means", "quats", "sh_dc", "sh_rest"):
        assert torch.equal(getattr(after, name), before[name][[0, 0, 0]]), name
    _, shrinkage = divided_by(torch.tensor([0.75]), torch.tensor([3]))
    assert torch.allclose(after.log_scales, before["log_scales"][[0, 0, 0]] + shrinkage.log())


def test_relocated_ones_and_their_origins_lose_their_moments_and_others_keep_them() -> None:
    population = Population(_gaussians([0.9, 0.001, 0.9]))
    with torch.no_grad():  # the third is never drawn
        population.gaussians.opacity_logits[2] = torch.logit(torch.tensor(0.0051))
    state = population.state_dict()["groups"]
    for group in state.values():
        group["first_moment"].fill_(1.0)
        group["gradient"].fill_(1.0)
    _rule(3).relocate(population, torch.Generator().manual_seed(0))
    for group in population.state_dict()["groups"].values():
        for part in ("first_moment", "gradient"):
            assert group[part].flatten(1 if group[part].dim() > 1 else 0).reshape(3, -1)[:, 0].tolist() == [0, 0, 1]


def test_origins_are_drawn_by_opacity() -> None:
    population = Population(_gaussians([0.9] * 50 + [0.1] * 50 + [0.001] * 400))
    means = population.gaussians.means.detach().clone()
    _rule(500).relocate(population, torch.Generator().manual_seed(3))
    distances = torch.cdist(population.gaussians.means.detach()[100:], means[:100])
    opaque = int((distances.argmin(dim=1) < 50).sum())
    assert opaque == pytest.approx(360, abs=25)  # 400 draws at 9 to 1


def test_growth_by_a_twentieth_up_to_the_budget() -> None:
    counts = []
    population = Population(_gaussians([0.5] * 100))
    for _ in range(6):
        _rule(120).edit(RelocationState(), population, 600, _chance())
        counts.append(len(population))
    assert counts == [105, 110, 115, 120, 120, 120]
    _rule(120).edit(RelocationState(), population, 650, _chance())
    assert len(population) == 120


def test_calendar() -> None:
    dates = _rule(10).calendar.relocate
    assert (dates[0], dates[-1], dates.step) == (600, 24_900, 100)


# Regularisers and noise


def test_penalty() -> None:
    population = Population(_gaussians([0.25, 0.75]))
    with torch.no_grad():
        population.gaussians.log_scales[:] = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]).log()
    options = RelocationOptions(opacity_reg=2.0, scale_reg=10.0)
    penalty = _rule(2, options).penalty(RelocationState(), population, 1)
    assert float(penalty.detach()) == pytest.approx(2 * 0.5 + 10 * 0.35)
    penalty.backward()  # type: ignore[no-untyped-call]
    gradient = population.gaussians.opacity_logits.grad
    assert gradient is not None and gradient.tolist() == pytest.approx([2 / 2 * 0.25 * 0.75] * 2)  # σ' = α(1 − α)


def test_noise_has_the_shape_of_the_gaussian_and_is_for_the_faint() -> None:
    """Σ·η with η normal: the offsets' covariance is (strength·rate·faintness)² Σ²."""
    count = 40_000
    gaussians = _gaussians([0.0001] * count)
    gaussians.means.zero_()
    gaussians.quats[:] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    gaussians.log_scales[:] = torch.tensor([0.3, 0.2, 0.1]).log()
    gaussians.opacity_logits[: count // 2] = torch.logit(torch.tensor(0.5))
    population = Population(gaussians)
    rule = _rule(count)
    rule.stepped(RelocationState(), population, 15_000, _chance())
    means = population.gaussians.means.detach()
    opaque, faint = means[: count // 2], means[count // 2 :]
    rate = 1.6e-5 * EXTENT  # of the means, halfway
    faintness = 1 / (1 + math.exp(-100 * (0.005 - 0.0001)))
    expected = torch.tensor([0.09, 0.04, 0.01]) * 5e5 * rate * faintness
    assert torch.allclose(faint.std(dim=0), expected, rtol=0.02)
    assert (opaque.abs().max() < 1e-9 * expected.max()).all()


# The beginning


def test_starts_half_opaque_and_small() -> None:
    gaussians = _gaussians([0.1] * 20)
    log_scales = gaussians.log_scales.clone()
    started = _rule(100).initial(gaussians, _chance())
    assert started.opacities.tolist() == pytest.approx([0.5] * 20)
    assert torch.allclose(started.log_scales, log_scales + math.log(0.1))


def test_more_points_than_the_budget_are_thinned_at_random() -> None:
    def started(seed: int) -> Tensor:
        return _rule(100).initial(_gaussians([0.1] * 300), _chance(seed)).means

    assert len(started(0)) == 100
    assert torch.equal(started(0), started(0)) and not torch.equal(started(0), started(1))
