"""benchmarks/gpu_verify.py, small and with kernels that run on the CPU: it must not trip in its first minute on a GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import gpu_verify
from benchmarks.gpu_verify import BLOCKS, Bench, Failed, Mirror, Result, main, print_table, run_block
from gns.gaussian_renderer import cuda
from tests.cuda.shim import ShimLauncher, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="runs the CUDA kernels through a C++ compiler: install g++")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    launcher = ShimLauncher()
    monkeypatch.setattr(cuda, "runs_on", lambda device: True)
    monkeypatch.setattr(cuda, "launcher", lambda device: launcher)
    some = ("15x17, degree 0", "no Gaussians", "opaque stacks")
    everything = gpu_verify.EXAMPLES
    monkeypatch.setattr(gpu_verify, "EXAMPLES", {name: everything[name] for name in (*some, *EDGE_EXAMPLES)})
    yield Bench(
        device=torch.device("cpu"),
        out=tmp_path,
        scene=None,
        timed=(300, 500),
        size=(50, 40),
        rounds=2,
        synthetic=(4, 32, 24, 300),
        beside_cpu=4,
        alone=100,
        vast=(64, 48),
        pile=300,
        mirrored=(100, 40, 30),
        pictured=(200, 64, 35),
    )
    cuda._idle.clear()


EDGE_EXAMPLES = ("all outside the view", "all behind", "one giant", "equal depths")


@pytest.mark.parametrize("name", ["environment", "smoke", "parity", "determinism", "edge_cases", "training", "timing"])
def test_passes(bench: Bench, name: str) -> None:
    record = run_block(name, bench, {"gpu": "none"})
    assert record["passed"], record
    assert json.loads((bench.out / f"{name}.json").read_text()) == json.loads(json.dumps(record))
    print_table([record])
