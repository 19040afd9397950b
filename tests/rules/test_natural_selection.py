"""Pressure by its formulae, the controller by histories worked out by hand, pruning and the final draw by counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gns.model.population import Population
from gns.rules.natural_selection import FAST, STANDARD, NaturalSelection, SelectionOptions, SelectionState
from gns.scene import Gaussians
from gns.testing.tiny import tiny_run

(PHASE,) = STANDARD.phases
EARLY, LATE = 15_001, 16_001


def _logits(*opacities: float) -> Tensor:
    return torch.logit(torch.tensor(opacities, dtype=torch.float64))


def _rule(
    budget: int, final_cut: str = "multinomial", *, fast: bool = False, detached: bool = False
) -> NaturalSelection:
    options = SelectionOptions(final_cut, detached)
    return NaturalSelection(tiny_run(budget), FAST if fast else STANDARD, options)


def _population(*opacities: float) -> Population:
    count = len(opacities)
    generator = torch.Generator().manual_seed(0)
    return Population(
        Gaussians(
            means=torch.randn(count, 3, generator=generator),
            log_scales=torch.zeros(count, 3),
            quats=torch.ones(count, 4),
            opacity_logits=torch.logit(torch.tensor(opacities)),
            sh_dc=torch.zeros(count, 1, 3),
            sh_rest=torch.zeros(count, 0, 3),
        )
    )


def _slopes(rule: NaturalSelection, opacity_logits: Tensor, it: int) -> Tensor:
    opacity_logits = opacity_logits.clone().requires_grad_()
    rule.pressure(SelectionState(rate=2e-4), opacity_logits, PHASE, it).backward()  # type: ignore[no-untyped-call]
    assert opacity_logits.grad is not None
    return opacity_logits.grad


# Pressure


def test_late_pressure_is_the_same_for_all() -> None:
    opacity_logits = _logits(0.01, 0.5, 0.98)
    mean = float(opacity_logits.mean())
    penalty = _rule(1).pressure(SelectionState(rate=2e-4), opacity_logits, PHASE, LATE)
    assert float(penalty) == pytest.approx(3 * 2e-4 * (mean + 20) ** 2, rel=1e-12)
    expected = 6 * 2e-4 * (mean + 20) / 3
    assert _slopes(_rule(1), opacity_logits, LATE).tolist() == pytest.approx([expected] * 3, rel=1e-12)


def test_early_pressure_as_published_differentiates_its_weight() -> None:
    opacities = torch.tensor([0.1, 0.5, 0.9, 0.97], dtype=torch.float64)
    opacity_logits = torch.logit(opacities)
    terms = (opacity_logits + 20) / torch.tensor([0.9, 0.5, 0.1, 0.05])
    penalty = _rule(1).pressure(SelectionState(rate=2e-4), opacity_logits, PHASE, EARLY)
    assert float(penalty) == pytest.approx(2e-4 * float(terms.mean()) ** 2, rel=1e-6)
    inner = (1 + (opacity_logits + 20) * opacities) / (1 - opacities)
    inner[3] = 20  # the weight has reached its floor
    expected = 2 * 2e-4 * terms.mean() * inner / 4
    assert _slopes(_rule(1), opacity_logits, EARLY).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert inner[1] * (1 - opacities[1]) == pytest.approx(11)  # times the intended slope, at half opacity


def test_early_pressure_detached() -> None:
    opacity_logits = _logits(0.1, 0.5, 0.9, 0.97)
    weights = torch.tensor([0.9, 0.5, 0.1, 0.05], dtype=torch.float64)
    terms = (opacity_logits + 20) / weights
    expected = 2 * 2e-4 * terms.mean() / weights / 4
    slopes = _slopes(_rule(1, detached=True), opacity_logits, EARLY)
    assert slopes.tolist() == pytest.approx(expected.tolist(), rel=1e-6)


def test_pressure_changes_form_at_the_date() -> None:
    opacity_logits, state, rule = _logits(0.2, 0.4), SelectionState(), _rule(1)
    values = [float(rule.pressure(state, opacity_logits, PHASE, it)) for it in (15_951, 15_999, 16_000, 16_001)]
    assert values[0] == values[1] != values[2] == values[3]


def test_rate_scales_the_pressure() -> None:
    opacity_logits, rule = _logits(0.2, 0.4), _rule(1)
    for it in (EARLY, LATE):
        weak, strong = (float(rule.pressure(SelectionState(rate=r), opacity_logits, PHASE, it)) for r in (1e-4, 3e-4))
        assert strong == pytest.approx(3 * weak)


# Controller


def test_controller_history() -> None:
    """B = 2 of 3. The opacity at rank 2 at every pulse, and what must come of it.

    Pulse 1 (15001): rank 2 is 0.5, so a₀ = 0.8·0.5 = 0.4. λ = 2e-4.
    Pulse 2 (15051): target = 0.4·(1 − 51/7000) = 0.397086. Rank 2 is 0.5 > 1.1·target = 0.436794: λ = 2.4e-4.
    Pulse 3 (15101): odd, nothing happens, although 0.1 would be far too low.
    Pulse 4 (15151): target = 0.4·(1 − 151/7000) = 0.391371. Rank 2 is 0.4303 < 1.1·target = 0.430509: λ stays.
    Pulse 6 (15251): target = 0.4·(1 − 251/7000) = 0.385657. Rank 2 is 0.347 < 0.9·target = 0.347091: λ = 1.92e-4.
    Pulse 8 (15351): target = 0.4·(1 − 351/7000) = 0.379943. Rank 2 is 0.342 > 0.9·target = 0.341949: λ stays.
    Pulse 10 (15451): target = 0.4·(1 − 451/7000) = 0.374229. Rank 2 is 0.412 > 1.1·target = 0.411651: λ = 2.304e-4.
    Pulse 160 (22951): past 22000 the target is 0, and any opacity is above it: λ = 2.7648e-4.
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
    rule, state = _rule(2), SelectionState()
    for it, second, rate in history:
        state = rule.adapted(state, _logits(second / 2, 0.9, second), PHASE, it)
        assert state.rate == pytest.approx(rate, rel=1e-12), it
        assert state.initial_target == pytest.approx(0.4, rel=1e-12)
        assert state.finished_at is None and not state.skipped
        if it != 15_101:  # what is reported is what was compared
            assert state.opacity_at_rank == pytest.approx(second, rel=1e-6)
            assert state.target == pytest.approx(
                0.4 * (1 - (it - 15_000) / 7_000) if 15_001 < it < 22_000 else (0.4 if it == 15_001 else 0.0), abs=1e-9
            )


def test_controller_of_the_second_fast_phase() -> None:
    """B = 1. a₀ = 0.8·0.5 = 0.4 at 7001; at 7051 the target is 0.4·(1 − 51/3000) = 0.3932; 0.35 < 0.35388: λ·0.8."""
    rule, phase = _rule(1), FAST.phases[1]
    state = rule.adapted(SelectionState(), _logits(0.5, 0.2), phase, 7_001)
    state = rule.adapted(state, _logits(0.35, 0.2), phase, 7_051)
    assert state.rate == pytest.approx(1.6e-4)
    assert state.initial_target == pytest.approx(0.4)


def test_rank_is_counted_from_the_top() -> None:
    for budget, opacity in ((1, 0.9), (2, 0.7), (4, 0.1)):
        state = _rule(budget).adapted(SelectionState(), _logits(0.1, 0.9, 0.4, 0.7), PHASE, 15_001)
        assert state.initial_target == pytest.approx(0.8 * opacity)


def test_too_few_to_select_from() -> None:
    rule = _rule(4)
    state = rule.adapted(SelectionState(), _logits(0.1, 0.9, 0.4), PHASE, 15_001)
    assert state.skipped and state.finished_at == 15_001 and state.initial_target is None
    assert rule.rate_factors(state, 15_001) == {}
    assert not rule.adapted(SelectionState(), _logits(0.1, 0.9, 0.4, 0.5), PHASE, 15_001).skipped


# The end


def test_pruning_takes_the_faint() -> None:
    opacities = torch.tensor([0.5, 0.0009, 0.001, 0.0, 0.02, torch.nan])
    mask = _rule(2).prune_mask(opacities, PHASE)
    assert mask.tolist() == [True, False, True, False, True, False]
    fast = _rule(1, fast=True).prune_mask(opacities, FAST.phases[0])
    assert fast.tolist() == [True, False, False, False, True, False]


def test_pruning_never_takes_the_last_of_the_budget() -> None:
    opacities = torch.tensor([0.0005, 0.5, 0.0001, 0.0007, 0.0])
    assert _rule(3).prune_mask(opacities, PHASE).tolist() == [True, True, False, True, False]


def test_selection_ends_when_few_enough_are_left() -> None:
    rule = _rule(1_000)
    assert not rule.is_over(1_049, PHASE, 15_000)
    assert rule.is_over(1_049, PHASE, 15_001)
    assert not rule.is_over(1_050, PHASE, 22_999)
    assert rule.is_over(3_000, PHASE, 23_000)


@pytest.mark.parametrize("final_cut", ["multinomial", "lowest"])
@pytest.mark.parametrize("count", [1_000, 1_001, 1_049, 3_000])
def test_exactly_the_budget_survives(final_cut: str, count: int) -> None:
    opacities = torch.rand(count, generator=torch.Generator().manual_seed(0))
    opacities[:5] = 0.0
    mask = _rule(1_000, final_cut).final_mask(opacities, torch.Generator().manual_seed(1))
    assert int(mask.sum()) == 1_000


def test_fewer_than_the_budget_all_survive() -> None:
    assert _rule(1_000).final_mask(torch.rand(999), torch.Generator()).all()


def test_the_lowest_cut_drops_the_lowest() -> None:
    opacities = torch.tensor([0.3, 0.1, 0.9, 0.2])
    mask = _rule(2, "lowest").final_mask(opacities, torch.Generator())
    assert mask.tolist() == [True, False, True, False]


def test_the_multinomial_cut_prefers_the_opaque_and_follows_its_generator() -> None:
    opacities = torch.cat([torch.full((500,), 0.9), torch.full((500,), 0.1)])
    rule = _rule(500)
    first, again, other = (rule.final_mask(opacities, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    # Arrivals at rates 9 and 1: half of all have come when (1 − e^(−9t)) + (1 − e^(−t)) = 1, at t = 0.1932. Then
    # 1 − e^(−9t) = 0.824 of the opaque are there, 412. Equal chances would give 250, a cut by rank 500.
    assert int(first[:500].sum()) == pytest.approx(412, abs=25)


def test_opacity_learns_fast_from_the_beginning_to_the_end_of_recovery() -> None:
    rule, state, fast = _rule(1), SelectionState(initial_target=0.4), {"opacity_logits": 4.0}
    assert [rule.rate_factors(state, it) for it in (14_999, 15_000, 23_999, 24_000)] == [{}, fast, fast, {}]
    state = rule.edit(state, _population(0.5), 17_350, _chance())
    assert state.finished_at == 17_350
    assert [rule.rate_factors(state, it) for it in (17_350, 18_349, 18_350)] == [fast, fast, {}]


# The rule


def _chance(seed: int = 0) -> dict[str, torch.Generator]:
    return {"final cut": torch.Generator().manual_seed(seed)}


def test_it_begins_with_the_published_rate() -> None:
    assert _rule(1).begin() == SelectionState(rate=2e-4, initial_target=None, finished_at=None)


def test_a_phase_begins_afresh_and_only_pulses_are_prepared_for() -> None:
    rule, population = _rule(1, fast=True), _population(0.5, 0.2)
    old = SelectionState(rate=1e-3, initial_target=0.3, finished_at=4_000)
    for it in (2_999, 3_500, 3_551, 6_700, 12_000):  # before, within (at a pulse, too), between and after the phases
        assert rule.prepare(old, population, it) == old
    for it in (3_000, 7_000):
        assert rule.prepare(old, population, it) == SelectionState()
    first = rule.prepare(SelectionState(), population, 7_001)
    assert first.initial_target == pytest.approx(0.4)
    with torch.no_grad():
        population.gaussians.opacity_logits.fill_(-4.0)
    assert rule.prepare(first, population, 7_002) == first
    assert rule.prepare(first, population, 7_051).rate == pytest.approx(1.6e-4)


def test_only_pulses_of_an_unfinished_phase_press() -> None:
    rule, population, state = _rule(1), _population(0.5, 0.2), SelectionState(rate=1e-4)
    pressing = [it for it in range(14_990, 15_110) if rule.penalty(state, population, it) is not None]
    assert pressing == [15_001, 15_051, 15_101]
    penalty = rule.penalty(state, population, 15_051)
    assert penalty is not None
    assert torch.equal(penalty, rule.pressure(state, population.gaussians.opacity_logits, PHASE, 15_051))
    assert rule.penalty(SelectionState(finished_at=15_010), population, 15_051) is None


def test_edit_prunes_at_its_dates_and_cuts_at_the_end() -> None:
    opacities = (0.9, 0.0005, 0.5, 0.0008, 0.3, 0.2)
    left = {}
    for it in (15_999, 16_000, 16_001, 22_999, 23_000, 23_001):
        population = _population(*opacities)
        state = _rule(2, "lowest").edit(SelectionState(initial_target=0.4), population, it, _chance())
        left[it] = len(population)
        assert state == SelectionState(initial_target=0.4, finished_at=it if it >= 23_000 else None)
    assert left == {15_999: 6, 16_000: 4, 16_001: 6, 22_999: 6, 23_000: 2, 23_001: 2}
    population, finished = _population(*opacities), SelectionState(initial_target=0.4, finished_at=20_000)
    assert _rule(2).edit(finished, population, 22_950, _chance()) == finished  # nothing is pruned any more
    assert len(population) == 6


def test_a_nearly_finished_selection_ends_at_once() -> None:
    population = _population(*[0.5] * 104)
    state = _rule(100).edit(SelectionState(initial_target=0.4), population, 15_700, _chance())
    assert (len(population), state.finished_at) == (100, 15_700)


def test_what_it_remembers_is_a_value() -> None:
    state, population = SelectionState(rate=1e-4, initial_target=0.3), _population(0.5, 0.4, 0.3)
    assert _rule(2).edit(state, population, 23_000, _chance()) == SelectionState(1e-4, 0.3, 23_000)
    assert state == SelectionState(rate=1e-4, initial_target=0.3)


def test_what_it_reports_and_remarks() -> None:
    rule, population = _rule(1_000), _population(0.5, 0.4, 0.3)
    assert rule.report(SelectionState(rate=3e-4)) == {"rate": 3e-4}
    selecting = SelectionState(2e-4, 0.4, None, 0.3, 0.35)
    assert rule.report(selecting) == {"rate": 2e-4, "target": 0.3, "opacity_at_rank": 0.35}
    assert rule.report(SelectionState(2e-4, 0.4, 9, 0.3, 0.35)) == {"rate": 2e-4, "selection_finished_at": 9}
    for state in (SelectionState(), SelectionState(initial_target=0.3), SelectionState(2e-4, 0.3, 16_000)):
        assert rule.remark(state, population) is None
    skipped = SelectionState(finished_at=15_001)
    assert str(rule.remark(skipped, population)).startswith("only 3 Gaussians grew, fewer than the budget of 1,000")


def test_a_checkpoint_of_another_memory_is_refused() -> None:
    rule, state = _rule(1), SelectionState(rate=3e-4, initial_target=0.2, finished_at=9)
    assert rule.restored(vars(state)) == state
    earlier = {"rate": 3e-4, "initial_target": 0.2, "finished_at": 9}  # of a version that reported less
    assert rule.restored(earlier) == state
    for saved in ({"rate": 3e-4}, {**vars(state), "more": 1}, {}):
        with pytest.raises(
            TypeError,
            match="natural_selection remembers rate, initial_target, finished_at, target, opacity_at_rank, not",
        ):
            rule.restored(saved)
