"""benchmarks/gpu_verify.py, small, its kernels run on the CPU: it must not trip in its first minute on a GPU."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import gpu_verify
from benchmarks.gpu import sanitizer
from benchmarks.gpu.bench import Bench, Result
from benchmarks.gpu.parity import Mirror
from benchmarks.gpu_verify import BLOCKS, main, print_table, run_block
from gns.gaussian_renderer.backends import IN_USE
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.gaussian_renderer.devices import pick_device
from gns.testing.shim import ShimLauncher, compiler

EXAMPLES = (
    "15x17, degree 0",
    "no Gaussians",
    "opaque stacks",
)

pytestmark = pytest.mark.skipif(compiler() is None, reason="runs the CUDA kernels through a C++ compiler: install g++")


CPU = torch.device("cpu")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bench]:
    launcher = ShimLauncher()
    monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, launcher))
    yield Bench(
        device=torch.device("cpu"),
        out=tmp_path,
        scene=None,
        examples=EXAMPLES,
        timed=(300, 500),
        size=(50, 40),
        rounds=2,
        synthetic=(4, 32, 24, 240),
        beside_cpu=3,
        alone=60,
        vast=(64, 48),
        pile=300,
        mirrored=(100, 40, 30),
        pictured=(200, 64, 35),
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here: nothing was run on one")
@pytest.mark.parametrize("name", ["smoke", "parity", "determinism", "edge_cases"])
def test_passes_on_a_gpu(name: str, tmp_path: Path) -> None:
    record = run_block(name, Bench(pick_device("cuda"), tmp_path, None, timed=(20_000,), beside_cpu=20), {})
    assert record["passed"], record


@pytest.mark.parametrize("name", ["environment", "smoke", "parity", "determinism", "edge_cases", "training", "timing"])
def test_passes(bench: Bench, name: str) -> None:
    record = run_block(name, bench, {"gpu": "none"})
    assert record["passed"], record
    assert json.loads((bench.out / f"{name}.json").read_text()) == json.loads(json.dumps(record))
    print_table([record])


def _ordinary_rasterization(**request: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """gsplat's function as far as the benchmark calls it: a picture that depends on everything."""
    assert request["sh_degree"] == 3 and request["colors"].shape[1:] == (16, 3)
    assert request["viewmats"].shape == (1, 4, 4) and request["Ks"].shape == (1, 3, 3)
    names = ("means", "quats", "scales", "opacities", "colors")
    level = torch.stack([request[name].mean() for name in names]).sum().sigmoid()
    picture = level.expand(1, request["height"], request["width"], 3)
    return picture, picture[..., :1], {}


def _install_gsplat(monkeypatch: pytest.MonkeyPatch, kernels: object | None) -> None:
    package = SimpleNamespace(rasterization=_ordinary_rasterization, __version__="0")
    monkeypatch.setitem(sys.modules, "gsplat", package)
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=kernels))


def test_gsplat_stands_beside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that gives gsplat 6 and 4.5 ms and gns 3 ms: faster by 1.5 than the better of the two."""
    times = iter([6.0, 4.5, 3.0])

    def timed(device: torch.device, body: Callable[[], Any], rounds: int) -> list[float]:
        body()
        return [next(times)] * rounds

    _install_gsplat(monkeypatch, kernels=object())
    monkeypatch.setattr("benchmarks.gpu.gsplat.milliseconds", timed)
    monkeypatch.setattr("benchmarks.gpu.timing.milliseconds", timed)
    record = run_block("gsplat", bench, {})
    assert record["passed"], record
    assert record["result"]["iteration with torch fused Adam"] == 6.0
    assert record["result"]["gns is faster by"] == 1.5


def test_gsplat_without_a_toolkit_is_skipped(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can then be imported, but its first kernel is an attribute of None."""
    _install_gsplat(monkeypatch, kernels=None)
    record = run_block("gsplat", bench, {})
    assert record["passed"] is None and "no CUDA toolkit (nvcc)" in record["skipped"]


def test_gsplat_that_does_not_build_is_skipped_with_the_reason(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    _install_gsplat(monkeypatch, kernels=object())
    imported = importlib.import_module

    def failing(name: str) -> Any:
        if name == "gsplat.cuda._backend":
            raise RuntimeError("Error building extension 'gsplat_cuda'")
        return imported(name)

    monkeypatch.setattr(importlib, "import_module", failing)
    record = run_block("gsplat", bench, {})
    assert record["passed"] is None and "Error building extension 'gsplat_cuda'" in record["skipped"]


TORCH_HIT = """\
========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::vectorized_elementwise_kernel<(int)4>(int)+0x2a0
=========     by thread (0,0,0) in block (0,0,0)
=========     Device Frame: __nv_static_blend (helper.h:12) [0x10]
=========
========= ERROR SUMMARY: 1 error
"""
OUR_HIT = """\
========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at blend_backward+0x1f0 in blend_backward.cu:71
=========     by thread (3,0,0) in block (1,0,0)
========= ERROR SUMMARY: 1 error
"""
OLD_HIT = OUR_HIT.replace(
    "blend_backward+0x1f0 in blend_backward.cu:71", "0x1f0 in blend_backward.cu:71:blend_backward"
)
TOOL = """#!/bin/sh
case "$2" in
    memcheck) printf '%s' "$MEMCHECK"; exit "$STATUS" ;;
    racecheck) exec sleep 100 ;;
esac
"""


@pytest.mark.parametrize(
    ("log", "status", "passed"),
    [("", 0, True), (TORCH_HIT, 9, True), (OUR_HIT, 9, False), (OLD_HIT, 9, False), ("", 1, False), ("", 9, False)],
    ids=["clean", "torch's", "ours", "ours, old tool", "the block fails", "unknown"],
)
def test_the_sanitizers_hits_are_told_apart_and_a_slow_tool_is_skipped(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: str, status: int, passed: bool
) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    monkeypatch.setattr(sanitizer, "_program", lambda: str(tool))
    monkeypatch.setattr(sanitizer, "PATIENCE", 0.5)
    monkeypatch.setenv("MEMCHECK", log)
    monkeypatch.setenv("STATUS", str(status))
    record = run_block("sanitizer", bench, {})
    assert record["passed"] is passed
    found = record["result"]
    assert found["racecheck"] == {"skipped": "it had not ended after 0.5 s"}
    assert found["memcheck"]["fault"] is not passed and not found["synccheck"]["fault"]
    assert len(found["memcheck"]["notes, of kernels that are not ours"]) == (log == TORCH_HIT)


def test_absent_tools_are_no_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.sanitizer._program", lambda: None)
    monkeypatch.setitem(sys.modules, "gsplat", None)
    for name, word in (("sanitizer", "compute-sanitizer"), ("gsplat", "gsplat"), ("photos", "no scene")):
        record = run_block(name, bench, {})
        assert record["passed"] is None and word in record["skipped"]
        assert json.loads((bench.out / f"{name}.json").read_text())["passed"] is None


PLANTED = {
    "splat_math.h": ("R(T(kMaxAlpha))", "R(T(0.7))", ("blend", "score")),
    "adam_math.h": ("fma(f.beta2,", "fma(f.beta1,", ("adam",)),
}


@pytest.mark.parametrize("file", PLANTED)
def test_a_fault_is_pinned_to_its_kernel(bench: Bench, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    old, new, kernels = PLANTED[file]
    faulty = ShimLauncher(edits={file: lambda text: text.replace(old, new)})
    monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, faulty))
    record = run_block("parity", bench, {})
    assert record["passed"] is False
    named = {name.split(".")[0] for name in record["error"].split(": ")[1].split(", ")}
    assert named and all(name.startswith(kernels) for name in named), record["error"]
    assert record["result"]["off"], "a failure carries its figures"


def test_a_wobbling_launcher_is_not_deterministic(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    true = ShimLauncher()
    calls = iter(range(1, 1_000_000))

    class Wobbling:
        def launch(self, name: str, grid: Any, block: Any, args: Any) -> None:
            true.launch(name, grid, block, args)
            if name == "blend_backward_screen" and args[-1].numel():
                args[-1][0, 0] += 1e-6 * next(calls)

    monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, Wobbling()))
    record = run_block("determinism", bench, {})
    assert record["passed"] is False and "not the same bits" in record["error"]


def test_a_block_that_breaks_leaves_its_trace_and_the_others_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(bench: Bench) -> Result:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setitem(BLOCKS, "smoke", broken)
    monkeypatch.setitem(BLOCKS, "parity", lambda bench: {"figure": 1})
    monkeypatch.setattr(gpu_verify, "pick_device", lambda name: torch.device("cpu"))
    assert main(["--only", "smoke", "parity", "--out", str(bench.out)]) == 1
    found = json.loads((bench.out / "smoke.json").read_text())
    assert found["passed"] is False and "illegal memory access" in found["error"] and "broken" in found["trace"]
    assert json.loads((bench.out / "parity.json").read_text())["passed"] is True
    assert "FAILED" in capsys.readouterr().out


def test_mirror_counts_a_nan_as_a_difference() -> None:
    class Writer:
        def __init__(self, value: float) -> None:
            self._value = value

        def launch(self, name: str, grid: Any, block: Any, args: Any) -> None:
            args[-1].fill_(self._value)

    for value, share in ((1.0, 0.0), (1.0005, 0.0), (1.01, 1.0), (math.nan, 1.0)):
        mirror = Mirror(Writer(value), Writer(1.0))
        counts, begin = (torch.zeros(4, dtype=torch.int32) for _ in range(2))
        arguments = (4, counts, begin, torch.zeros(4), torch.zeros(4))
        mirror.launch("sum_scores", (1, 1, 1), (256, 1, 1), arguments)
        assert mirror.worst["sum_scores.importance"] == share, value
