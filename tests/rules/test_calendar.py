"""The whole calendar of both schedules against the tables of the method, written out here a second time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gns.rules.calendar import FAST, STANDARD, Schedule

B = 1_000

# The tables. Sets are spelled with plain arithmetic on purpose: nothing here comes from gns.rules.calendar.
STANDARD_EVENTS = {
    "early clean-up": {300},
    "observe": {it for it in range(1, 30_001) if 500 < it < 15_000},
    "densify": {600 + 100 * k for k in range(144)},  # … 14 900
    "survey all": {3_400, 6_400},
    "by edges": {it for it in range(600, 14_901, 100) if it <= 14_500},
    "spares the faint": {14_900},
    "reset": {3_000, 6_000, 9_000, 12_000},
    "recovery prune": {3_300, 6_300},
    "selection begins": {15_000},
    "fast opacity": set(range(15_000, 24_000)),
    "pulse": {15_001 + 50 * k for k in range(160)},  # … 22 951
    "controller": {15_051 + 100 * k for k in range(80)},  # the 2nd, the 4th, … the 160th pulse
    "early pressure": {15_001 + 50 * k for k in range(20)},  # … 15 951
    "death": {16_000 + 50 * k for k in range(141)},  # … 23 000
    "selection ends": {23_000},
    "step": {it for it in range(1, 30_001) if it <= 20_000 or it % (5 if it <= 24_000 else 20) == 0},
}
STANDARD_EVENTS["step SH rest"] = STANDARD_EVENTS["step"]

FAST_EVENTS = {
    "early clean-up": {300},
    "observe": set(range(501, 3_001)) | set(range(6_001, 7_001)),
    "densify": {600 + 100 * k for k in range(25)} | {6_100 + 100 * k for k in range(10)},  # … 3 000, … 7 000
    "survey all": {1_400, 2_400},
    "by edges": {600 + 100 * k for k in range(23)} | {6_100 + 100 * k for k in range(7)},  # … 2 800, … 6 700
    "spares the faint": {3_000, 7_000},
    "reset": {1_000, 2_000},
    "recovery prune": {1_300, 2_300},
    "selection begins": {3_000, 7_000},
    "fast opacity": set(range(3_000, 6_500)) | set(range(7_000, 10_500)),
    "pulse": {3_001 + 50 * k for k in range(60)} | {7_001 + 50 * k for k in range(60)},  # … 5 951, … 9 951
    "controller": {3_051 + 100 * k for k in range(30)} | {7_051 + 100 * k for k in range(30)},
    "early pressure": {3_001 + 50 * k for k in range(10)} | {7_001 + 50 * k for k in range(10)},  # … 3 451, … 7 451
    "death": {3_500 + 50 * k for k in range(51)} | {7_500 + 50 * k for k in range(51)},  # … 6 000, … 10 000
    "selection ends": {6_000, 10_000},
    "step": {it for it in range(1, 15_001) if it <= 6_000 or it % (10 if it <= 10_000 else 20) == 0},
    "step SH rest": (
        set(range(1, 3_001))
        | {it for it in range(3_001, 6_001) if it % 5 == 0}
        | {it for it in range(6_001, 10_001) if it % 10 == 0}
        | {it for it in range(10_001, 15_001) if it % 20 == 0}
    ),
}

Happens = Callable[[Schedule, int], bool]
EVENTS: dict[str, Happens] = {
    "early clean-up": lambda when, it: it == when.early_cleanup,
    "observe": lambda when, it: when.growth(it) is not None,
    "densify": lambda when, it: any(it in growth.densify for growth in when.growths),
    "survey all": lambda when, it: _densifies(when, it) and when.surveys_all_views(it),
    "by edges": lambda when, it: any(it in growth.densify and it <= growth.survey_until for growth in when.growths),
    "spares the faint": lambda when, it: any(it == growth.densify[-1] for growth in when.growths),
    "reset": lambda when, it: it in when.opacity_resets,
    "recovery prune": lambda when, it: it in when.recovery_prunes,
    "selection begins": lambda when, it: any(it == phase.begin for phase in when.phases),
    "fast opacity": lambda when, it: when.phase(it) is not None,
    "pulse": lambda when, it: any(it in phase.pulses for phase in when.phases),
    "controller": lambda when, it: any(it in phase.pulses and phase.adapts(it) for phase in when.phases),
    "early pressure": lambda when, it: any(it in phase.pulses and it < phase.level_until for phase in when.phases),
    "death": lambda when, it: any(it in phase.deaths for phase in when.phases),
    "selection ends": lambda when, it: any(it == phase.end for phase in when.phases),
    "step": lambda when, it: set(when.stepping(it)) >= {"means", "log_scales", "quats", "opacity_logits", "sh_dc"},
    "step SH rest": lambda when, it: "sh_rest" in when.stepping(it),
}


def _densifies(when: Schedule, it: int) -> bool:
    return EVENTS["densify"](when, it)


def _calendar(when: Schedule, event: str) -> set[int]:
    return {it for it in range(1, when.iterations + 1) if EVENTS[event](when, it)}


@pytest.mark.parametrize("event", EVENTS)
def test_standard_calendar(event: str) -> None:
    assert STANDARD.iterations == 30_000
    assert _calendar(STANDARD, event) == STANDARD_EVENTS[event]


@pytest.mark.parametrize("event", EVENTS)
def test_fast_calendar(event: str) -> None:
    assert FAST.iterations == 15_000
    assert _calendar(FAST, event) == FAST_EVENTS[event]


@pytest.mark.parametrize("schedule", [STANDARD, FAST])
def test_natural_length_changes_nothing(schedule: Schedule) -> None:
    assert schedule.scaled(schedule.iterations) == schedule


def test_standard_budget_curve() -> None:
    (growth,) = STANDARD.growths
    assert growth.budget(500, B) == 0
    assert growth.budget(600, B) == 253  # 3000·√(100/14000) = 253.5
    assert growth.budget(4_000, B) == 1_500  # √(3500/14000) = ½
    assert growth.budget(14_500, B) == growth.budget(14_900, B) == 3_000


def test_fast_budget_curves() -> None:
    first, second = FAST.growths
    assert first.budget(600, B) == 692  # 2000·√(300/2500) = 692.8
    assert first.budget(925, B) == 1_000  # √(625/2500) = ½
    assert first.budget(2_800, B) == first.budget(3_000, B) == 2_000
    assert second.budget(6_100, B) == 1_264  # 2000·√(400/1000) = 1264.9
    assert second.budget(6_700, B) == second.budget(7_000, B) == 2_000


def test_thresholds() -> None:
    for schedule, death, factor in ((STANDARD, 0.001, 3), (FAST, 0.01, 2)):
        for phase in schedule.phases:
            assert (phase.death_opacity, phase.opacity_rate_factor) == (death, 4)
        for growth in schedule.growths:
            assert (growth.gradient_threshold, growth.late_divisor, growth.min_opacity) == (3e-4, 1.5, 0.005)
            assert growth.ceiling == factor
        assert schedule.early_cleanup_opacity == 0.02
        assert schedule.opacity_reset_ceiling == 0.05
        assert schedule.recovery_prune_fraction == 0.2


def test_spherical_harmonics_rise_step_by_step() -> None:
    for schedule, interval in ((STANDARD, 1_000), (FAST, 500)):
        assert [schedule.sh_degree(it) for it in (1, interval - 1, interval, 2 * interval, 3 * interval)] == [
            0,
            0,
            1,
            2,
            3,
        ]


def test_learning_rates() -> None:
    extent = 5.0
    rates = STANDARD.learning_rates(30_000, extent, opacity_factor=4)
    assert rates == {
        "means": pytest.approx(2e-6 * extent),
        "log_scales": 5e-3,
        "quats": 1e-3,
        "opacity_logits": 0.1,
        "sh_dc": 2.5e-3,
        "sh_rest": 2.5e-4,
    }
    halfway = (4e-5 * 2e-6) ** 0.5  # the geometric mean: log-linear
    assert STANDARD.learning_rates(15_000, extent)["means"] == pytest.approx(halfway * extent)
    assert STANDARD.learning_rates(15_000, extent)["opacity_logits"] == 2.5e-2
    assert STANDARD.learning_rates(1, 1.0)["means"] == pytest.approx(4e-5, rel=1e-3)
    assert FAST.learning_rates(7_500, extent)["means"] == pytest.approx(halfway * extent)


def test_goal_line() -> None:
    (phase,) = STANDARD.phases
    assert [phase.goal(it) for it in (15_000, 18_500, 22_000, 23_000)] == [1.0, 0.5, 0.0, 0.0]
    first, second = FAST.phases
    assert [first.goal(it) for it in (3_000, 4_500, 6_000)] == [1.0, 0.5, 0.0]
    assert [second.goal(it) for it in (7_000, 8_500, 10_000)] == [1.0, 0.5, 0.0]


def test_standard_at_a_tenth() -> None:
    when = STANDARD.scaled(3_000)
    expected = {
        "early clean-up": {30},
        "densify": {60 + 10 * k for k in range(144)},
        "survey all": {340, 640},
        "reset": {300, 600, 900, 1_200},
        "recovery prune": {330, 630},
        "selection begins": {1_500},
        "fast opacity": set(range(1_500, 2_400)),
        "pulse": {1_501 + 5 * k for k in range(160)},
        "death": {1_600 + 5 * k for k in range(141)},
        "selection ends": {2_300},
        "step": set(range(1, 2_401)) | {it for it in range(2_401, 3_001) if it % 2 == 0},
    }
    for event, iterations in expected.items():
        assert _calendar(when, event) == iterations, event
    assert when.growths[0].budget(400, B) == 1_500
    assert when.sh_degree(300) == 3


@pytest.mark.parametrize("schedule", [STANDARD, FAST])
@pytest.mark.parametrize("iterations", [300, 1_000, 3_000, 7_000, 10_001, 60_000])
def test_scaled_calendars_keep_their_order(schedule: Schedule, iterations: int) -> None:
    when = schedule.scaled(iterations)
    natural = STANDARD_EVENTS if schedule is STANDARD else FAST_EVENTS
    factor = iterations / schedule.iterations
    for event, happens in natural.items():
        dates = _calendar(when, event)
        assert dates, event
        # Rounding shifts a date by one; rounded intervals shift the last of a series by up to an interval.
        slack = 2 + 100 * factor
        assert abs(min(dates) - min(happens) * factor) <= slack, event
        assert max(dates) <= max(happens) * factor + slack, event
    for phase in when.phases:
        assert phase.begin < phase.pulses[0] < phase.level_until < phase.end < when.iterations
        assert phase.begin < phase.deaths[0] <= phase.deaths[-1] <= phase.end
    for growth, phase in zip(when.growths, when.phases, strict=True):
        assert growth.densify[-1] <= phase.begin
    assert len(_calendar(when, "survey all")) == len(natural["survey all"])


def test_one_iteration_is_a_run() -> None:
    when = STANDARD.scaled(1)
    assert when.stepping(1) == ("means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest")
    assert when.learning_rates(1, 1.0)["means"] == pytest.approx(2e-6)
