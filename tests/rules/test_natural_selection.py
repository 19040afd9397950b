"""Pressure by its formulae, the controller by histories worked out by hand, death and the final draw by counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gns.rules.calendar import FAST, STANDARD
from gns.rules.natural_selection import NaturalSelection, SelectionState, all_but_faintest

(PHASE,) = STANDARD.phases
EARLY, LATE = 15_001, 16_001


def _logits(*opacities: float) -> Tensor:
    return torch.logit(torch.tensor(opacities, dtype=torch.float64))


def _slopes(selector: NaturalSelection, opacity_logits: Tensor, it: int) -> Tensor:
    opacity_logits = opacity_logits.clone().requires_grad_()
    selector.penalty(SelectionState(rate=2e-4), opacity_logits, PHASE, it).backward()  # type: ignore[no-untyped-call]
    assert opacity_logits.grad is not None
    return opacity_logits.grad


# Pressure


def test_late_pressure_is_the_same_for_all() -> None:
    opacity_logits = _logits(0.01, 0.5, 0.98)
    mean = float(opacity_logits.mean())
    penalty = NaturalSelection(1).penalty(SelectionState(rate=2e-4), opacity_logits, PHASE, LATE)
    assert float(penalty) == pytest.approx(3 * 2e-4 * (mean + 20) ** 2, rel=1e-12)
    expected = 6 * 2e-4 * (mean + 20) / 3
    assert _slopes(NaturalSelection(1), opacity_logits, LATE).tolist() == pytest.approx([expected] * 3, rel=1e-12)


def test_early_pressure_as_published_differentiates_its_weight() -> None:
    opacities = torch.tensor([0.1, 0.5, 0.9, 0.97], dtype=torch.float64)
    opacity_logits = torch.logit(opacities)
    terms = (opacity_logits + 20) / torch.tensor([0.9, 0.5, 0.1, 0.05])
    penalty = NaturalSelection(1).penalty(SelectionState(rate=2e-4), opacity_logits, PHASE, EARLY)
    assert float(penalty) == pytest.approx(2e-4 * float(terms.mean()) ** 2, rel=1e-6)
    inner = (1 + (opacity_logits + 20) * opacities) / (1 - opacities)
    inner[3] = 20  # the weight has reached its floor
    expected = 2 * 2e-4 * terms.mean() * inner / 4
    assert _slopes(NaturalSelection(1), opacity_logits, EARLY).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert inner[1] * (1 - opacities[1]) == pytest.approx(11)  # times the intended slope, at half opacity


def test_early_pressure_detached() -> None:
    opacity_logits = _logits(0.1, 0.5, 0.9, 0.97)
    weights = torch.tensor([0.9, 0.5, 0.1, 0.05], dtype=torch.float64)
    terms = (opacity_logits + 20) / weights
    expected = 2 * 2e-4 * terms.mean() / weights / 4
    slopes = _slopes(NaturalSelection(1, detach_pressure=True), opacity_logits, EARLY)
    assert slopes.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_pressure_changes_form_at_the_date() -> None:
    opacity_logits, state, selector = _logits(0.2, 0.4), SelectionState(), NaturalSelection(1)
    values = [float(selector.penalty(state, opacity_logits, PHASE, it)) for it in (15_951, 15_999, 16_000, 16_001)]
    assert values[0] == values[1] != values[2] == values[3]


def test_rate_scales_the_pressure() -> None:
    opacity_logits, selector = _logits(0.2, 0.4), NaturalSelection(1)
    for it in (EARLY, LATE):
        weak, strong = (
            float(selector.penalty(SelectionState(rate=r), opacity_logits, PHASE, it)) for r in (1e-4, 3e-4)
        )
        assert strong == pytest.approx(3 * weak)


# Controller


def test_controller_history() -> None:
    """B = 2 of 3. The opacity at rank 2 at every pulse, and what must come of it.

    Pulse 1 (15001): rank 2 is 0.5, so a₀ = 0.8·0.5 = 0.4. λ = 2e-4.
    Pulse 2 (15051): goal = 0.4·(1 − 51/7000) = 0.397086. Rank 2 is 0.5 > 1.1·goal = 0.436794: λ = 2.4e-4.
    Pulse 3 (15101): odd, nothing happens, although 0.1 would be far too low.
    Pulse 4 (15151): goal = 0.4·(1 − 151/7000) = 0.391371. Rank 2 is 0.4303 < 1.1·goal = 0.430509: λ stays.
    Pulse 6 (15251): goal = 0.4·(1 − 251/7000) = 0.385657. Rank 2 is 0.347 < 0.9·goal = 0.347091: λ = 1.92e-4.
    Pulse 8 (15351): goal = 0.4·(1 − 351/7000) = 0.379943. Rank 2 is 0.342 > 0.9·goal = 0.341949: λ stays.
    Pulse 10 (15451): goal = 0.4·(1 − 451/7000) = 0.374229. Rank 2 is 0.412 > 1.1·goal = 0.411651: λ = 2.304e-4.
    Pulse 160 (22951): past 22000 the goal is 0, and any opacity is above it: λ = 2.7648e-4.
    """
    history = [
        (15_001, 0.5, 2e-4),
        (15_051, 0.5, 2.4e-4),
        (15_101, 0.1, 2.4e-4),
        (15_151, 0.4303, 2.4e-4),
        (15_251, 0.347, 1.92e-4),
        (15_351, 0.342, 1.92e-4),
        (15_451, 0.412, 2.304e-4),
        (22_951, 1e-6, 2.7648e-4),
    ]
    selector, state = NaturalSelection(budget=2), SelectionState()
    for it, second, rate in history:
        state = selector.adapt(state, _logits(second / 2, 0.9, second), PHASE, it)
        assert state.rate == pytest.approx(rate, rel=1e-12), it
        assert state.prior == pytest.approx(0.4, rel=1e-12)
        assert state.settled is None and not state.skipped


def test_controller_of_the_second_fast_round() -> None:
    """B = 1. a₀ = 0.8·0.5 = 0.4 at 7001; at 7051 the goal is 0.4·(1 − 51/3000) = 0.3932; 0.35 < 0.35388: λ·0.8."""
    selector, phase = NaturalSelection(budget=1), FAST.phases[1]
    state = selector.adapt(SelectionState(), _logits(0.5, 0.2), phase, 7_001)
    state = selector.adapt(state, _logits(0.35, 0.2), phase, 7_051)
    assert state.rate == pytest.approx(1.6e-4)
    assert state.prior == pytest.approx(0.4)


def test_rank_is_counted_from_the_top() -> None:
    for budget, opacity in ((1, 0.9), (2, 0.7), (4, 0.1)):
        state = NaturalSelection(budget).adapt(SelectionState(), _logits(0.1, 0.9, 0.4, 0.7), PHASE, 15_001)
        assert state.prior == pytest.approx(0.8 * opacity)


def test_too_few_to_select_from() -> None:
    selector = NaturalSelection(budget=4)
    state = selector.adapt(SelectionState(), _logits(0.1, 0.9, 0.4), PHASE, 15_001)
    assert state.skipped and state.settled == 15_001 and state.prior is None
    assert selector.opacity_factor(state, PHASE, 15_001) == 1
    assert not selector.adapt(SelectionState(), _logits(0.1, 0.9, 0.4, 0.5), PHASE, 15_001).skipped


# The end


def test_death_takes_the_faint() -> None:
    opacities = torch.tensor([0.5, 0.0009, 0.001, 0.0, 0.02, torch.nan])
    living = NaturalSelection(budget=2).living(opacities, PHASE)
    assert living.tolist() == [True, False, True, False, True, False]
    fast = NaturalSelection(budget=1).living(opacities, FAST.phases[0])
    assert fast.tolist() == [True, False, False, False, True, False]


def test_death_never_takes_the_last_of_the_budget() -> None:
    opacities = torch.tensor([0.0005, 0.5, 0.0001, 0.0007, 0.0])
    assert NaturalSelection(budget=3).living(opacities, PHASE).tolist() == [True, True, False, True, False]


def test_contest_ends_when_few_enough_are_left() -> None:
    selector = NaturalSelection(budget=1_000)
    assert not selector.is_over(1_049, PHASE, 15_000)
    assert selector.is_over(1_049, PHASE, 15_001)
    assert not selector.is_over(1_050, PHASE, 22_999)
    assert selector.is_over(3_000, PHASE, 23_000)


@pytest.mark.parametrize("final_cut", ["multinomial", "lowest"])
@pytest.mark.parametrize("count", [1_000, 1_001, 1_049, 3_000])
def test_exactly_the_budget_survives(final_cut: str, count: int) -> None:
    opacities = torch.rand(count, generator=torch.Generator().manual_seed(0))
    opacities[:5] = 0.0
    survivors = NaturalSelection(1_000, final_cut).survivors(opacities, torch.Generator().manual_seed(1))
    assert int(survivors.sum()) == 1_000


def test_fewer_than_the_budget_all_survive() -> None:
    assert NaturalSelection(1_000).survivors(torch.rand(999), torch.Generator()).all()


def test_the_lowest_cut_drops_the_lowest() -> None:
    opacities = torch.tensor([0.3, 0.1, 0.9, 0.2])
    survivors = NaturalSelection(2, "lowest").survivors(opacities, torch.Generator())
    assert survivors.tolist() == [True, False, True, False]


def test_the_multinomial_cut_prefers_the_opaque_and_follows_its_generator() -> None:
    opacities = torch.cat([torch.full((500,), 0.9), torch.full((500,), 0.1)])
    selector = NaturalSelection(500)
    first, again, other = (selector.survivors(opacities, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    # Arrivals at rates 9 and 1: half of all have come when (1 − e^(−9t)) + (1 − e^(−t)) = 1, at t = 0.1932. Then
    # 1 − e^(−9t) = 0.824 of the opaque are there, 412. Equal chances would give 250, a cut by rank 500.
    assert int(first[:500].sum()) == pytest.approx(412, abs=25)


def test_opacity_learns_fast_from_the_beginning_to_the_end_of_recovery() -> None:
    selector, state = NaturalSelection(1), SelectionState(prior=0.4)
    assert selector.opacity_factor(state, None, 14_999) == 1
    assert [selector.opacity_factor(state, PHASE, it) for it in (15_000, 22_999)] == [4, 4]
    state = selector.settle(state, 17_350)
    assert state.settled == 17_350
    assert [selector.opacity_factor(state, PHASE, it) for it in (17_350, 18_349, 18_350)] == [4, 4, 1]


def test_state_is_a_value() -> None:
    state = SelectionState(rate=1e-4, prior=0.3)
    assert NaturalSelection(1).settle(state, 5) == replace(state, settled=5)
    assert state == SelectionState(rate=1e-4, prior=0.3)


def test_all_but_the_faintest() -> None:
    opacities = torch.tensor([0.5, 0.1, 0.4, 0.2, 0.3, 0.9, 0.8, 0.7, 0.6])
    assert all_but_faintest(opacities, 0.2).tolist() == [True, False] + [True] * 7  # ⌊0.2·9⌋ = 1
    assert all_but_faintest(opacities, 0.5).sum() == 5
    assert all_but_faintest(opacities[:4], 0.2).all()
