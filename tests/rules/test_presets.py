"""What presets change: nothing, in one of them, and what they say in the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gns
from gns.arguments import parse_train, read_config
from gns.errors import UserError
from gns.losses.photometric import photometric_loss
from gns.rules import METHODS, PRESETS, Plan, Refinements, optimisation_of, plan_of
from gns.rules.presets import LARGER_STEPS
from gns.run_folder import RunFolder
from gns.team import SINGLE
from gns.testing.tiny import tiny_config, tiny_scene
from gns.training.loop import Trainer


def tiny_plan(refinements: Refinements) -> Plan:
    return plan_of(
        "gns",
        "standard",
        300,
        {rule.name: rule.Options() for rule in METHODS["gns"].rules},
        budget=100,
        extent=1.0,
        background=(0.0, 0.0, 0.0),
        views=(),
        team=SINGLE,
        refinements=refinements,
    )


BUDGET = ["-s", "scene", "--final-budget", "1000"]


def test_paper_is_what_was_published() -> None:
    """Whatever the method: the calendar is the very same."""
    for method, described in METHODS.items():
        for schedule in described.schedules:
            published = described.schedules[schedule]
            assert PRESETS["paper"].refinements.applied(published) == published, method
    config = parse_train(BUDGET)
    assert (config.preset, config.iterations) == ("paper", 30_000)
    assert config.refinements == Refinements()


def test_far_points_are_there_from_the_start_and_are_a_tenth_of_the_budget_at_most() -> None:
    scene = tiny_scene()

    def begun(**changes: Any) -> torch.Tensor:
        return Trainer(tiny_config(**changes), scene).begin().population.gaussians.means

    plain, few, all_of_them = begun(), begun(far_points=True), begun(far_points=True, final_budget=10_000)
    assert len(plain) == len(scene.points.positions) == 120
    assert len(few) == 120 + tiny_config().final_budget // 10 < len(all_of_them)  # type: ignore[operator]
    for means in (few, all_of_them):
        assert torch.equal(means[:120], plain)
        assert means[120:].norm(dim=1).min() > 10 * scene.extent - 4.5 > plain.norm(dim=1).max()  # 4 to the cameras
    unlimited = begun(far_points=True, final_budget=None, method="3dgs", rules={})
    assert torch.equal(unlimited, all_of_them)


def test_coarse_to_fine_reduces_photos_at_first() -> None:
    natural = Refinements(coarse_to_fine=True).applied(METHODS["gns"].schedules["standard"]).optimisation
    optimisation = natural.scaled(1_000 / natural.iterations)
    assert [optimisation.photo_divisor(it) for it in (1, 100, 101, 300, 301, 1_000)] == [4, 4, 2, 2, 1, 1]
    whole_run = [natural.photo_divisor(it) for it in (1, 700, 701, 2_100, 2_101, 9_000)]
    assert natural.iterations == 30_000 and whole_run == [4, 4, 2, 2, 1, 1], "no longer than in a run of 7,000"


def test_larger_steps_multiply_the_step_sizes_of_all_but_opacities() -> None:
    published = optimisation_of("gns", "standard")
    refined = Refinements(larger_steps=True).applied(METHODS["gns"].schedules["standard"]).optimisation
    assert replace(refined, rates=published.rates) == published
    factors = {name: rate / getattr(published.rates, name) for name, rate in vars(refined.rates).items()}
    assert factors == pytest.approx({**LARGER_STEPS, "opacity_logits": 1.0})
    means = [plan.learning_rates(30_000, 2.0, {})["means"] for plan in (published, refined)]
    assert means[1] == pytest.approx(LARGER_STEPS["means_last"] * means[0])


def test_errors_are_squared_in_the_second_half() -> None:
    for method, described in METHODS.items():
        for schedule, published in described.schedules.items():
            natural = Refinements(squared_error=True).applied(published).optimisation
            optimisation = natural.scaled(1_001 / natural.iterations)
            assert [optimisation.squared_error(it) for it in (1, 500, 501, 1_001)] == [False, False, True, True]
            assert not any(optimisation_of(method, schedule).squared_error(it) for it in (1, 29_999, 10**9))


def test_events_of_growth_keep_their_distance_in_short_runs() -> None:
    published = METHODS["gns"].schedules["standard"].rules[0]
    growth, _ = Refinements(growth_interval=50).applied(METHODS["gns"].schedules["standard"]).rules
    whole, short = (calendar.growths[0].densify for calendar in (growth, growth.scaled(0.1)))  # type: ignore[attr-defined]
    assert whole == published.growths[0].densify == range(600, 14_901, 100)  # type: ignore[attr-defined]
    assert published.scaled(0.1).growths[0].densify == range(60, 1_491, 10)  # type: ignore[attr-defined]
    assert (short.step, short[0], short[-1], len(short)) == (50, 90, 1_490, 29)
    rarer, _ = Refinements(growth_interval=400).applied(METHODS["gns"].schedules["standard"]).rules
    assert rarer.growths[0].densify == range(900, 14_901, 400)  # type: ignore[attr-defined]


def test_opacities_are_lowered_again_when_each_photo_was_seen_often_enough() -> None:
    published = METHODS["gns"].schedules["standard"]
    growth, selection = Refinements(reset_epochs=6.0).applied(published).rules
    assert (replace(growth, reset_epochs=0.0), selection) == published.rules  # type: ignore[call-arg]
    short = growth.scaled(0.1)
    resets = [short.resets(photos) for photos in (0, 50, 51, 100, 101, 200, 201, 500)]  # type: ignore[attr-defined]
    every_time, every_other = [300, 600, 900, 1_200], [300, 900]
    # Growth ends at 1,500, for which the last of them may be too late as well.
    assert resets == [every_time, every_time, [300, 900], every_other, [300], [300], [], []]
    assert published.rules[0].scaled(0.1).resets(10**6) == every_time  # type: ignore[attr-defined]


@pytest.mark.parametrize("share", [0.4, 0.5])
def test_parameters_are_averaged_at_the_end_wherever_growth_ends(share: float) -> None:
    natural = Refinements(weight_averaging=0.05, growth_share=share).applied(METHODS["gns"].schedules["standard"])
    optimisation = natural.optimisation.scaled(1_001 / 30_000)
    assert [optimisation.averages(it) for it in (1, 950, 951, 1_001)] == [False, False, True, True]
    assert not any(optimisation_of("gns", "standard").averages(it) for it in (1, 29_999, 10**9))


def test_harmonics_decay_by_as_much_a_step_however_long_the_run() -> None:
    natural = Refinements(sh_decay=1e-4).applied(METHODS["gns"].schedules["standard"]).optimisation
    assert natural.decays == natural.scaled(0.1).decays == {"sh_rest": 1e-4}
    assert optimisation_of("gns", "standard").decays == {}


def test_harmonics_that_decay_change_less_with_the_direction_and_nothing_else_decays() -> None:
    """By the size of all coefficients of a group, after as many steps on the same photos."""
    sizes = []
    for sh_decay in (0.0, 0.01):
        gaussians = gns.train(tiny_scene(), tiny_config(sh_decay=sh_decay)).gaussians
        sizes.append({name: float(values.square().mean().sqrt()) for name, values in gaussians.named_tensors()})
    shrunk = {name: sizes[1][name] / size for name, size in sizes[0].items()}
    assert 0.1 < shrunk.pop("sh_rest") < 0.7
    assert all(0.8 < ratio < 1.25 for ratio in shrunk.values()), shrunk


def test_training_asks_for_the_loss_of_its_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noting(*arguments: Any, squared: bool) -> torch.Tensor:
        asked.append(squared)
        return photometric_loss(*arguments, squared=squared)

    monkeypatch.setattr("gns.training.loop.photometric_loss", noting)
    for squared in (False, True):
        asked.clear()
        gns.train(tiny_scene(), gns.Config(final_budget=100, iterations=40, squared_error=squared, quiet=True))
        assert asked == [squared and it > 20 for it in range(1, 41)]


def test_a_larger_dense_model_is_grown_where_some_are_to_be_taken_out() -> None:
    """Growth straight to the budget has to end there."""
    larger = Refinements(dense_model=2.0)
    (gns_growth, _), (straight,) = (
        larger.applied(METHODS[method].schedules["standard"]).rules for method in ("gns", "improved-gs")
    )
    assert gns_growth.growths[0].budget(14_500, 100) == 600  # type: ignore[attr-defined]
    assert straight == METHODS["improved-gs"].schedules["standard"].rules[0]
    assert tiny_plan(larger).rules[0].most() == 600


def test_growth_by_error_is_that_of_all_who_grow_by_edges() -> None:
    for method in ("gns", "improved-gs", "learned-mask"):
        published = METHODS[method].schedules["standard"]
        growth, *others = Refinements(error_growth=True).applied(published).rules
        assert growth.by_error and others == list(published.rules[1:])  # type: ignore[attr-defined]
        assert replace(growth, by_error=False) == published.rules[0]  # type: ignore[call-arg]


def test_growth_in_a_quarter_of_the_run_leaves_the_rest_to_what_follows() -> None:
    shorter = Refinements(coarse_to_fine=True, squared_error=True, growth_share=0.25)
    published = METHODS["gns"].schedules["standard"]
    refined = shorter.applied(published)
    growth, selection = refined.rules
    (grown,), (phase,) = growth.growths, selection.phases  # type: ignore[attr-defined]
    assert growth == published.rules[0].scaled(0.5)
    assert (grown.densify, grown.ceiling) == (range(300, 7_451, 50), 3.0)
    assert (phase.begin, phase.end, phase.prune_at[-1]) == (7_500, 15_500, 15_500)  # as long as published
    assert (phase.pulse_interval, phase.recovery) == (50, 1_000)
    optimisation = refined.optimisation
    assert optimisation.iterations == 30_000 and optimisation.rates == published.optimisation.rates
    assert [optimisation.scaled(0.1).photo_divisor(it) for it in (150, 151, 450, 451)] == [4, 2, 2, 1]
    assert [optimisation.squared_error(it) for it in (7_500, 7_501)] == [False, True]
    assert [optimisation.sh_degree(it) for it in (499, 500, 1_500)] == [0, 1, 3]
    periods = [(period.last, period.period) for period in optimisation.step_periods]
    assert periods == [(15_000, 1), (21_000, 5), (30_000, 20)]
    _, cut = shorter.applied(METHODS["oneshot-opacity"].schedules["standard"]).rules
    assert cut.cut == 7_500  # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "schedule"), [("3dgs", "standard"), ("mcmc", "standard"), ("gns", "fast")])
def test_who_does_not_grow_once_to_the_middle_keeps_the_published_dates(method: str, schedule: str) -> None:
    published = METHODS[method].schedules[schedule]
    assert Refinements(growth_share=0.25).applied(published) == published


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_a_run_with_another_share_of_growth_ends_with_the_budget(share: float) -> None:
    state = gns.train(tiny_scene(), tiny_config(growth_share=share))
    selected = state.rules["natural_selection"].finished_at
    assert len(state.gaussians) == 100 and share * 300 < selected <= share * 300 + 80


def test_a_preset_is_shorthand_for_options_and_options_go_before_it() -> None:
    best = PRESETS["best"].refinements
    config = parse_train([*BUDGET, "--preset", "best"])
    assert config.refinements == best
    assert config.coarse_to_fine is best.coarse_to_fine is True
    mixed = parse_train([*BUDGET, "--preset", "best", "--no-coarse-to-fine"])
    assert mixed.refinements == replace(best, coarse_to_fine=False)
    assert parse_train([*BUDGET, "--larger-steps"]).refinements == Refinements(larger_steps=True)


def test_quick_is_shorter_unless_iterations_are_given() -> None:
    assert parse_train([*BUDGET, "--preset", "quick"]).iterations == 10_200
    assert parse_train([*BUDGET, "--preset", "quick", "--schedule", "fast"]).iterations == 5_100
    assert parse_train([*BUDGET, "--preset", "quick", "--iterations", "700"]).iterations == 700
    assert gns.Config(final_budget=1000, preset="quick").iterations == 10_200


def test_the_run_keeps_what_the_preset_meant(tmp_path: Path) -> None:
    """A later version may mean something else by the name."""
    config = tiny_config(tmp_path, preset="best", dense_model=1.5)
    run = RunFolder.create(config.model_path, config)
    assert replace(read_config(run.path / "config.json"), quiet=True) == config
    assert config.refinements == replace(PRESETS["best"].refinements, dense_model=1.5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--preset", "better"], "choose one of paper, best, quick"),
        (["--dense-model", "0.1"], "--dense-model is 0.1: it must be from 0.5 to 10"),
        (["--dense-model", "larger"], "--dense-model"),
        (["--growth-share", "0.05"], "--growth-share is 0.05: it must be from 0.1 to 0.7"),
        (["--growth-share", "0.75"], "--growth-share is 0.75: it must be from 0.1 to 0.7"),
        (["--growth-interval", "0"], "--growth-interval"),
        (["--reset-epochs", "-1"], "--reset-epochs is -1.0: it must be from 0 to 999"),
        (["--reset-epochs", "1000"], "--reset-epochs is 1000.0: it must be from 0 to 999"),
        (["--weight-averaging", "-0.1"], "--weight-averaging is -0.1: it must be from 0 to 0.2"),
        (["--weight-averaging", "0.3"], "--weight-averaging is 0.3: it must be from 0 to 0.2"),
        (["--sh-decay", "-0.001"], "--sh-decay is -0.001: it must be from 0 to 0.01"),
        (["--sh-decay", "0.1"], "--sh-decay is 0.1: it must be from 0 to 0.01"),
        (["--coarse-to-fine", "yes"], "is a switch and takes no value"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_train([*BUDGET, *options])
