"""Every way in which a GPU can be missing ends with a sentence, and nothing falls back by itself."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from gns.errors import UserError
from gns.gaussian_renderer.backends import backend_of, gpu
from gns.gaussian_renderer.devices import pick_device


@dataclass
class Machine:
    """What torch and the libraries would say."""

    torch_cuda: str | None = "13.0"
    gpus: int = 2
    capability: tuple[int, int] = (9, 0)
    missing: str | None = None
    current: int | None = None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()

    def make_current(index: int) -> None:
        found.current = index

    class Version:
        cuda = property(lambda self: found.torch_cuda)

    monkeypatch.setattr(torch, "version", Version())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found.gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found.gpus)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: found.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    monkeypatch.setattr(torch.cuda, "set_device", make_current)
    monkeypatch.setattr(gpu, "missing_parts", lambda: found.missing)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    return found


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("auto", 0)])
def test_a_gpu(machine: Machine, name: str, index: int) -> None:
    assert pick_device(name) == torch.device("cuda", index)
    assert machine.current == index


def test_the_cpu_is_asked_for(machine: Machine) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert machine.current is None


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
        ("cuda", {"capability": (7, 0)}, "is Some GPU with compute capability 7.0: the CUDA renderer needs 7.5"),
        ("cuda", {"missing": "the package cuda-core is missing"}, "--device cuda: the package cuda-core is missing"),
        ("auto", {"missing": "the package cuda-core is missing"}, "--device auto: the package cuda-core is missing"),
    ],
)
def test_what_is_missing_is_named(machine: Machine, name: str, change: dict[str, None], words: str) -> None:
    vars(machine).update(change)
    with pytest.raises(UserError) as caught:
        pick_device(name)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert machine.current is None


def test_devices_are_named(machine: Machine) -> None:
    assert backend_of(torch.device("cpu")).description == "the CPU"
    assert backend_of(torch.device("cuda", 1)).description == "cuda:1 (Some GPU)"


def test_metrics_need_no_renderer(machine: Machine) -> None:
    machine.missing, machine.capability = "the package cuda-core is missing", (6, 0)
    assert pick_device("cuda:1", renders=False) == torch.device("cuda", 1)
