"""--viewer: it sees everything, costs nothing where nobody looks, and changes nothing."""

from __future__ import annotations

import socket
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from gns.errors import UserError
from gns.testing.tiny import same_state, tiny_config, tiny_scene
from gns.training.events import Event, IterationEnded, Started
from gns.training.loop import train
from gns.training.state import TrainState
from gns.viewer import window as window_module
from gns.viewer.window import HOST, Window, check_port, splat_arrays, viser_or_sentence

pytest.importorskip("viser")

from gns.training.listeners import viewer as viewer_module
from gns.training.listeners.viewer import Viewer

SCENE = tiny_scene()


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is always connected, and may be shown a model at any time."""
    monkeypatch.setattr(Window, "visitors", 1)
    monkeypatch.setattr(viewer_module, "SHARE", 1e9)
    monkeypatch.setattr(viewer_module, "_SHORTEST", 0.0)


def trained(on_event: Any, iterations: int = 24, **options: Any) -> TrainState:
    return train(SCENE, tiny_config(iterations=iterations, **options), on_event=on_event)


class Watched(Viewer):
    """Counts what it shows, and has a photo beside its render."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(SCENE, port, quiet=True, **options)
        self.shown: list[int] = []

    def hear(self, event: Event) -> Any:
        effects = super().hear(event)
        if isinstance(event, Started):
            self._chosen.value = SCENE.train[1].camera.name
        if isinstance(event, IterationEnded) and self._shown_at == event.iteration:
            self.shown.append(event.iteration)
        return effects


def test_a_run_that_is_watched_ends_in_the_same_bits(port: int, visited: None) -> None:
    viewer, plain = Watched(port), trained(None).state_dict()
    watched = trained(viewer)
    assert viewer.shown == list(range(1, 25))  # every moment was looked at
    assert same_state(watched.state_dict(), plain)
    assert not same_state(trained(meddling).state_dict(), plain)
    assert viewer._picture.image.shape[1] == 640 and np.asarray(viewer._picture.image).std() > 5
    assert viewer._plots._points[-1][0] == 24
    assert viewer._plots._loss.scales["x"]["range"] == (0, 24)


def meddling(event: Event) -> None:
    """What a viewer must not do: move one Gaussian by a hair."""
    if event.iteration == 12 and isinstance(event, IterationEnded):
        event._state.population.gaussians.means.data[0, 0] += 1e-6


def test_without_visitors_nothing_is_read(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = vars(TrainState)["gaussians"].fget

    def counted(state: TrainState) -> Any:
        read.append(state.iteration)
        return whole(state)

    monkeypatch.setattr(TrainState, "gaussians", property(counted))
    trained(Watched(port))
    assert read == [0, 24]  # to know where to stand; and for the held-out photos, with or without a viewer


def test_what_it_costs_decides_when_it_shows_again(port: int, visited: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_module, "SHARE", 1e-9)
    viewer = Watched(port)
    trained(viewer, iterations=20)
    assert viewer.shown == [1, 2] or viewer.shown == [1]  # the choice of a photo asks for another at once


def test_a_pause_holds_the_run_until_the_button_or_a_stop(port: int, visited: None) -> None:
    asked = threading.Event()
    viewer = Watched(port, asked_to_stop=asked.is_set)
    runs = threading.Thread(target=trained, args=(viewer,))
    viewer._paused.set()
    runs.start()
    wait_for(lambda: viewer._shown_at == 1)
    time.sleep(0.2)
    assert viewer._shown_at == 1
    viewer._pause_or_go_on(None)
    runs.join(60)
    assert viewer._shown_at == 24

    again = Watched(port, asked_to_stop=asked.is_set)
    again._paused.set()
    asked.set()
    trained(again, iterations=5)
    assert again._shown_at == 5


def wait_for(condition: Any) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_team_may_not_pause(port: int) -> None:
    viewer = Watched(port, may_pause=False)
    trained(viewer, iterations=2)
    assert not hasattr(viewer, "_button")


def test_a_port_that_is_taken_is_a_sentence(port: int) -> None:
    with socket.socket() as other:
        other.bind((HOST, port))
        other.listen()
        with pytest.raises(UserError, match=f"port {port} cannot be had"):
            check_port(port)
        with pytest.raises(UserError, match=f"port {port} cannot be had"):
            trained(Watched(port), iterations=2)
    check_port(port)


def test_the_server_is_gone_after_the_run_and_only_this_machine_reached_it(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts: list[str] = []

    def noted(event: Event) -> None:
        if isinstance(event, IterationEnded):
            hosts.append(viewer._window.server.get_host())  # type: ignore[union-attr]

    viewer = Watched(port)
    heard = viewer.hear

    def both(event: Event) -> Any:
        noted(event)
        return heard(event)

    monkeypatch.setattr(viewer, "hear", both)
    trained(viewer, iterations=2)
    assert set(hosts) == {"127.0.0.1"}
    check_port(port)


def test_without_viser_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(UserError, match=r'pip install "\.\[viewer\]"'):
        viser_or_sentence()


def test_what_viser_draws_is_the_model() -> None:
    gaussians = trained(None, iterations=2).gaussians
    arrays = splat_arrays(gaussians, 3.0, 0.0)
    assert np.allclose(arrays["centers"], 3 * gaussians.means.numpy())
    # The determinant of a covariance is the product of the variances, whatever the rotation.
    variances = np.exp(2 * gaussians.log_scales.double().numpy()) * 9
    assert np.allclose(np.linalg.det(arrays["covariances"].astype(np.float64)), variances.prod(axis=1), rtol=1e-2)
    assert np.allclose(np.trace(arrays["covariances"], axis1=1, axis2=2), variances.sum(axis=1), rtol=1e-4)
    middle = float(gaussians.opacities.median())
    assert len(splat_arrays(gaussians, 3.0, middle)["centers"]) == int((gaussians.opacities >= middle).sum())
    assert window_module._extent(gaussians) > 0
