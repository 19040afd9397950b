"""The loop on a tiny scene: exact counts, dates, bit-equal continuation, and how a run is stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gns.arguments import Config
from gns.errors import UserError
from gns.gaussian_renderer import RenderOutput
from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.backends.cpu import set_threads, thread_count
from gns.model.population import Population
from gns.rules import edge_growth
from gns.rules.edge_growth import EdgeGrowth
from gns.rules.natural_selection import NaturalSelection, SelectionOptions, SelectionState
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene, View
from gns.testing.tiny import TINY_BUDGET, TINY_ITERATIONS, same_state, tiny_config, tiny_scene
from gns.training import events, loop
from gns.training.listeners.held_out import held_out_psnr
from gns.training.loop import Trainer, train
from gns.training.state import TrainState
from tests.training.conftest import Plant


def _advance(trainer: Trainer, state: TrainState, until: int) -> dict[int, int]:
    """Train to iteration `until`; returns the count after each iteration."""
    counts = {}
    while state.iteration < until:
        trainer.advance(state)
        counts[state.iteration] = len(state.population)
    return counts


def _selection(state: TrainState) -> SelectionState:
    memory: SelectionState = state.rules["natural_selection"]
    return memory


def _selecting(final_cut: str = "multinomial", detach_pressure: bool = False) -> dict[str, Any]:
    return {"natural_selection": SelectionOptions(final_cut, detach_pressure)}


# A whole run


def test_grows_selects_and_learns(scene: Scene) -> None:
    trainer = Trainer(tiny_config(), scene)
    state = trainer.begin()
    learned = replace(scene, test=scene.train)
    before = held_out_psnr(state.gaussians, learned)
    counts = _advance(trainer, state, TINY_ITERATIONS)
    assert counts[5] == 120  # the points, until densification begins
    assert 1.5 * TINY_BUDGET < counts[149] <= 3 * TINY_BUDGET  # dense, at the end of growth
    assert TINY_BUDGET <= counts[200] < counts[160]  # pruning
    assert {counts[it] for it in range(231, 301)} == {TINY_BUDGET}
    finished_at = _selection(state).finished_at
    assert finished_at is not None and 160 < finished_at <= 230
    assert held_out_psnr(state.gaussians, learned) > before + 3


@pytest.mark.parametrize("final_cut", ["multinomial", "lowest"])
@pytest.mark.parametrize("schedule", ["standard", "fast"])
def test_exactly_the_budget(scene: Scene, schedule: str, final_cut: str) -> None:
    state = train(scene, tiny_config(schedule=schedule, rules=_selecting(final_cut)))
    assert len(state.population) == TINY_BUDGET
    assert not _selection(state).skipped


def test_a_budget_below_the_number_of_points() -> None:
    assert len(train(tiny_scene(points=390), tiny_config()).population) == TINY_BUDGET


def test_too_large_a_budget_keeps_all(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = train(scene, tiny_config(tmp_path, final_budget=100_000, iterations=100, quiet=False))
    assert _selection(state).skipped
    assert 120 < len(state.population) < 100_000
    said = capsys.readouterr().out
    assert said.count("fewer than the budget of 100,000") == 1
    assert f"only {len(state.population):,} Gaussians grew" in said


def test_detached_pressure_is_another_run(scene: Scene) -> None:
    states = [train(scene, tiny_config(rules=_selecting(detach_pressure=detach))) for detach in (False, True)]
    assert not torch.equal(states[0].population.gaussians.means, states[1].population.gaussians.means)


def test_one_training_image_and_none_held_out(tmp_path: Path) -> None:
    scene, config = tiny_scene(train_views=1, test_views=0), tiny_config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    assert len(train(scene, config, run=folder).population) > 0
    assert all("held_out_psnr" not in record for record in folder.read_log())


def test_every_date_has_its_iteration(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop against the calendar of a hundredth, written out: 300 iterations, growth to 149, selection from 150."""
    trainer = Trainer(tiny_config(), scene)
    state = trainer.begin()
    seen: dict[str, dict[int, Any]] = {}

    def spy(owner: Any, name: str, value: Callable[..., Any]) -> None:
        """Let calls of `owner.name` record `value` of their arguments under the iteration they happen in."""
        original = getattr(owner, name)

        def recorded(*arguments: Any, **named: Any) -> Any:
            seen.setdefault(name, {})[state.iteration + 1] = value(*arguments, **named)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, recorded)

    spy(loop, "render", lambda *_, sh_degree, screen_gradients, **__: (sh_degree, screen_gradients.absolute))
    spy(edge_growth, "all_but_faintest", lambda opacities, fraction: fraction)
    spy(EdgeGrowth, "observe", lambda *_: True)
    spy(Population, "reset_opacities", lambda population, ceiling: ceiling)
    spy(Population, "step", lambda population, names, rates, *_: (set(names), rates))
    spy(EdgeGrowth, "densify", lambda rule, *arguments: rule.calendar.surveys_all_views(arguments[2]))
    spy(NaturalSelection, "pressure", lambda *_: True)
    spy(NaturalSelection, "prune_mask", lambda *_: True)
    with torch.no_grad():
        state.population.gaussians.opacity_logits[7] = -4.5  # α = 0.011
    counts = _advance(trainer, state, TINY_ITERATIONS)
    finished_at = _selection(state).finished_at
    assert finished_at is not None and finished_at > 165

    assert (counts[2], counts[3]) == (120, 119)  # the early clean-up
    assert seen["render"] == {it: (min(it // 10, 1), 5 <= it <= 150) for it in range(1, 301)}
    assert seen["all_but_faintest"] == {33: 0.2, 63: 0.2}
    assert list(seen["observe"]) == list(range(5, 151))
    assert seen["reset_opacities"] == dict.fromkeys((30, 60, 90, 120), 0.05)
    assert seen["densify"] == {it: it in (34, 64) for it in range(6, 150)}
    assert list(seen["pressure"]) == list(range(151, finished_at + 1))
    assert list(seen["prune_mask"]) == list(range(160, finished_at + 1))
    rates = {it: rates for it, (_, rates) in seen["step"].items()}
    opacity_rates = {it: rate["opacity_logits"] for it, rate in rates.items()}
    assert opacity_rates == {it: 0.1 if 150 <= it < finished_at + 10 else 0.025 for it in range(1, 301)}
    assert rates[300]["means"] == pytest.approx(2e-6 * scene.extent)
    assert all(names == set(state.population.groups) for names, _ in seen["step"].values())


@pytest.mark.parametrize("iteration", [22, 161, 260])  # growing, between the pulses of selection, refining
def test_a_steady_iteration_allocates_nothing_of_size(iteration: int, scene: Scene) -> None:
    trainer = Trainer(tiny_config(iterations=30_000), scene)
    state = trainer.begin()
    state.iteration = 100 * iteration
    for _ in range(3):
        trainer.advance(state)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        trainer.advance(state)
    taken = {event.name: event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 0}
    assert taken  # the loss, a scalar: the profiler does see
    assert max(taken.values()) < 100, taken  # a number for each Gaussian would be 480 bytes, an image 14,400


def test_the_renderer_lets_go_of_its_buffers_after_selection(scene: Scene) -> None:
    trainer = Trainer(tiny_config(), scene)
    state = trainer.begin()
    backend = backend_of(torch.device("cpu"))
    while _selection(state).finished_at is None:
        assert not state.iteration or backend.kept_bytes() > 0
        trainer.advance(state)
    assert backend.kept_bytes() == 0


def test_the_second_fast_phase_starts_afresh(scene: Scene) -> None:
    """At 300 iterations the phases are 60 to 120 and 140 to 200."""
    trainer = Trainer(tiny_config(schedule="fast"), scene)
    state = trainer.begin()
    counts = _advance(trainer, state, 130)
    first = _selection(state)
    assert first.finished_at is not None and first.finished_at <= 120 and counts[first.finished_at] == TINY_BUDGET
    assert counts[130] > TINY_BUDGET
    _advance(trainer, state, 140)
    assert _selection(state) == SelectionState()
    counts = _advance(trainer, state, TINY_ITERATIONS)
    second = _selection(state)
    assert second.finished_at is not None and 140 < second.finished_at <= 200
    assert counts[second.finished_at] == TINY_BUDGET
    assert second.initial_target is not None and second.initial_target != first.initial_target


def test_masked_pixels_do_not_train(scene: Scene) -> None:
    """With everything masked the photometric gradient is zero, and so is every step of the colours."""
    mask = torch.zeros(scene.train[0].image.shape[:2], dtype=torch.bool)
    dark = replace(scene, train=[replace(view, mask=mask) for view in scene.train])
    colors = {}
    for name, one in (("dark", dark), ("light", scene)):
        trainer = Trainer(tiny_config(), one)
        state = trainer.begin()
        before = state.gaussians.sh_dc
        _advance(trainer, state, 2)
        colors[name] = torch.equal(state.gaussians.sh_dc, before)
    assert colors == {"dark": True, "light": False}


def test_options_reach_the_rules(scene: Scene) -> None:
    options = _selecting("lowest", detach_pressure=True)
    trainer = Trainer(tiny_config(schedule="fast", rules=options), scene)
    assert trainer.plan.optimisation.iterations == TINY_ITERATIONS
    growth, selection = trainer.plan.rules
    assert selection.options == options["natural_selection"]
    assert selection.run.budget == growth.run.budget == TINY_BUDGET
    assert selection.run.extent == scene.extent and list(selection.run.views) == scene.train
    assert len(selection.calendar.phases) == 2


# The same seed, threads, and continuation


def test_seed_decides_and_threads_do_not(scene: Scene) -> None:
    first, again, other = (
        train(scene, tiny_config(seed=seed, threads=threads, iterations=200))
        for seed, threads in ((0, 1), (0, 2), (1, 1))
    )
    assert same_state(first.state_dict(), again.state_dict())
    assert not torch.equal(
        first.population.gaussians.means[:TINY_BUDGET], other.population.gaussians.means[:TINY_BUDGET]
    )


def test_a_configuration_needs_no_paths(scene: Scene, undisturbed: dict[str, Any]) -> None:
    options = tiny_config()
    config = Config(**{field.name: getattr(options, field.name) for field in fields(Config)})
    assert same_state(train(scene, config).state_dict(), undisturbed)


# Before growth, within it, at its last event, at the first pulse, in selection, after the cut, between two steps.
@pytest.mark.parametrize("stop", [1, 77, 149, 151, 183, 229, 232, 299])
def test_continued_is_bit_equal(scene: Scene, undisturbed: dict[str, Any], stop: int, tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    trainer = Trainer(config, scene)
    state = trainer.begin()
    _advance(trainer, state, stop)
    folder.save_checkpoint(state.state_dict(), stop)
    del state
    continued = train(scene, replace(config, resume=True), resume_from=folder.load_checkpoint())
    assert continued.iteration == TINY_ITERATIONS
    assert same_state(continued.state_dict(), undisturbed)


def test_comparison_notices_one_bit(undisturbed: dict[str, Any]) -> None:
    population = undisturbed["population"]
    visits = population["statistics"]["visits"].clone()
    visits[3] = torch.nextafter(visits[3], torch.tensor(1e9))
    changed = {
        **undisturbed,
        "population": {**population, "statistics": {**population["statistics"], "visits": visits}},
    }
    assert not same_state(changed, undisturbed)


# Stops


def test_ctrl_c_gives_the_state_back(
    scene: Scene, undisturbed: dict[str, Any], at_loss: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    at_loss(123, lambda: os.kill(os.getpid(), signal.SIGINT))
    heard: list[events.Event] = []
    state = train(scene, tiny_config(), on_event=heard.append)
    assert state.iteration == 123
    last = next(event for event in heard if isinstance(event, events.Stopped))
    assert isinstance(last, events.Stopped) and last.iteration == 123 and last.path is None
    assert not any(isinstance(event, events.Finished) for event in heard)
    assert capsys.readouterr() == ("", "")  # there is no folder to go on from
    heard.clear()
    continued = train(scene, tiny_config(), resume_from=state, on_event=heard.append)
    assert isinstance(heard[0], events.Started) and heard[0].iteration == 123
    assert isinstance(heard[-1], events.Finished)
    assert same_state(continued.state_dict(), undisturbed)
    assert state.iteration == 123
    assert same_state(train(scene, tiny_config(), resume_from=state).state_dict(), undisturbed)  # once more


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_saves_and_tells_how_to_resume(
    number: signal.Signals,
    scene: Scene,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    at_loss: Plant,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tiny_config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    usual = signal.getsignal(number)
    at_loss(123, lambda: os.kill(os.getpid(), number))
    assert train(scene, config, run=folder).iteration == 123
    assert signal.getsignal(number) is usual
    assert folder.checkpoint_iterations() == [123]
    assert folder.saved_iterations() == []
    assert f"train.py -m {config.model_path} --resume" in capsys.readouterr().err
    continued = train(scene, config, resume_from=folder.load_checkpoint())
    assert same_state(continued.state_dict(), undisturbed)


def test_a_stop_in_the_last_iteration_is_the_end(scene: Scene, at_loss: Plant) -> None:
    at_loss(20, lambda: os.kill(os.getpid(), signal.SIGINT))
    heard: list[events.Event] = []
    assert train(scene, tiny_config(iterations=20), on_event=heard.append).iteration == 20
    assert isinstance(heard[-1], events.Finished)


def test_a_second_stop_acts_at_once(scene: Scene, tmp_path: Path, at_loss: Plant) -> None:
    usual = signal.getsignal(signal.SIGINT)

    def stop_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not usual:  # another thread may take the signal: two could be one
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    config = tiny_config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    at_loss(20, stop_twice)
    with pytest.raises(KeyboardInterrupt):
        train(scene, config, run=folder)
    assert signal.getsignal(signal.SIGINT) is usual
    assert folder.checkpoint_iterations() == []


# What is written, and when it goes wrong


def test_saves_tests_and_logs(scene: Scene, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, test_iterations=(40,), save_iterations=(50,), checkpoint_iterations=(60, 170))
    folder = RunFolder.create(config.model_path, config)
    state = train(scene, config, run=folder)
    assert folder.saved_iterations() == [50, TINY_ITERATIONS]
    assert folder.checkpoint_iterations() == [60, 170]
    assert read_checkpoint(folder.checkpoint_path(60))["iteration"] == 60
    assert torch.equal(folder.load_model(TINY_ITERATIONS).means, state.population.gaussians.means)
    records = folder.read_log()
    tested = {record["iteration"]: record["held_out_psnr"] for record in records if "held_out_psnr" in record}
    assert list(tested) == [40, TINY_ITERATIONS]
    assert tested[TINY_ITERATIONS] == pytest.approx(held_out_psnr(state.gaussians, scene))
    counts = {record["iteration"]: record["gaussians"] for record in records if "gaussians" in record}
    assert list(counts) == [*range(0, TINY_ITERATIONS + 1, 10)] and counts[TINY_ITERATIONS] == TINY_BUDGET
    rates = [record["rate"] for record in records if "rate" in record]
    assert len(rates) == 30 and rates[-1] == _selection(state).rate


def test_nothing_depends_on_who_listens(scene: Scene, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(tmp_path, test_iterations=tuple(range(10, 300, 10)), save_iterations=(5,), quiet=False)
    folder = RunFolder.create(config.model_path, config)
    assert same_state(train(scene, config, run=folder).state_dict(), undisturbed)


def test_a_loss_that_is_not_finite_is_named(scene: Scene, tmp_path: Path, at_loss: Plant) -> None:
    config = tiny_config(tmp_path, checkpoint_iterations=(70,))
    folder = RunFolder.create(config.model_path, config)
    state = Trainer(config, scene).begin()
    names = [scene.train[state.sampler.next()].camera.name for _ in range(83)]
    at_loss(83, lambda: torch.tensor(torch.nan))
    with pytest.raises(UserError, match=rf"view {names[-1]} at iteration 83 is not finite.*iteration_70\.pt"):
        train(scene, config, run=folder)
    assert folder.checkpoint_iterations() == [70]
    assert folder.saved_iterations() == []


def test_a_diverged_state_is_never_saved(scene: Scene, tmp_path: Path, at_loss: Plant) -> None:
    config = tiny_config(tmp_path, checkpoint_iterations=(83,), save_iterations=(83,))
    folder = RunFolder.create(config.model_path, config)
    at_loss(82, lambda: torch.tensor(torch.inf))
    with pytest.raises(UserError, match="iteration 82 is not finite"):
        train(scene, config, run=folder)
    assert folder.checkpoint_iterations() == folder.saved_iterations() == []


def test_a_parameter_that_is_not_finite_stops_the_run_and_is_named(scene: Scene, tmp_path: Path) -> None:
    """Its Gaussian is not drawn, so that no loss tells of it."""
    config = tiny_config(tmp_path, checkpoint_iterations=(70, 90))
    folder = RunFolder.create(config.model_path, config)
    state = Trainer(config, scene).begin()
    name = [scene.train[state.sampler.next()].camera.name for _ in range(83)][-1]
    seen = 0

    def spoiling(output: RenderOutput, view: View) -> Tensor:
        nonlocal seen
        seen += 1
        # Zero, with a gradient that is not a number at iteration 83.
        return (0 * output.image.sum()).abs().sqrt() * 0 if seen == 83 else torch.tensor(0.0)

    sentence = rf"are not finite after an iteration of 81 to 8., which learned from .*{name}.*iteration_70\.pt"
    with pytest.raises(UserError, match=sentence):
        train(scene, config, run=folder, losses=[spoiling])
    assert folder.checkpoint_iterations() == [70]


def test_quiet_is_silent(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    train(scene, tiny_config(iterations=20))
    assert capfd.readouterr() == ("", "")


# What a run leaves behind in the process


@pytest.fixture
def unusual_threads() -> Any:
    """Numbers of threads that no run would choose."""
    torchs, ours = torch.get_num_threads(), thread_count()
    torch.set_num_threads(3)
    set_threads(2)
    yield
    torch.set_num_threads(torchs)
    set_threads(ours)


class Mishap(Exception):
    """What a callback may raise."""


@pytest.mark.usefixtures("unusual_threads")
@pytest.mark.parametrize("kind", [events.Started, events.IterationEnded, events.HeldOutScored, events.Finished, None])
def test_signals_and_threads_are_as_before_however_a_run_ends(scene: Scene, kind: type[events.Event] | None) -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    during: list[tuple[int, int]] = []

    def callback(event: events.Event) -> None:
        during.append((torch.get_num_threads(), thread_count()))
        if kind and isinstance(event, kind):
            raise Mishap

    if kind is None:
        train(scene, tiny_config(iterations=3), on_event=callback)
    else:
        with pytest.raises(Mishap):
            train(scene, tiny_config(iterations=3), on_event=callback)
    assert set(during) == {(1, 1)}
    assert (torch.get_num_threads(), thread_count()) == (3, 2)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
