"""Which events a run has, in which order, who is let go of, and that none of those who hear them can change it."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gns.errors import UserError
from gns.run_folder import RunFolder
from gns.scene import Scene
from gns.testing.tiny import TINY_BUDGET, TINY_ITERATIONS, same_state, tiny_config
from gns.training import losses
from gns.training.events import (
    CheckpointSaved,
    Event,
    Finished,
    HeldOutScored,
    IterationEnded,
    Listener,
    ModelSaved,
    Progress,
    Remark,
    Started,
    Stopped,
)
from gns.training.loop import Trainer, train
from gns.training.recorder import SMOOTHING, Recorder
from gns.training.state import TrainState
from tests.training.test_losses import LaterReadback


class Watcher(Listener):
    """Remembers what it hears, and raises or asks for what it is told to."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.closed = 0
        self.raising: tuple[type[Event], BaseException] | None = None
        self.stop_at: int | None = None
        self.due_at: Sequence[int] = ()

    def hear(self, event: Event) -> Iterable[Event]:
        self.heard.append(event)
        if self.raising and isinstance(event, self.raising[0]):
            raise self.raising[1]
        return ()

    def due(self, moment: IterationEnded) -> bool:
        return moment.iteration in self.due_at

    def wants_stop(self) -> bool:
        return self.stop_at is not None and max(event.iteration for event in self.heard) + 1 >= self.stop_at

    def close(self) -> None:
        self.closed += 1

    def of(self, *kinds: type[Event]) -> list[tuple[str, int]]:
        """Names and iterations of the events of these kinds."""
        return [(type(event).__name__, event.iteration) for event in self.heard if isinstance(event, kinds)]


class Rules:
    """A plan of rules without a method."""

    rules: tuple[Any, ...] = ()


def _state(scene: Scene, rules: Sequence[Any] = ()) -> TrainState:
    state = Trainer(tiny_config(), scene).begin()
    if rules:
        plan: Any = Rules()
        plan.rules = tuple(rules)
        state.plan, state.rules = plan, {rule.name: rule.begin() for rule in rules}
    return state


def _live(recorder: Recorder, state: TrainState, until: int, losses: Sequence[float] = ()) -> None:
    """Let iterations pass, with the given losses and then 0.1."""
    while state.iteration < until and not recorder.stopped:
        it = state.iteration + 1
        state.iteration = it
        recorder.add_loss(it, [f"{it}.png"], torch.tensor(losses[it - 1] if it <= len(losses) else 0.1))
        recorder.after_iteration()


# The order of events


def test_events_come_in_order(scene: Scene, tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, iterations=60, test_iterations=(25,), save_iterations=(25, 33), checkpoint_iterations=(25, 40)
    )
    folder = RunFolder.create(config.model_path, config)
    heard: list[Event] = []
    train(scene, config, run=folder, on_event=heard.append)
    told = [(type(event), event.iteration) for event in heard if not isinstance(event, Progress | IterationEnded)]
    at_25 = [type(event) for event in heard if event.iteration == 25]
    assert at_25 == [Progress, IterationEnded, HeldOutScored, ModelSaved, CheckpointSaved]
    assert told == [
        (Started, 0),
        (HeldOutScored, 25),
        (ModelSaved, 25),
        (CheckpointSaved, 25),
        (ModelSaved, 33),
        (CheckpointSaved, 40),
        (HeldOutScored, 60),
        (ModelSaved, 60),
        (Finished, 60),
    ]
    assert [event.iteration for event in heard] == sorted(event.iteration for event in heard)
    ended = [event for event in heard if isinstance(event, IterationEnded)]
    assert [event.iteration for event in ended] == list(range(1, 61))
    assert [event.iteration for event in ended if event.last] == [60]
    progress = [event for event in heard if isinstance(event, Progress)]
    # Losses are read every ten iterations, and before anything is kept.
    assert [(event.iteration, event.losses) for event in progress] == [
        (10, 10),
        (20, 10),
        (25, 5),
        (33, 8),
        (40, 7),
        (50, 10),
        (60, 10),
    ]
    assert all("rate" in event.report for event in progress)
    paths = [event.path for event in heard if isinstance(event, ModelSaved | CheckpointSaved)]
    assert all(path.exists() for path in paths) and len(set(paths)) == len(paths) == 5
    (scored,) = [event for event in heard if isinstance(event, HeldOutScored) and event.iteration == 25]
    assert scored.views == 2 and 5 < scored.psnr < 50


def test_an_event_shows_the_moment(scene: Scene) -> None:
    """Model and count are those of the state when the event is heard, and stay when they were asked for then."""
    counts, models = {}, {}

    def watch(event: Event) -> None:
        if isinstance(event, Started | IterationEnded):
            counts[event.iteration] = event.count
            if event.iteration in (0, 1):
                models[event.iteration] = event.gaussians

    state = train(scene, tiny_config(iterations=60), on_event=watch)
    assert counts[0] == 120 and max(counts.values()) > 150 and counts[60] == len(state.population) == TINY_BUDGET
    assert len(models[0]) == len(models[1]) == 120
    assert not torch.equal(models[0].means, models[1].means)


def test_what_an_event_led_to_is_heard_by_all(scene: Scene) -> None:
    class Answering(Watcher):
        def hear(self, event: Event) -> Iterable[Event]:
            super().hear(event)
            if isinstance(event, IterationEnded):
                yield event.then(Remark, text="ended")
            if isinstance(event, Remark) and event.text == "ended":
                yield event.then(Remark, text="said so")

    first, second, state = Answering(), Watcher(), _state(scene)
    with Recorder(state, 10, [first, second]).listening() as recorder:
        _live(recorder, state, 2)
    for listener in (first, second):  # each of them hears of causes before effects
        told = [event.text if isinstance(event, Remark) else event.iteration for event in listener.heard[1:-1]]
        assert [entry for entry in told if entry] == [1, "ended", "said so", 2, "ended", "said so"]


def test_the_loss_is_smoothed_from_one_reading_to_the_next(scene: Scene) -> None:
    watcher, state = Watcher(), _state(scene)
    with Recorder(state, 100, [watcher]).listening() as recorder:
        _live(recorder, state, 30, [1.0] * 10 + [2.0] * 10 + [4.0] * 10)
    heard = [event for event in watcher.heard if isinstance(event, Progress)]
    expected = [1.0, SMOOTHING * 1 + (1 - SMOOTHING) * 2]
    expected.append(SMOOTHING * expected[1] + (1 - SMOOTHING) * 4)
    assert [event.loss for event in heard] == pytest.approx(expected)
    assert [event.losses for event in heard] == [10, 10, 10]


class Talker:
    """A rule that counts for itself how often it was asked, and has one thing to say after a while."""

    def __init__(self, name: str, after: int) -> None:
        self.name = name
        self._after = after

    def begin(self) -> None:
        return None

    def report(self, memory: None) -> dict[str, float]:
        return {f"{self.name} after": self._after}

    def remark(self, memory: None, population: Any) -> str | None:
        self._after -= 1
        return f"{self.name} speaks" if self._after < 0 else None


def test_rules_report_every_time_and_remark_once(scene: Scene) -> None:
    watcher, state = Watcher(), _state(scene, [Talker("one", 0), Talker("two", 2)])
    with Recorder(state, 100, [watcher]).listening() as recorder:
        _live(recorder, state, 50)
    remarks = [(event.iteration, event.text) for event in watcher.heard if isinstance(event, Remark)]
    assert remarks == [(10, "one speaks"), (30, "two speaks")]
    reports = [event.report for event in watcher.heard if isinstance(event, Progress)]
    assert len(reports) == 5 and all(set(report) == {"one after", "two after"} for report in reports)


# The end, whichever it is


@pytest.mark.parametrize("kind", [Started, IterationEnded, Progress, Finished])
@pytest.mark.parametrize("error", [UserError("a sentence"), ZeroDivisionError(), KeyboardInterrupt()])
def test_what_a_listener_raises_ends_the_run_and_all_are_closed(
    scene: Scene, kind: type[Event], error: BaseException
) -> None:
    watcher, bystander, state = Watcher(), Watcher(), _state(scene)
    watcher.raising = (kind, error)
    with (
        pytest.raises(type(error)) as caught,
        Recorder(state, 12, [bystander, watcher]).listening() as recorder,
    ):
        _live(recorder, state, 12)
    assert caught.value is error
    assert (watcher.closed, bystander.closed) == (1, 1)


@pytest.mark.parametrize("error", [UserError("a sentence"), ZeroDivisionError(), KeyboardInterrupt()])
def test_what_the_loop_raises_closes_all(scene: Scene, error: BaseException) -> None:
    watcher = Watcher()
    with pytest.raises(type(error)), Recorder(_state(scene), 12, [watcher]).listening():
        raise error
    assert watcher.closed == 1 and not watcher.of(Finished, Stopped)


def test_all_are_closed_at_the_end_and_after_a_stop(scene: Scene) -> None:
    watcher, state = Watcher(), _state(scene)
    with Recorder(state, 3, [watcher]).listening() as recorder:
        _live(recorder, state, 3)
        assert watcher.closed == 0
    assert watcher.closed == 1 and watcher.of(Finished, Stopped) == [("Finished", 3)]
    watcher, state = Watcher(), _state(scene)
    watcher.stop_at = 2
    with Recorder(state, 3, [watcher]).listening() as recorder:
        _live(recorder, state, 3)
    assert watcher.closed == 1 and watcher.of(Finished, Stopped) == [("Stopped", 2)]
    assert recorder.stopped and state.iteration == 2


def test_a_mishap_after_a_divergence_is_reported_as_the_divergence(scene: Scene) -> None:
    """A diverged model may fail at something else before its losses are read."""
    state = _state(scene)
    with (
        pytest.raises(UserError, match=r"loss of view 3\.png at iteration 3 is not finite"),
        Recorder(state, 100, [Watcher()]).listening() as recorder,
    ):
        _live(recorder, state, 5, [0.1, 0.1, math.nan])
        raise UserError("no Gaussian is left")


def test_losses_are_read_before_anything_is_kept(scene: Scene) -> None:
    watcher, state = Watcher(), _state(scene)
    watcher.due_at = [4]
    with (
        pytest.raises(UserError, match="iteration 4 is not finite"),
        Recorder(state, 100, [watcher]).listening() as recorder,
    ):
        _live(recorder, state, 8, [0.1, 0.1, 0.1, math.inf])
    assert watcher.of(IterationEnded)[-1] == ("IterationEnded", 3)


def test_on_a_gpu_the_first_loss_that_diverged_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "Readback", LaterReadback)
    state = _state(scene)
    with (
        pytest.raises(UserError, match=r"loss of view 3\.png at iteration 3 is not finite"),
        Recorder(state, 100, []).listening() as recorder,
    ):
        _live(recorder, state, 30, [0.1, 0.1, *[math.nan] * 28])
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

    add_loss = Recorder.add_loss

    def adding(recorder: Recorder, it: int, *arguments: Any) -> None:
        nonlocal now
        now = it
        add_loss(recorder, it, *arguments)

    monkeypatch.setattr(losses, "Readback", Queue)
    monkeypatch.setattr(Recorder, "add_loss", adding)
    config = tiny_config(tmp_path, iterations=25)
    train(scene, config, run=RunFolder.create(config.model_path, config))
    # Ten losses, and the sum of the parameters.
    assert calls == [("send 11", 10), ("wait", 20), ("send 11", 20), ("wait", 25), ("send 6", 25), ("wait", 25)]


# Nobody who listens can change a run


def test_a_callback_cannot_change_a_run(scene: Scene, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """It scribbles over all it is given, draws random numbers everywhere, and takes its time."""

    def meddle(event: Event) -> None:
        gaussians = event.gaussians
        for _, values in gaussians.named_tensors():
            values.fill_(torch.nan)
        gaussians.means = torch.zeros(0, 3)
        if isinstance(event, Progress) and isinstance(event.report, dict):
            event.report.clear()
        if isinstance(event, ModelSaved):
            event.path.unlink()
        torch.manual_seed(event.iteration)
        torch.rand(3)
        random.seed(event.iteration)
        np.random.seed(event.iteration)  # noqa: NPY002
        time.sleep(1e-4)

    config = tiny_config(tmp_path, test_iterations=(100,), save_iterations=(50, 100), checkpoint_iterations=(60,))
    folder = RunFolder.create(config.model_path, config)
    state = train(scene, config, run=folder, on_event=meddle)
    assert same_state(state.state_dict(), undisturbed)
    assert folder.saved_iterations() == []  # it did meddle
    assert len([record for record in folder.read_log() if "rate" in record]) == 30  # the log was written before


def test_a_run_is_the_same_with_and_without_a_callback(scene: Scene, undisturbed: dict[str, Any]) -> None:
    heard: list[Event] = []
    assert same_state(train(scene, tiny_config(), on_event=heard.append).state_dict(), undisturbed)
    assert len([event for event in heard if isinstance(event, IterationEnded)]) == TINY_ITERATIONS
