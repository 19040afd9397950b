"""The whole calendar of both schedules against the tables of the method, written out here a second time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import get_type_hints

import pytest

from gns.rules import METHODS, PRESETS, SCHEDULES, optimisation_of
from gns.rules.calendar import Calendar, Date, Dates, Fixed, Instant, Interval, SomeDates, every
from gns.rules.edge_growth import EdgeGrowth, GrowthCalendar
from gns.rules.natural_selection import NaturalSelection, SelectionCalendar
from gns.rules.optimisation import Optimisation
from gns.scene.gaussians import GROUPS
from gns.testing.tiny import tiny_config, tiny_scene
from gns.training.loop import Trainer

B = 1_000


@dataclass(frozen=True)
class When:
    """All calendars of a run."""

    optimisation: Optimisation
    growth: GrowthCalendar
    selection: SelectionCalendar

    @property
    def iterations(self) -> int:
        return self.optimisation.iterations


def _when(schedule: str, iterations: int = -1) -> When:
    """The calendars by which a run of the method goes, at the natural length or another one."""
    config = tiny_config(method="gns", schedule=schedule, iterations=iterations, final_budget=B)
    plan = Trainer(config, SCENE).plan
    growth, selection = plan.rules
    assert isinstance(growth, EdgeGrowth) and isinstance(selection, NaturalSelection)
    return When(plan.optimisation, growth.calendar, selection.calendar)


SCENE = tiny_scene(train_views=1, test_views=0)
STANDARD, FAST = _when("standard"), _when("fast")

# The tables. Sets are spelled with plain arithmetic on purpose: nothing here comes from gns.rules.
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
    "prune": {16_000 + 50 * k for k in range(141)},  # … 23 000
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
    "prune": {3_500 + 50 * k for k in range(51)} | {7_500 + 50 * k for k in range(51)},  # … 6 000, … 10 000
    "selection ends": {6_000, 10_000},
    "step": {it for it in range(1, 15_001) if it <= 6_000 or it % (10 if it <= 10_000 else 20) == 0},
    "step SH rest": (
        set(range(1, 3_001))
        | {it for it in range(3_001, 6_001) if it % 5 == 0}
        | {it for it in range(6_001, 10_001) if it % 10 == 0}
        | {it for it in range(10_001, 15_001) if it % 20 == 0}
    ),
}

Happens = Callable[[When, int], bool]
EVENTS: dict[str, Happens] = {
    "early clean-up": lambda when, it: it == when.growth.early_cleanup,
    "observe": lambda when, it: when.growth.growth(it) is not None,
    "densify": lambda when, it: any(it in growth.densify for growth in when.growth.growths),
    "survey all": lambda when, it: _densifies(when, it) and when.growth.surveys_all_views(it),
    "by edges": lambda when, it: any(it in grown.densify and it <= grown.survey_until for grown in when.growth.growths),
    "spares the faint": lambda when, it: any(it == growth.densify[-1] for growth in when.growth.growths),
    "reset": lambda when, it: it in when.growth.opacity_resets,
    "recovery prune": lambda when, it: it in when.growth.recovery_prunes,
    "selection begins": lambda when, it: any(it == phase.begin for phase in when.selection.phases),
    "fast opacity": lambda when, it: when.selection.phase(it) is not None,
    "pulse": lambda when, it: any(it in phase.pulses for phase in when.selection.phases),
    "controller": lambda when, it: any(it in phase.pulses and phase.adapts(it) for phase in when.selection.phases),
    "early pressure": lambda when, it: any(
        it in phase.pulses and it < phase.level_until for phase in when.selection.phases
    ),
    "prune": lambda when, it: any(it in phase.prune_at for phase in when.selection.phases),
    "selection ends": lambda when, it: any(it == phase.end for phase in when.selection.phases),
    "step": lambda when, it: _stepping(when, it) >= {"means", "log_scales", "quats", "opacity_logits", "sh_dc"},
    "step SH rest": lambda when, it: "sh_rest" in _stepping(when, it),
}


def _densifies(when: When, it: int) -> bool:
    return EVENTS["densify"](when, it)


def _stepping(when: When, it: int) -> set[str]:
    """The groups whose step is due at `it`."""
    return {name for name, period in when.optimisation.iterations_per_step(it, GROUPS).items() if it % period == 0}


def _calendar(when: When, event: str) -> set[int]:
    return {it for it in range(1, when.iterations + 1) if EVENTS[event](when, it)}


@pytest.mark.parametrize("event", EVENTS)
def test_standard_calendar(event: str) -> None:
    assert STANDARD.iterations == 30_000
    assert _calendar(STANDARD, event) == STANDARD_EVENTS[event]


@pytest.mark.parametrize("event", EVENTS)
def test_fast_calendar(event: str) -> None:
    assert FAST.iterations == 15_000
    assert _calendar(FAST, event) == FAST_EVENTS[event]


def test_natural_length_changes_nothing() -> None:
    for method in METHODS.values():
        for natural in method.schedules.values():
            for calendar in (natural.optimisation, *natural.rules):
                assert calendar.scaled(1.0) == calendar


def test_standard_budget_curve() -> None:
    (growth,) = STANDARD.growth.growths
    assert growth.budget(500, B) == 0
    assert growth.budget(600, B) == 253  # 3000·√(100/14000) = 253.5
    assert growth.budget(4_000, B) == 1_500  # √(3500/14000) = ½
    assert growth.budget(14_500, B) == growth.budget(14_900, B) == 3_000


def test_fast_budget_curves() -> None:
    first, second = FAST.growth.growths
    assert first.budget(600, B) == 692  # 2000·√(300/2500) = 692.8
    assert first.budget(925, B) == 1_000  # √(625/2500) = ½
    assert first.budget(2_800, B) == first.budget(3_000, B) == 2_000
    assert second.budget(6_100, B) == 1_264  # 2000·√(400/1000) = 1264.9
    assert second.budget(6_700, B) == second.budget(7_000, B) == 2_000


def test_thresholds() -> None:
    for when, prune, factor in ((STANDARD, 0.001, 3), (FAST, 0.01, 2)):
        for phase in when.selection.phases:
            assert (phase.prune_opacity, phase.opacity_rate_factor) == (prune, 4)
        for growth in when.growth.growths:
            assert (growth.gradient_threshold, growth.late_divisor, growth.min_opacity) == (3e-4, 1.5, 0.005)
            assert growth.ceiling == factor
        assert when.growth.early_cleanup_opacity == 0.02
        assert when.growth.opacity_reset_ceiling == 0.05
        assert when.growth.recovery_prune_fraction == 0.2


def test_spherical_harmonics_rise_step_by_step() -> None:
    for when, interval in ((STANDARD, 1_000), (FAST, 500)):
        degrees = [when.optimisation.sh_degree(it) for it in (1, interval - 1, interval, 2 * interval, 3 * interval)]
        assert degrees == [0, 0, 1, 2, 3]


def test_learning_rates() -> None:
    extent = 5.0
    rates = STANDARD.optimisation.learning_rates(30_000, extent, {"opacity_logits": 4.0})
    assert rates == {
        "means": pytest.approx(2e-6 * extent),
        "log_scales": 5e-3,
        "quats": 1e-3,
        "opacity_logits": 0.1,
        "sh_dc": 2.5e-3,
        "sh_rest": 2.5e-4,
    }
    assert set(rates) == set(GROUPS)
    halfway = (4e-5 * 2e-6) ** 0.5  # the geometric mean: log-linear
    assert STANDARD.optimisation.learning_rates(15_000, extent, {})["means"] == pytest.approx(halfway * extent)
    assert STANDARD.optimisation.learning_rates(15_000, extent, {})["opacity_logits"] == 2.5e-2
    assert STANDARD.optimisation.learning_rates(1, 1.0, {})["means"] == pytest.approx(4e-5, rel=1e-3)
    assert FAST.optimisation.learning_rates(7_500, extent, {})["means"] == pytest.approx(halfway * extent)


def test_target_line() -> None:
    (phase,) = STANDARD.selection.phases
    assert [phase.target(it) for it in (15_000, 18_500, 22_000, 23_000)] == [1.0, 0.5, 0.0, 0.0]
    first, second = FAST.selection.phases
    assert [first.target(it) for it in (3_000, 4_500, 6_000)] == [1.0, 0.5, 0.0]
    assert [second.target(it) for it in (7_000, 8_500, 10_000)] == [1.0, 0.5, 0.0]


def test_standard_at_a_tenth() -> None:
    when = _when("standard", 3_000)
    expected = {
        "early clean-up": {30},
        "densify": {60 + 10 * k for k in range(144)},
        "survey all": {340, 640},
        "reset": {300, 600, 900, 1_200},
        "recovery prune": {330, 630},
        "selection begins": {1_500},
        "fast opacity": set(range(1_500, 2_400)),
        "pulse": {1_501 + 5 * k for k in range(160)},
        "prune": {1_600 + 5 * k for k in range(141)},
        "selection ends": {2_300},
        "step": set(range(1, 2_401)) | {it for it in range(2_401, 3_001) if it % 2 == 0},
    }
    for event, iterations in expected.items():
        assert _calendar(when, event) == iterations, event
    assert when.growth.growths[0].budget(400, B) == 1_500
    assert when.optimisation.sh_degree(300) == 3


@pytest.mark.parametrize("schedule", ["standard", "fast"])
@pytest.mark.parametrize("iterations", [300, 1_000, 3_000, 7_000, 10_001, 60_000])
def test_scaled_calendars_keep_their_order(schedule: str, iterations: int) -> None:
    when = _when(schedule, iterations)
    assert when.iterations == iterations
    natural = STANDARD_EVENTS if schedule == "standard" else FAST_EVENTS
    factor = iterations / _when(schedule).iterations
    for event, happens in natural.items():
        dates = _calendar(when, event)
        assert dates, event
        # Rounding shifts a date by one; rounded intervals shift the last of a series by up to an interval.
        slack = 2 + 100 * factor
        assert abs(min(dates) - min(happens) * factor) <= slack, event
        assert max(dates) <= max(happens) * factor + slack, event
    for phase in when.selection.phases:
        assert phase.begin < phase.pulses[0] < phase.level_until < phase.end < when.iterations
        assert phase.begin < phase.prune_at[0] <= phase.prune_at[-1] <= phase.end
    for growth, phase in zip(when.growth.growths, when.selection.phases, strict=True):
        assert growth.densify[-1] <= phase.begin
    assert len(_calendar(when, "survey all")) == len(natural["survey all"])


def test_one_iteration_is_a_run() -> None:
    when = _when("standard", 1)
    assert _stepping(when, 1) == set(GROUPS)
    assert when.optimisation.learning_rates(1, 1.0, {})["means"] == pytest.approx(2e-6)


# How dates stretch, whatever the method


@dataclass(frozen=True)
class Part(Calendar):
    """A calendar within a calendar."""

    at: Date


@dataclass(frozen=True)
class Everything(Calendar):
    """One field of each kind."""

    date: Date
    instant: Instant
    interval: Interval
    fixed: Fixed
    dates: Dates
    some: SomeDates
    parts: tuple[Part, ...]
    threshold: float = 0.5


EVERYTHING = Everything(
    date=1_001,
    instant=500.0,
    interval=50,
    fixed=700,
    dates=every(100, 600, 14_900),
    some=(300, 1_001),
    parts=(Part(7), Part(8)),
)


@dataclass(frozen=True)
class Forgetful(Everything):
    """A calendar whose author forgot to say that something is a date."""

    forgotten: int = 20


def test_each_kind_of_date_scales_as_its_annotation_says() -> None:
    scaled = EVERYTHING.scaled(0.003)
    assert scaled == Everything(
        date=3,  # 3.003
        instant=1.5,  # a point of a curve is not rounded
        interval=1,  # 0.15, but a step of 0 would be none
        fixed=700,
        dates=range(2, 46),  # from 1.8 to 44.7, the last included
        some=(1, 3),
        parts=(Part(0), Part(0)),
        threshold=0.5,
    )
    assert type(scaled.date) is type(scaled.interval) is type(scaled.some[0]) is int
    assert EVERYTHING.scaled(2.0).parts == (Part(14), Part(16))
    assert EVERYTHING.scaled(2.0).dates == every(200, 1_200, 29_800)


def test_dates_are_put_off_and_intervals_are_not() -> None:
    put_off = EVERYTHING.scaled(0.5, 1_000)
    assert put_off == Everything(
        date=1_500,  # 1500.5, to the even one
        instant=1_250.0,
        interval=25,
        fixed=700,
        dates=every(50, 1_300, 8_450),
        some=(1_150, 1_500),
        parts=(Part(1_004), Part(1_004)),  # 1003.5, to the even one
        threshold=0.5,
    )


def _unscaled(calendar: Calendar) -> Iterator[str]:
    """The fields that look like dates, in this calendar and those within it, and do not stretch with it."""
    longer = calendar.scaled(2.0)
    kinds = get_type_hints(type(calendar), include_extras=True)
    for field in fields(calendar):
        if kinds[field.name] == Fixed:  # its author has said so
            continue
        value = getattr(calendar, field.name)
        dated = isinstance(value, int | range | tuple | Calendar) and not isinstance(value, bool) and value != ()
        if dated and value == getattr(longer, field.name):
            yield f"{type(calendar).__name__}.{field.name}"
        for within in value if isinstance(value, tuple) else ():
            if isinstance(within, Calendar):
                yield from _unscaled(within)


def test_no_date_of_any_method_is_left_as_it_is() -> None:
    """Every number of iterations is a whole one, a range or a tuple; thresholds and factors are floats."""
    calendars = [
        calendar
        for method in METHODS.values()
        for natural in method.schedules.values()
        for preset in PRESETS.values()
        for refined in [preset.refinements.applied(natural)]
        for calendar in (refined.optimisation, *refined.rules)
    ]
    assert [name for calendar in calendars for name in _unscaled(calendar)] == []


def test_a_date_without_annotation_would_be_noticed() -> None:
    forgetful = Forgetful(**{field.name: getattr(EVERYTHING, field.name) for field in fields(EVERYTHING)})
    assert list(_unscaled(forgetful)) == ["Forgetful.forgotten"]
    assert list(_unscaled(EVERYTHING)) == []


def test_every_method_has_the_first_schedule_and_a_calendar_for_each_rule() -> None:
    for name, method in METHODS.items():
        assert SCHEDULES[0] in method.schedules, name
        for natural in method.schedules.values():
            assert len(natural.rules) == len(method.rules), name


def test_a_shorter_run_keeps_the_shape_of_its_calendar() -> None:
    shorter = optimisation_of("gns", "standard", 7_000)
    assert shorter == replace(
        STANDARD.optimisation.scaled(7_000 / 30_000), iterations=7_000, rates=STANDARD.optimisation.rates
    )
