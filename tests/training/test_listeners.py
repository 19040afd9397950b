"""Each listener alone: what it hears, and what it does about it."""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gns.errors import UserError
from gns.gaussian_renderer import render
from gns.metrics import psnr
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene
from gns.testing.tiny import same_state, tiny_config
from gns.training.events import (
    CallbackListener,
    CheckpointSaved,
    Event,
    Finished,
    HeldOutScored,
    IterationEnded,
    ModelSaved,
    Progress,
    Remark,
    Signalled,
    Started,
    Stopped,
)
from gns.training.listeners import Bar, Checkpoints, HeldOut, Log, Models, Stop, checkpoints
from gns.training.listeners.held_out import held_out_psnr
from gns.training.loop import Trainer, train
from gns.training.state import TrainState
from gns.utils.png import from_eight_bit, to_eight_bit


@pytest.fixture
def state(scene: Scene) -> TrainState:
    return Trainer(tiny_config(), scene).begin()


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = tiny_config(tmp_path, checkpoint_iterations=(4,))
    return RunFolder.create(config.model_path, config)


def _ended(
    state: TrainState, iteration: int, *, last: bool = False, stop: bool = False, overdue: bool = False
) -> IterationEnded:
    return IterationEnded(iteration=iteration, _state=state, last=last, stop=stop, overdue=overdue)


def _progress(state: TrainState, iteration: int, losses: int = 10) -> Progress:
    return Progress(iteration=iteration, _state=state, losses=losses, loss=0.25, report={"rate": 1e-4})


# Bar


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody watches."""
    monkeypatch.setattr("gns.training.listeners.bar.is_terminal", lambda stream: True)


def test_the_bar_says_each_thing_worth_knowing(state: TrainState, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(300, 100)
    for event in (
        Started(iteration=20, _state=state),
        HeldOutScored(iteration=30, _state=state, psnr=23.456, views=2),
        ModelSaved(iteration=30, _state=state, path=Path("a/b.ply"), sha256="0123abc"),
        Remark(iteration=31, _state=state, text="something remarkable"),
        Finished(iteration=300, _state=state),
    ):
        assert list(bar.hear(event)) == []
    bar.close()
    assert capsys.readouterr().out.splitlines() == [
        "iteration 30: PSNR 23.46 dB over 2 held-out views",
        "iteration 30: 120 Gaussians in a/b.ply (SHA-256 0123abc)",
        "iteration 31: something remarkable",
    ]


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(("budget", "shown"), [(1_000, "loss 0.2500, 120/1,000 Gaussians"), (0, "120 Gaussians")])
def test_the_bar_moves_with_the_losses_that_are_known(
    state: TrainState, budget: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = Bar(300, budget)
    bar.hear(Started(iteration=20, _state=state))
    bar.hear(_progress(state, 40, losses=17))
    bar.close()
    printed = capsys.readouterr().err
    assert shown in printed and "37/300" in printed


def test_a_quiet_bar_says_how_to_go_on_and_nothing_else(
    state: TrainState, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for processes, program, command in (
        (1, "/usr/bin/gns", "gns train -m 'an output' --resume"),
        (1, "train.py", "python train.py -m 'an output' --resume"),
        (4, "train.py", "torchrun --nproc-per-node 4 train.py -m 'an output' --resume"),
    ):
        monkeypatch.setattr("sys.argv", [program])
        bar = Bar(300, 100, processes=processes, quiet=True)
        for event in (
            Started(iteration=0, _state=state),
            _progress(state, 10),
            HeldOutScored(iteration=10, _state=state, psnr=23.0, views=2),
            Remark(iteration=10, _state=state, text="something remarkable"),
            Stopped(iteration=12, _state=state, path=None),
            Stopped(iteration=12, _state=state, path=Path("an output")),
        ):
            bar.hear(event)
        bar.close()
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err == f"Stopped after iteration 12. To go on: {command}\n"


def test_plain_lines_take_its_place_where_nobody_watches(
    state: TrainState, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("gns.training.listeners.bar.time.monotonic", lambda: now)
    bar = Bar(3_000, 1_000)
    bar.hear(Started(iteration=1_000, _state=state))
    for at, iteration in ((1_004.0, 1_010), (1_010.0, 1_100), (1_020.0, 1_200), (1_041.0, 1_410)):
        now = at
        bar.hear(_progress(state, iteration))
    bar.close()
    assert capsys.readouterr().err.splitlines() == [
        "1,100 of 3,000 iterations (37%), loss 0.2500, 120/1,000 Gaussians, 10.0 a second, 03:10 left",
        "1,410 of 3,000 iterations (47%), loss 0.2500, 120/1,000 Gaussians, 10.0 a second, 02:39 left",
    ]


def test_a_bar_that_never_started_can_be_closed() -> None:
    Bar(300, 100).close()


# Checkpoints


def test_checkpoints_come_when_asked_for_overdue_or_stopped(
    state: TrainState, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Checkpoints(folder, (4,))
    moments = [
        _ended(state, 3),
        _ended(state, 4),
        _ended(state, 5, overdue=True),
        _ended(state, 6, stop=True),
        _ended(state, 7, last=True, overdue=True),  # the model is there then
    ]
    assert [listener.due(moment) for moment in moments] == [False, True, True, True, False]
    events = [event for moment in moments for event in listener.keep(moment)]
    assert [(type(event), event.iteration) for event in events] == [(CheckpointSaved, it) for it in (4, 5, 6)]
    for event in events:
        assert isinstance(event, CheckpointSaved) and event.path == folder.checkpoint_path(event.iteration)
        assert same_state(read_checkpoint(event.path), state.state_dict())


def test_a_state_that_is_not_finite_replaces_no_checkpoint(state: TrainState, folder: RunFolder) -> None:
    listener = Checkpoints(folder, (4,))
    state.population.gaussians.quats.detach()[3, 1] = float("nan")
    with pytest.raises(UserError, match="training diverged: quats are not finite after iteration 4"):
        list(listener.keep(_ended(state, 4)))
    assert folder.checkpoint_iterations() == []


def test_without_a_folder_it_only_knows_when(state: TrainState) -> None:
    checkpointing, saving = Checkpoints(None, (4,)), Models(None, (4,))
    for listener in (checkpointing, saving):
        assert listener.due(_ended(state, 4)) and not listener.due(_ended(state, 5))
        assert list(listener.keep(_ended(state, 4))) == []


def test_the_clock_asks_for_a_checkpoint_and_starts_again(
    state: TrainState, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    monkeypatch.setattr("gns.training.listeners.checkpoints.time.monotonic", lambda: now)
    monkeypatch.setattr(checkpoints, "FIRST_SECONDS", 30.0)
    listener = Checkpoints(folder, ())
    now += 29
    assert not listener.wants_checkpoint()
    now += 2  # the first comes early
    assert listener.wants_checkpoint()
    list(listener.keep(_ended(state, 5)))
    assert listener.wants_checkpoint()  # until there is one
    list(listener.keep(_ended(state, 5, overdue=True)))
    now += 299
    assert not listener.wants_checkpoint()
    now += 2
    assert listener.wants_checkpoint()


def test_checkpoints_come_by_the_clock(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(tmp_path, iterations=9)
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "FIRST_SECONDS", 0.0)
    folder = RunFolder.create(config.model_path, config)
    train(scene, config, run=folder)
    assert folder.checkpoint_iterations() == [7, 8]  # the newest two, none at the end


# Held-out scores


def test_held_out_photos_are_measured_when_asked_for_and_at_the_end(scene: Scene, state: TrainState) -> None:
    listener = HeldOut(scene, (4,))
    moments = [_ended(state, 3), _ended(state, 4), _ended(state, 5, stop=True), _ended(state, 6, last=True)]
    assert [listener.due(moment) for moment in moments] == [False, True, False, True]
    events = [event for moment in moments for event in listener.hear(moment)]
    assert [event.iteration for event in events] == [4, 6]
    for event in events:
        assert isinstance(event, HeldOutScored) and event.views == 2
        assert event.psnr == held_out_psnr(state.gaussians, scene)


def test_the_score_is_the_mean_of_the_views_on_eight_bits(scene: Scene, state: TrainState) -> None:
    scores = []
    for view in scene.test:
        image = to_eight_bit(render(view.camera, state.gaussians, torch.zeros(3)).image)
        scores.append(psnr(from_eight_bit(image), from_eight_bit(view.image)))
    assert scores[0] != scores[1]
    assert held_out_psnr(state.gaussians, scene) == pytest.approx(sum(scores) / 2, abs=1e-5)


def test_only_the_first_process_measures_and_only_where_there_is_something(scene: Scene, state: TrainState) -> None:
    silent = [HeldOut(scene, (4,), is_main=False), HeldOut(replace(scene, test=[]), (4,))]
    for listener in silent:
        assert listener.due(_ended(state, 4))  # all processes act at the same iterations
        assert list(listener.hear(_ended(state, 4))) == []


# Log


def test_the_log_has_a_record_about_every_hundred_iterations(
    state: TrainState, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, spent = 1_000.0, 20.0
    monkeypatch.setattr("gns.training.listeners.log.time.monotonic", lambda: now)
    monkeypatch.setattr("gns.training.listeners.log.time.process_time", lambda: spent)
    listener = Log(folder, 30_000)
    now, spent = 1_007.123, 32.5
    for iteration, losses in ((90, 10), (103, 13), (110, 7), (199, 10), (205, 6), (300, 10)):
        assert list(listener.hear(_progress(state, iteration, losses))) == []
    listener.hear(HeldOutScored(iteration=205, _state=state, psnr=21.5, views=2))
    times = {"seconds": 7.12, "processor_seconds": 12.5}
    record = {"loss": 0.25, "gaussians": 120, "rate": 1e-4, **times}
    assert folder.read_log() == [
        {"iteration": 103, **record},
        {"iteration": 205, **record},
        {"iteration": 300, **record},
        {"iteration": 205, "held_out_psnr": 21.5, **times},
    ]


def test_short_runs_have_as_many_records(state: TrainState, folder: RunFolder) -> None:
    listener = Log(folder, 3_000)
    for iteration in range(10, 101, 10):
        listener.hear(_progress(state, iteration))
    assert len(folder.read_log()) == 10


def test_the_log_has_each_loss_on_request(state: TrainState, folder: RunFolder) -> None:
    listener = Log(folder, 30_000, each_loss=True)
    listener.hear(replace(_progress(state, 40, 2), readings=[(39, 0.5), (40, 0.75)]))
    assert folder.read_log() == [{"iteration": 39, "raw_loss": 0.5}, {"iteration": 40, "raw_loss": 0.75}]


def test_a_session_that_goes_on_from_a_checkpoint_misses_no_birth(state: TrainState, folder: RunFolder) -> None:
    listener = Log(folder, 30_000)
    listener.hear(Started(iteration=0, _state=state))
    state.population.keep(torch.arange(120) < 100)
    listener.hear(CheckpointSaved(iteration=50, _state=state, path=Path("unused")))
    first, second = folder.read_log()
    assert first["gaussians"] == 120 and second["gaussians"] == 100 and second["deaths"] == 20


# Models


def test_models_are_saved_when_asked_for_and_at_the_end(state: TrainState, folder: RunFolder) -> None:
    listener = Models(folder, (4,))
    moments = [_ended(state, 3), _ended(state, 4), _ended(state, 5, stop=True), _ended(state, 6, last=True)]
    events = [event for moment in moments for event in listener.keep(moment)]
    assert [(type(event), event.iteration) for event in events] == [(ModelSaved, 4), (ModelSaved, 6)]
    assert folder.saved_iterations() == [4, 6]
    assert torch.equal(folder.load_model(4).means, state.gaussians.means)


# Stop

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture
def usual_handlers() -> Any:
    """Whatever a test does, the signals are handled as before afterwards."""
    handlers = [signal.getsignal(number) for number in SIGNALS]
    yield handlers
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_is_remembered_and_gives_the_signals_back(number: int, usual_handlers: list[Any]) -> None:
    stop = Stop()
    assert signal.getsignal(number) not in usual_handlers
    assert not stop.wants_stop()
    stopped = Stopped(iteration=3, _state=None, path=None)  # type: ignore[arg-type]
    assert list(stop.hear(stopped)) == []  # somebody else asked for it
    os.kill(os.getpid(), number)
    (event,) = stop.hear(stopped)
    assert isinstance(event, Signalled) and event.number == number
    assert stop.wants_stop()
    assert [signal.getsignal(number) for number in SIGNALS] == usual_handlers
    stop.close()
    assert stop.wants_stop()


def test_a_terminal_that_closes_may_say_so_twice(usual_handlers: list[Any]) -> None:
    """The system and the shell both do."""
    stop = Stop()
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGHUP)
    assert stop.wants_stop()
    stop.close()
    assert [signal.getsignal(number) for number in SIGNALS] == usual_handlers


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.usefixtures("usual_handlers")
def test_what_is_ignored_stays_ignored(number: int) -> None:
    usual = signal.signal(number, signal.SIG_IGN)  # as nohup does
    stop = Stop()
    os.kill(os.getpid(), number)
    assert not stop.wants_stop()
    stop.close()
    assert signal.getsignal(number) is signal.SIG_IGN
    signal.signal(number, usual)


@pytest.mark.usefixtures("usual_handlers")
def test_closing_gives_the_signals_back() -> None:
    stop = Stop()
    stop.close()
    stop.close()
    assert not stop.wants_stop()


@pytest.mark.usefixtures("usual_handlers")
def test_in_another_thread_signals_are_left_alone() -> None:
    found: list[bool] = []

    def use() -> None:
        stop = Stop()
        found.append(stop.wants_stop())
        stop.close()

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert found == [False]


# A plain function


def test_a_function_of_an_event_is_a_listener(state: TrainState) -> None:
    heard: list[Event] = []
    listener, event = CallbackListener(heard.append), Started(iteration=0, _state=state)
    assert list(listener.hear(event)) == [] and heard == [event]
    assert not (listener.wants_stop() or listener.wants_checkpoint() or listener.due(_ended(state, 1, last=True)))
