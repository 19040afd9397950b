"""Every way in which a GPU can be missing ends with a sentence, and nothing falls back by itself."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from gns.errors import UserError
from gns.gaussian_renderer import devices
from gns.gaussian_renderer.backends import IN_USE, backend_of, cuda
from gns.gaussian_renderer.devices import pick_device

GROWING = "expandable_segments:True"


@dataclass
class Machine:
    """What torch and the libraries would say, and what was asked of them."""

    torch_cuda: str | None = "13.0"
    gpus: int = 2
    missing: str | None = None
    kernel: str = "6.8.0-45-generic"
    no_growing: bool = False  # the driver cannot reserve addresses
    memory_error: type[RuntimeError] | None = None
    current: int | None = None
    steps: list[str] = field(default_factory=list)
    allocator: str = ""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()

    def make_current(index: int) -> None:
        found.current = index

    def empty(*size: int, device: torch.device) -> None:
        found.steps.append("memory")
        if found.memory_error is not None:
            raise found.memory_error("CUDA error: all devices are busy\nCompile with ...")
        if found.no_growing and (found.allocator or os.environ.get("PYTORCH_CUDA_ALLOC_CONF")) == GROWING:
            raise RuntimeError("CUDA driver error: unknown error")

    def set_allocator(setting: str) -> None:
        found.allocator = setting

    class Launcher:
        def __init__(self, *arguments: Any) -> None:
            found.steps.append("kernels")
            if found.missing is not None:
                raise UserError(found.missing)

    class Version:
        cuda = property(lambda self: found.torch_cuda)

    monkeypatch.setattr(torch, "version", Version())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found.gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found.gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    monkeypatch.setattr(torch.cuda, "set_device", make_current)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", set_allocator, raising=False)
    monkeypatch.setattr(cuda, "NvrtcLauncher", Launcher)
    monkeypatch.setattr(platform, "release", lambda: found.kernel)
    for device in [device for device in IN_USE if device.type == "cuda"]:
        monkeypatch.delitem(IN_USE, device)
    for variable in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        monkeypatch.setenv(variable, "")  # so that it is as before when the test has ended
        monkeypatch.delenv(variable)
    return found


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("auto", 0)])
def test_a_gpu(machine: Machine, name: str, index: int) -> None:
    assert pick_device(name) == torch.device("cuda", index)
    assert machine.current == index
    assert machine.steps == ["memory", "kernels"]  # driver and compiler are tried at once
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == GROWING


def test_the_cpu_is_asked_for(machine: Machine) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert machine.current is None and not machine.steps


@pytest.mark.parametrize("change", [{"torch_cuda": None}, {"gpus": 0}])
def test_auto_is_the_cpu_without_a_gpu(machine: Machine, change: dict[str, None]) -> None:
    vars(machine).update(change)
    assert pick_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("cuda", {"torch_cuda": None}, "--device cuda needs a torch with CUDA"),
        ("cuda:1", {"gpus": 0}, "--device cuda:1 finds no NVIDIA GPU, or no driver for CUDA 13.0"),
        ("cuda:2", {}, "--device cuda:2 does not exist: torch sees 2 GPUs, cuda:0 to cuda:1"),
        ("cuda:1", {"gpus": 1}, "torch sees one GPU, cuda:0"),
        ("cuda", {"missing": "the package cuda-core is missing"}, "--device cuda: the package cuda-core is missing"),
        ("auto", {"missing": "the package cuda-core is missing"}, "--device auto: the package cuda-core is missing"),
        ("cuda", {"memory_error": RuntimeError}, "--device cuda gives no memory (CUDA error: all devices are busy)"),
        ("cuda", {"memory_error": torch.cuda.OutOfMemoryError}, "whether another program holds the GPU"),
    ],
)
def test_what_is_missing_is_named(machine: Machine, name: str, change: dict[str, Any], words: str) -> None:
    vars(machine).update(change)
    with pytest.raises(UserError) as caught:
        pick_device(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert machine.current is None


# Memory that can grow


@pytest.mark.parametrize("kernel", ["5.15.153.1-microsoft-standard-WSL2", "4.4.0-19041-Microsoft", "5.15.148-tegra"])
def test_segments_do_not_grow_on_wsl_and_jetson(machine: Machine, kernel: str) -> None:
    machine.kernel, machine.no_growing = kernel, True
    pick_device("cuda")
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ and not machine.allocator
    assert machine.steps.count("memory") == 1


def test_segments_do_not_grow_where_a_first_allocation_fails(machine: Machine) -> None:
    machine.no_growing = True
    assert pick_device("cuda") == torch.device("cuda", 0)
    assert machine.allocator == "expandable_segments:False" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
    assert machine.steps.count("memory") == 2


@pytest.mark.parametrize("variable", ["PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_what_the_user_asks_of_the_allocator_stays(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "max_split_size_mb:64")
    pick_device("cuda")
    assert {name: os.environ[name] for name in devices._ALLOCATOR if name in os.environ} == {
        variable: "max_split_size_mb:64"
    }
    assert not machine.allocator


def test_torch_that_does_not_know_numpy_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch 2.2 does with numpy 2, on the CPU as well."""

    def strange(array: Any) -> None:
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "from_numpy", strange)
    monkeypatch.setattr(torch, "__version__", "2.2.2")
    monkeypatch.setattr(np, "__version__", "2.0.0")
    with pytest.raises(UserError, match=r"torch 2\.2\.2 does not work with numpy 2\.0\.0.*pip install 'numpy<2'"):
        pick_device("cpu")


def test_devices_are_named(machine: Machine) -> None:
    assert backend_of(torch.device("cpu")).description == "the CPU"
    assert backend_of(torch.device("cuda", 1)).description == "cuda:1 (Some GPU)"


def test_metrics_need_no_renderer(machine: Machine) -> None:
    machine.missing = "the package cuda-core is missing"
    assert pick_device("cuda:1", renders=False) == torch.device("cuda", 1)
    assert machine.steps == ["memory"]
