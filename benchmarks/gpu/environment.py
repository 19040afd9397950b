"""What the machine is, and what it can do at most."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.gpu.bench import Bench, Result, judged, median, milliseconds
from gns.gaussian_renderer.backends import kernel_table as table
from gns.gaussian_renderer.backends.cuda import Kernels, Launcher, NvrtcLauncher, Size
from gns.gaussian_renderer.backends.kernel_table import Argument, Kernel, Launchable
from gns.gaussian_renderer.backends.nvrtc import compile_kernels

_RATES = """
extern "C" __global__ void fma_rate(int rounds, float* out) {
  float a = threadIdx.x, b = a + 1, c = a + 2, d = a + 3;
  for (int i = 0; i < rounds; ++i) {
    a = fmaf(a, 0.5f, 1.f); b = fmaf(b, 0.5f, 1.f); c = fmaf(c, 0.5f, 1.f); d = fmaf(d, 0.5f, 1.f);
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = a + b + c + d;
}
extern "C" __global__ void shuffle_rate(int rounds, float* out) {
  float a = threadIdx.x, b = a + 1, c = a + 2, d = a + 3;
  for (int i = 0; i < rounds; ++i) {
    a = __shfl_xor_sync(~0u, a, 1); b = __shfl_xor_sync(~0u, b, 2);
    c = __shfl_xor_sync(~0u, c, 4); d = __shfl_xor_sync(~0u, d, 8);
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = a + b + c + d;
}
"""


def environment(bench: Bench) -> Result:
    """What the machine is and what it can do at most."""
    launcher = judged(bench.device).kernels.launcher
    result: Result = _seconds_to_start(bench.device, launcher.arch) if isinstance(launcher, NvrtcLauncher) else {}
    source, target = (torch.empty(1 << 28, dtype=torch.uint8, device=bench.device) for _ in range(2))
    copy = median(milliseconds(bench.device, lambda: target.copy_(source), 10))
    result["copy_gigabytes_a_second"] = 2 * len(source) / copy / 1e6
    if isinstance(launcher, NvrtcLauncher):
        result |= _rates(bench.device)
    return result


def _seconds_to_start(device: torch.device, arch: str) -> Result:
    """How long it takes to compile all kernels, and to load them again from the cache on disk."""
    start = time.perf_counter()
    for source in table.SOURCES:
        compile_kernels(table.SOURCE_FOLDER / source, arch, table.COMPILE_OPTIONS, table.INCLUDE_FOLDERS)
    compiled = time.perf_counter()
    _ = Kernels(device).launcher
    return {"arch": arch, "seconds_to_compile": compiled - start, "seconds_to_load": time.perf_counter() - compiled}


def _rates(device: torch.device) -> Result:
    """Fused multiply-adds and shuffles of 32 lanes a second, in units of 1e9."""
    blocks, threads, rounds = 132 * 32, 256, 4096
    out = torch.empty(blocks * threads, device=device)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rates.cu").write_text(_RATES)
        arguments = (Argument("rounds", torch.int32, ""), Argument("out", torch.float32, "[blocks · threads]"))
        kernels = {
            name: Kernel(name, "rates.cu", (threads, 1, 1), f"{blocks}", arguments)
            for name in ("fma_rate", "shuffle_rate")
        }
        launcher = NvrtcLauncher(kernels, Path(folder), ("--std=c++17",), (), device)
        for name in kernels:
            body = _launch_of(launcher, name, (blocks, 1, 1), (threads, 1, 1), (rounds, out))
            lanes = 4 * rounds * blocks * threads
            results[f"{name}_a_warp"] = lanes / 32 / median(milliseconds(device, body, 5)) / 1e6
    return results


def _launch_of(
    launcher: Launcher, name: str, grid: Size, block: Size, args: Sequence[Launchable]
) -> Callable[[], None]:
    return lambda: launcher.launch(name, grid, block, args)
