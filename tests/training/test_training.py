"""The loop on a tiny scene: exact counts, bit-equal continuation, and what happens when something goes wrong."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gns.arguments import TrainConfig
from gns.cli import run
from gns.cli import train as train_command
from gns.errors import UserError
from gns.gaussian_renderer import ScreenGradients, render
from gns.gaussian_renderer.backends import backend_of
from gns.losses.photometric import photometric_loss
from gns.model.population import Population
from gns.rules.calendar import SCHEDULES, STANDARD, StepPeriod
from gns.rules.edge_growth import Densification
from gns.rules.natural_selection import NaturalSelection, SelectionState
from gns.run_folder import RunFolder
from gns.scene import Camera, Gaussians, PointCloud, Scene, View
from gns.testing.scene_files import small_scene, write_colmap
from gns.training import loop as training
from gns.training import recorder as journal
from gns.training.loop import Trainer, TrainState, run_training, train
from gns.utils.png import to_eight_bit
from gns.utils.readback import Readback

WIDTH, HEIGHT = 40, 30
BUDGET = 100
ITERATIONS = 300  # a hundredth of the natural length


def _camera(index: int, count: int) -> Camera:
    """One of `count` cameras on an arc, 4 units from the origin."""
    angle = 0.8 * (index / max(1, count - 1) - 0.5)
    pose = np.eye(4)
    cos, sin = math.cos(angle), math.sin(angle)
    pose[:3, :3] = np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])
    pose[2, 3] = 4.0
    return Camera(WIDTH, HEIGHT, 40.0, 40.0, WIDTH / 2, HEIGHT / 2, pose, f"{index:02d}.png")


def _scene(train_views: int = 4, test_views: int = 2, points: int = 120) -> Scene:
    """Photos of 400 small Gaussians, and a few rough points to start from."""
    generator = torch.Generator().manual_seed(0)
    truth = Gaussians(
        means=2 * torch.rand(400, 3, generator=generator) - 1,
        log_scales=torch.full((400, 3), math.log(0.06)),
        quats=torch.randn(400, 4, generator=generator),
        opacity_logits=torch.full((400,), 2.0),
        sh_dc=torch.randn(400, 1, 3, generator=generator),
        sh_rest=torch.zeros(400, 0, 3),
    )
    count = train_views + test_views
    views = []
    for index in range(count):
        camera = _camera(index, count)
        views.append(View(camera, to_eight_bit(render(camera, truth, torch.zeros(3)).image)))
    chosen = torch.randperm(400, generator=generator)[:points]
    cloud = PointCloud(truth.means[chosen].double().numpy(), np.full((points, 3), 128, np.uint8))
    return Scene("tiny", views[:train_views], views[train_views:], cloud, extent=1.5, background=(0.0, 0.0, 0.0))


def _config(folder: Path = Path("unused"), **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        "source_path": folder / "scene",
        "model_path": folder / "model",
        "final_budget": BUDGET,
        "iterations": ITERATIONS,
        "sh_degree": 1,
        "threads": 1,
        "quiet": True,
        "test_iterations": (-1,),
    }
    return TrainConfig(**{**options, **changes})


@pytest.fixture(scope="module")
def scene() -> Scene:
    return _scene()


def _same(first: Any, second: Any) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


def _advance(trainer: Trainer, state: TrainState, until: int) -> dict[int, int]:
    """Train to iteration `until`; returns the count after each iteration."""
    counts = {}
    while state.iteration < until:
        trainer.advance(state)
        counts[state.iteration] = len(state.population)
    return counts


# A whole run


def test_grows_selects_and_learns(scene: Scene) -> None:
    config = _config()
    trainer, state = Trainer(config, scene), TrainState.begin(config, scene)
    learned = replace(scene, test=scene.train)
    before = journal.held_out_psnr(state.population.gaussians, learned)
    counts = _advance(trainer, state, ITERATIONS)
    assert counts[5] == 120  # the points, until densification begins
    assert 1.5 * BUDGET < counts[149] <= 3 * BUDGET  # dense, at the end of growth
    assert BUDGET <= counts[200] < counts[160]  # deaths
    assert {counts[it] for it in range(231, 301)} == {BUDGET}
    settled = state.selection.settled
    assert settled is not None and 160 < settled <= 230
    assert journal.held_out_psnr(state.population.gaussians, learned) > before + 3


@pytest.mark.parametrize("final_cut", ["multinomial", "lowest"])
@pytest.mark.parametrize("schedule", ["standard", "fast"])
def test_exactly_the_budget(scene: Scene, schedule: str, final_cut: str) -> None:
    state = train(_config(schedule=schedule, final_cut=final_cut), scene)
    assert len(state.population) == BUDGET
    assert not state.selection.skipped


def test_a_budget_below_the_number_of_points(scene: Scene) -> None:
    assert len(train(_config(), _scene(points=390)).population) == BUDGET


def test_too_large_a_budget_keeps_all(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = _config(tmp_path, final_budget=100_000, iterations=100, quiet=False)
    state = train(config, scene)
    assert state.selection.skipped
    assert 120 < len(state.population) < 100_000
    said = capsys.readouterr().out
    assert said.count("fewer than the budget of 100,000") == 1
    assert f"only {len(state.population):,} Gaussians grew" in said


def test_detached_pressure_is_another_run(scene: Scene) -> None:
    states = [train(_config(detach_pressure=detach), scene) for detach in (False, True)]
    assert not torch.equal(states[0].population.gaussians.means, states[1].population.gaussians.means)


def test_one_training_image_and_none_held_out(tmp_path: Path) -> None:
    scene, config = _scene(train_views=1, test_views=0), _config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    assert len(train(config, scene, folder).population) > 0
    assert all("held_out_psnr" not in record for record in folder.read_log())


def test_every_event_has_its_iteration(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop against the calendar of a hundredth, written out: 300 iterations, growth to 149, a contest from 150."""
    config = _config()
    trainer, state = Trainer(config, scene), TrainState.begin(config, scene)
    seen: dict[str, dict[int, Any]] = {}

    def spy(owner: Any, name: str, value: Callable[..., Any]) -> None:
        """Let calls of `owner.name` record `value` of their arguments under the iteration they happen in."""
        original = getattr(owner, name)

        def recorded(*arguments: Any, **named: Any) -> Any:
            seen.setdefault(name, {})[state.iteration + 1] = value(*arguments, **named)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, recorded)

    spy(training, "render", lambda *_, sh_degree, screen_gradients, **__: (sh_degree, screen_gradients))
    spy(training, "all_but_faintest", lambda opacities, fraction: fraction)
    spy(Population, "observe", lambda *_: True)
    spy(Population, "reset_opacities", lambda population, ceiling: ceiling)
    spy(Population, "step", lambda population, names, rates, merged: rates)
    spy(Densification, "densify", lambda *_, survey_all, **__: survey_all)
    spy(NaturalSelection, "penalty", lambda *_: True)
    spy(NaturalSelection, "living", lambda *_: True)
    with torch.no_grad():
        state.population.gaussians.opacity_logits[7] = -4.5  # α = 0.011
    counts = _advance(trainer, state, ITERATIONS)
    settled = state.selection.settled
    assert settled is not None and settled > 165

    assert (counts[2], counts[3]) == (120, 119)  # the early clean-up
    assert seen["render"] == {it: (min(it // 10, 1), ScreenGradients(5 <= it <= 150)) for it in range(1, 301)}
    assert seen["all_but_faintest"] == {33: 0.2, 63: 0.2}
    assert list(seen["observe"]) == list(range(5, 151))
    assert seen["reset_opacities"] == dict.fromkeys((30, 60, 90, 120), 0.05)
    assert seen["densify"] == {it: it in (34, 64) for it in range(6, 150)}
    assert list(seen["penalty"]) == list(range(151, settled + 1))
    assert list(seen["living"]) == list(range(160, settled + 1))
    opacity_rates = {it: rates["opacity_logits"] for it, rates in seen["step"].items()}
    assert opacity_rates == {it: 0.1 if 150 <= it < settled + 10 else 0.025 for it in range(1, 301)}
    assert seen["step"][300]["means"] == pytest.approx(2e-6 * scene.extent)


@pytest.mark.parametrize("iteration", [22, 161, 260])  # growing, between the contest's pulses, refining
def test_a_steady_iteration_allocates_nothing_of_size(iteration: int, scene: Scene) -> None:
    config = _config(iterations=30_000)
    trainer, state = Trainer(config, scene), TrainState.begin(config, scene)
    state.iteration = 100 * iteration
    for _ in range(3):
        trainer.advance(state)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        trainer.advance(state)
    taken = {event.name: event.self_cpu_memory_usage for event in profile.events() if event.self_cpu_memory_usage > 0}
    assert taken  # the loss, a scalar: the profiler does see
    assert max(taken.values()) < 100, taken  # a number for each Gaussian would be 480 bytes, an image 14,400


def test_the_renderer_lets_go_of_its_buffers_after_the_contest(scene: Scene) -> None:
    config = _config()
    trainer, state = Trainer(config, scene), TrainState.begin(config, scene)
    backend = backend_of(torch.device("cpu"))
    while state.selection.settled is None:
        assert not state.iteration or backend.kept_bytes() > 0
        trainer.advance(state)
    assert backend.kept_bytes() == 0


def test_the_second_fast_round_starts_afresh(scene: Scene) -> None:
    """At 300 iterations the rounds are 60 to 120 and 140 to 200."""
    config = _config(schedule="fast")
    trainer, state = Trainer(config, scene), TrainState.begin(config, scene)
    counts = _advance(trainer, state, 130)
    first = state.selection
    assert first.settled is not None and first.settled <= 120 and counts[first.settled] == BUDGET
    assert counts[130] > BUDGET
    _advance(trainer, state, 140)
    assert state.selection == SelectionState()
    counts = _advance(trainer, state, ITERATIONS)
    second = state.selection
    assert second.settled is not None and 140 < second.settled <= 200 and counts[second.settled] == BUDGET
    assert second.prior is not None and second.prior != first.prior


def test_masked_pixels_do_not_train(scene: Scene) -> None:
    """With everything masked the photometric gradient is zero, and so is every step of the colours."""
    dark = replace(
        scene, train=[replace(view, mask=torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)) for view in scene.train]
    )
    config = _config()
    state = TrainState.begin(config, dark)
    colors = state.population.gaussians.sh_dc.detach().clone()
    _advance(Trainer(config, dark), state, 2)
    assert torch.equal(state.population.gaussians.sh_dc, colors)
    state = TrainState.begin(config, scene)
    _advance(Trainer(config, scene), state, 2)
    assert not torch.equal(state.population.gaussians.sh_dc, colors)


# The same seed, threads, and continuation


def test_seed_decides_and_threads_do_not(scene: Scene) -> None:
    first, again, other = (
        train(_config(seed=seed, threads=threads, iterations=200), scene) for seed, threads in ((0, 1), (0, 2), (1, 1))
    )
    assert _same(first.state_dict(), again.state_dict())
    assert not torch.equal(first.population.gaussians.means[:BUDGET], other.population.gaussians.means[:BUDGET])


@pytest.fixture(scope="module")
def _summed_gradients() -> Any:
    """A schedule of ITERATIONS whose optimiser sums gradients at the end, which a scaled one does not do so short."""
    periods = (StepPeriod(200, 1, 1), StepPeriod(240, 3, 3), StepPeriod(ITERATIONS, 7, 14))
    patch = pytest.MonkeyPatch()
    patch.setitem(SCHEDULES, "standard", replace(STANDARD.scaled(ITERATIONS), step_periods=periods))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def uninterrupted(scene: Scene, _summed_gradients: None) -> dict[str, Any]:
    state: dict[str, Any] = train(_config(), scene).state_dict()
    return state


# Before growth, within it, at its last event, at the first pulse, in the contest, after the cut, between two steps.
@pytest.mark.parametrize("stop", [1, 77, 149, 151, 183, 229, 232, 299])
def test_continued_is_bit_equal(scene: Scene, uninterrupted: dict[str, Any], stop: int, tmp_path: Path) -> None:
    config = _config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    state = TrainState.begin(config, scene)
    _advance(Trainer(config, scene), state, stop)
    folder.save_checkpoint(state.state_dict(), stop)
    del state
    continued = train(replace(config, resume=True), scene, checkpoint=folder.load_checkpoint())
    assert continued.iteration == ITERATIONS
    assert _same(continued.state_dict(), uninterrupted)


def test_comparison_notices_one_bit(uninterrupted: dict[str, Any]) -> None:
    changed = {**uninterrupted, "population": {**uninterrupted["population"]}}
    visits = changed["population"]["visits"].clone()
    visits[3] = torch.nextafter(visits[3], torch.tensor(1e9))
    changed["population"]["visits"] = visits
    assert not _same(changed, uninterrupted)


def test_a_checkpoint_of_another_scene_or_degree_is_refused(scene: Scene) -> None:
    saved = TrainState.begin(_config(), scene).state_dict()
    with pytest.raises(UserError, match="4 training views and the scene has 5"):
        train(_config(), _scene(train_views=5), checkpoint=saved)
    with pytest.raises(UserError, match="--sh-degree 1, not 2"):
        train(_config(sh_degree=2), scene, checkpoint=saved)
    with pytest.raises(UserError, match="does not fit"):
        train(_config(), scene, checkpoint={"iteration": 3})


# What is written, and when it goes wrong


def test_saves_tests_and_logs(scene: Scene, tmp_path: Path) -> None:
    config = _config(tmp_path, test_iterations=(40,), save_iterations=(50,), checkpoint_iterations=(60, 170))
    folder = RunFolder.create(config.model_path, config)
    state = train(config, scene, folder)
    assert folder.saved_iterations() == [50, ITERATIONS]
    assert folder.checkpoint_iterations() == [60, 170]
    assert folder.load_checkpoint(folder.checkpoint_path(60))["iteration"] == 60
    assert torch.equal(folder.load_model(ITERATIONS).means, state.population.gaussians.means)
    records = folder.read_log()
    tested = {record["iteration"]: record["held_out_psnr"] for record in records if "held_out_psnr" in record}
    assert list(tested) == [40, ITERATIONS]
    assert tested[ITERATIONS] == pytest.approx(journal.held_out_psnr(state.population.gaussians, scene))
    counts = {record["iteration"]: record["gaussians"] for record in records if "gaussians" in record}
    assert list(counts) == [100, 200, ITERATIONS] and counts[ITERATIONS] == BUDGET


def test_nothing_depends_on_the_journal(scene: Scene, uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    config = _config(tmp_path, test_iterations=tuple(range(10, 300, 10)), save_iterations=(5,), quiet=False)
    assert _same(train(config, scene, RunFolder.create(config.model_path, config)).state_dict(), uninterrupted)


def _after(monkeypatch: pytest.MonkeyPatch, iteration: int, action: Callable[[], Tensor | None]) -> None:
    """Let `action` happen in the loss of `iteration`; a tensor that it returns is the loss from then on."""
    calls = 0

    def replacement(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        loss = photometric_loss(*arguments)
        replaced = action() if calls == iteration else None
        return loss if replaced is None else loss * replaced

    monkeypatch.setattr("gns.training.loop.photometric_loss", replacement)


class LaterReadback(Readback):
    """From a device that does its work later, as a GPU does."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.queued = True


def test_on_a_gpu_the_first_loss_that_diverged_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "Readback", LaterReadback)
    config = _config()
    state = TrainState.begin(config, scene)
    with (
        pytest.raises(UserError, match=r"loss of view a\.png at iteration 3 is not finite"),
        journal.Journal(config, scene, None, state) as chronicle,
    ):
        for it in range(1, 30):
            state.iteration = it
            chronicle.note(it, ["a.png"], torch.tensor(math.nan if it >= 3 else 0.1))
            chronicle.record()
    assert state.iteration == 20  # the losses of the first ten are looked at ten iterations later


def test_on_a_gpu_losses_are_waited_for_ten_iterations_later(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []
    now = 0

    class Queue(LaterReadback):
        def start(self, numbers: Tensor) -> None:
            calls.append((f"send {len(numbers)}", now))
            super().start(numbers)

        def finish(self) -> Tensor:
            calls.append(("wait", now))
            return super().finish()

    def note(it: int, *arguments: Any) -> None:
        nonlocal now
        now = it
        noted(it, *arguments)

    config = _config(tmp_path, iterations=25)
    folder, state = RunFolder.create(config.model_path, config), TrainState.begin(config, scene)
    monkeypatch.setattr(journal, "Readback", Queue)
    trainer = Trainer(config, scene)
    with journal.Journal(config, scene, folder, state) as chronicle:
        noted = chronicle.note
        while state.iteration < config.iterations:
            trainer.advance(state, note)
            chronicle.record()
    assert calls == [("send 10", 10), ("wait", 20), ("send 10", 20), ("wait", 25), ("send 5", 25), ("wait", 25)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_saves_and_tells_how_to_resume(
    number: signal.Signals,
    scene: Scene,
    uninterrupted: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = _config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    usual = signal.getsignal(number)
    with monkeypatch.context() as patch:
        _after(patch, 123, lambda: os.kill(os.getpid(), number))
        with pytest.raises(KeyboardInterrupt):
            train(config, scene, folder)
    assert signal.getsignal(number) is usual
    assert folder.checkpoint_iterations() == [123]
    assert f"train.py -m {config.model_path} --resume" in capsys.readouterr().err
    continued = train(config, scene, checkpoint=folder.load_checkpoint())
    assert _same(continued.state_dict(), uninterrupted)


def test_a_second_stop_acts_at_once(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    config = _config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    _after(monkeypatch, 20, stop_twice)
    with pytest.raises(KeyboardInterrupt):
        train(config, scene, folder)
    assert folder.checkpoint_iterations() == []


def test_a_loss_that_is_not_finite_is_named(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path, checkpoint_iterations=(70,))
    folder = RunFolder.create(config.model_path, config)
    state = TrainState.begin(config, scene)
    names = [Trainer(config, scene).scene.train[state.sampler.next()].camera.name for _ in range(83)]
    _after(monkeypatch, 83, lambda: torch.tensor(torch.nan))
    with pytest.raises(UserError, match=rf"view {names[-1]} at iteration 83 is not finite.*iteration_70\.pt"):
        train(config, scene, folder)
    assert folder.checkpoint_iterations() == [70]
    assert folder.saved_iterations() == []


def test_a_diverged_state_is_never_saved(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path, checkpoint_iterations=(83,), save_iterations=(83,))
    folder = RunFolder.create(config.model_path, config)
    _after(monkeypatch, 82, lambda: torch.tensor(torch.inf))
    with pytest.raises(UserError, match="iteration 82 is not finite"):
        train(config, scene, folder)
    assert folder.checkpoint_iterations() == folder.saved_iterations() == []


def test_checkpoints_come_by_the_clock(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path, iterations=9)
    monkeypatch.setattr(journal, "CHECKPOINT_SECONDS", 0.0)
    folder = RunFolder.create(config.model_path, config)
    train(config, scene, folder)
    assert folder.checkpoint_iterations() == [7, 8]  # the newest two, none at the end


def test_quiet_is_silent(scene: Scene, capfd: pytest.CaptureFixture[str]) -> None:
    train(_config(iterations=20), scene)
    assert capfd.readouterr() == ("", "")


# The command


def _arguments(tmp_path: Path, *more: str) -> list[str]:
    folders = ["-s", str(tmp_path / "scene"), "-m", str(tmp_path / "model")]
    return [*folders, "--final-budget", "100", "--iterations", "60", "--sh_degree", "1", "--threads", "1", *more]


def test_the_command_trains_resumes_and_knows_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    with monkeypatch.context() as patch:
        _after(patch, 33, lambda: os.kill(os.getpid(), signal.SIGINT))
        assert run(train_command, _arguments(tmp_path)) == 130
    assert (tmp_path / "model" / "checkpoints" / "iteration_33.pt").exists()
    assert run(train_command, ["-m", str(tmp_path / "model"), "--resume"]) == 0
    assert run(train_command, _arguments(tmp_path, "-m", str(tmp_path / "whole"), "--quiet")) == 0
    model = "point_cloud/iteration_60/point_cloud.ply"
    assert (tmp_path / "model" / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()
    cameras = json.loads((tmp_path / "model" / "cameras.json").read_text())
    assert len(cameras) == 9 and (tmp_path / "model" / "input.ply").exists()
    capsys.readouterr()
    assert run(train_command, ["-m", str(tmp_path / "model"), "--resume"]) == 0
    assert "is finished" in capsys.readouterr().out


def test_the_command_starts_from_a_checkpoint(tmp_path: Path) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    assert run(train_command, _arguments(tmp_path, "--quiet", "--checkpoint_iterations", "20")) == 0
    checkpoint = str(tmp_path / "model" / "checkpoints" / "iteration_20.pt")
    started = ["-m", str(tmp_path / "second"), "--start_checkpoint", checkpoint, "--quiet"]
    assert run(train_command, _arguments(tmp_path, *started)) == 0
    model = "point_cloud/iteration_60/point_cloud.ply"
    assert (tmp_path / "model" / model).read_bytes() == (tmp_path / "second" / model).read_bytes()


def test_a_checkpoint_past_the_end_is_refused(scene: Scene) -> None:
    saved = {**TrainState.begin(_config(), scene).state_dict(), "iteration": 300}
    with pytest.raises(UserError, match=r"iteration 300.*--iterations"):
        train(_config(iterations=100), scene, checkpoint=saved)


def test_run_training_refuses_a_missing_scene(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run_training(_config(tmp_path))


def test_a_device_that_cannot_train_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--device cuda"):
        run_training(_config(tmp_path, device="cuda"))
    assert not (tmp_path / "model").exists()


def test_selector_and_schedule_come_from_the_options(scene: Scene) -> None:
    trainer = Trainer(_config(schedule="fast", final_cut="lowest", detach_pressure=True), scene)
    assert trainer.selector == NaturalSelection(BUDGET, "lowest", True)
    assert len(trainer.when.phases) == 2 and trainer.when.iterations == ITERATIONS
