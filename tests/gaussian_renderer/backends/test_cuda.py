"""What a launch asks of cuda-core and torch. With the real ones: tests/cuda/test_emulated_driver.py."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from gns.gaussian_renderer.backends.cuda import NvrtcLauncher
from gns.gaussian_renderer.backends.kernel_table import Argument, Kernel

ARGUMENTS = (Argument("factor", torch.float32, ""), Argument("values", torch.float32, "[N]"))


class _Machine:
    """Stands for cuda-core and torch: what a launch asks of them, and which device is current."""

    def __init__(self) -> None:
        self.current, self.handle = 0, 77
        self.streams_made: list[int] = []
        self.launches: list[tuple[Any, ...]] = []

    def stream_of(self, handle: int) -> str:
        self.streams_made.append(handle)
        return f"stream {handle}"

    def launch(self, stream: Any, config: Any, kernel: Any, *arguments: Any) -> None:
        self.launches.append((self.current, stream, config, kernel, arguments))

    def enter(self) -> None:
        self.current = 1

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before = self.current
        yield
        self.current = before


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> _Machine:
    machine = _Machine()
    stream = type("Stream", (), {"cuda_stream": property(lambda self: machine.handle)})()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "device", machine.device)
    return machine


@pytest.fixture
def launcher(machine: _Machine, monkeypatch: pytest.MonkeyPatch) -> NvrtcLauncher:
    """A launcher for tensors on the CPU that it takes for those of the second GPU."""
    made = NvrtcLauncher.__new__(NvrtcLauncher)
    made.device = torch.device("cpu")
    made._launch, made._config, made._stream_of = machine.launch, lambda **settings: settings, machine.stream_of
    made._streams, made._kernels = {}, {"scale": "the kernel"}
    made._tables = {"scale": Kernel("scale", "scale.cu", (128, 1, 1), "1", ARGUMENTS)}
    monkeypatch.setattr(made, "_enter", machine.enter)
    return made


def test_a_launch_goes_to_torchs_stream_with_the_types_of_the_table(launcher: NvrtcLauncher, machine: _Machine) -> None:
    values = torch.zeros(4)
    launcher.launch("scale", (5, 1, 1), (128, 1, 1), (2, values))
    ((device, stream, config, kernel, arguments),) = machine.launches
    assert device == 1 and stream == "stream 77" and kernel == "the kernel"
    assert config == {"grid": (5, 1, 1), "block": (128, 1, 1)}
    assert arguments == (2.0, values.data_ptr()) and type(arguments[0]) is np.float32


def test_torchs_current_device_stays(launcher: NvrtcLauncher, machine: _Machine) -> None:
    launcher.launch("scale", (5, 1, 1), (128, 1, 1), (2.0, torch.zeros(4)))
    assert machine.launches[0][0] == 1 and machine.current == 0


def test_each_stream_is_wrapped_once(launcher: NvrtcLauncher, machine: _Machine) -> None:
    for handle in (77, 77, 0, 77, 0):
        machine.handle = handle
        launcher.launch("scale", (5, 1, 1), (128, 1, 1), (2.0, torch.zeros(4)))
    assert machine.streams_made == [77, 0]
    assert [launch[1] for launch in machine.launches] == [f"stream {handle}" for handle in (77, 77, 0, 77, 0)]


def test_wrong_arguments_do_not_reach_the_gpu(launcher: NvrtcLauncher, machine: _Machine) -> None:
    with pytest.raises(TypeError, match="factor must be a number"):
        launcher.launch("scale", (1, 1, 1), (128, 1, 1), (None, torch.zeros(4)))
    assert not machine.launches
