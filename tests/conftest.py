"""For every test: torch on one thread, as in training, so that its workers do not spin against the renderer's.

And signals that are heard: shells have what they start in the background ignore Ctrl-C, and nohup a terminal that
closes; a run rightly leaves it so.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

import pytest
import torch

from gns.gaussian_renderer import instruction_sets, use_instruction_set
from gns.testing.comparison import BACKENDS, Backend

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each way to run the production code in turn."""
    chosen: Backend = request.param
    use_instruction_set(chosen.instruction_set)
    yield chosen
    use_instruction_set(instruction_sets()[0])


@pytest.fixture(autouse=True)
def no_early_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine small runs may outlast the time until the first checkpoint by the clock."""
    monkeypatch.setattr("gns.training.listeners.checkpoints.FIRST_SECONDS", 3_600.0)


@pytest.fixture
def port() -> int:
    """A port of this machine alone that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
