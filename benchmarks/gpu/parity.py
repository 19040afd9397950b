"""Kernel by kernel on the CPU from the same input, then picture by picture against both judges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.bench import CPU, Bench, Failed, Result, crowd, judged
from benchmarks.gpu.comparing import MOST_DIFFERENT, against_cpu, against_reference, iterate, poisoned
from gns.gaussian_renderer.backends import kernel_table as kernels
from gns.gaussian_renderer.backends.cuda import Launcher, Size
from gns.gaussian_renderer.backends.kernel_table import Launchable
from gns.testing.examples import EXAMPLES, example_of
from gns.testing.shim import ShimLauncher, compiler

PAIR_TOLERANCE = 1e-3  # of the largest entry; beyond it an entry differs
EXACT = ("emit", "ranges")  # kernels whose arithmetic IEEE 754 settles to the last bit


def parity(bench: Bench) -> Result:
    """Kernel by kernel, then picture by picture."""
    result: Result = {"launches": _launch_parity(bench), "pictures": {}}
    for name in bench.examples:
        with poisoned(bench.device):
            result["pictures"][name] = against_reference(bench, EXAMPLES[name]())
    for count, width, height in (bench.pictured, (bench.timed[0], *bench.size)):
        camera, gaussians = crowd(count, width, height, CPU)
        with poisoned(bench.device):
            result["pictures"][f"{count:,} at {width}×{height}"] = against_cpu(bench, camera, gaussians)
    return result


def _launch_parity(bench: Bench) -> Result:
    """Whole iterations under `Mirror`. Skipped, and said so, without a C++ compiler."""
    if compiler() is None:
        return {"skipped": "no C++ compiler: the kernels cannot be repeated on the CPU"}
    real = judged(bench.device).kernels
    mirror = Mirror(real.launcher, ShimLauncher())
    scenes = [EXAMPLES[name]() for name in bench.examples]
    scenes.append(example_of(*crowd(*bench.mirrored, CPU)))
    with mock.patch.object(real, "launcher", mirror):
        for scene in scenes:
            for observed in (True, False):
                with poisoned(bench.device):
                    iterate(scene, bench.device, steps=2, observed=observed)
    figures = {
        key: {"differ": mirror.worst[key], "largest": mirror.largest[key]}
        for key in sorted(mirror.worst)
        if mirror.largest[key] > 0
    }
    result: Result = {"scenes": len(scenes), "tolerance": PAIR_TOLERANCE, "arrays": len(mirror.worst), "off": figures}
    faults = [key for key, share in mirror.worst.items() if share > (0 if key.startswith(EXACT) else MOST_DIFFERENT)]
    if faults:
        raise Failed(f"differ from the same kernel run on the CPU: {', '.join(faults)}", result)
    return result


class Mirror:
    """A launcher that repeats every launch on the CPU from the same input, and compares every array afterwards."""

    def __init__(self, real: Launcher, twin: Launcher) -> None:
        self._real, self._twin = real, twin
        self.worst: dict[str, float] = {}  # by "kernel.argument": share of entries that differ
        self.largest: dict[str, float] = {}  # … and the largest difference, in units of the largest entry

    def launch(self, name: str, grid: Size, block: Size, args: Sequence[Launchable]) -> None:
        """Run the kernel on both."""
        copies = [argument.cpu().clone() if isinstance(argument, Tensor) else argument for argument in args]
        self._real.launch(name, grid, block, args)
        self._twin.launch(name, grid, block, copies)
        for wanted, found, twin in zip(kernels.KERNELS[name].arguments, args, copies, strict=True):
            if isinstance(found, Tensor) and isinstance(twin, Tensor) and found.numel():
                self._note(f"{name}.{wanted.name}", found.cpu(), twin)

    def _note(self, key: str, found: Tensor, twin: Tensor) -> None:
        if found.is_floating_point():
            scale = twin.nan_to_num(0, 0, 0).abs().max().clamp(min=1e-30)
            same = (found == twin) | (found.isnan() & twin.isnan())
            off = torch.where(same, 0.0, ((found - twin) / scale).abs()).nan_to_num(math.inf)
        else:
            off = (found != twin).double()
        share = (off > PAIR_TOLERANCE).double().mean().item()
        self.worst[key] = max(self.worst.get(key, 0.0), share)
        self.largest[key] = max(self.largest.get(key, 0.0), off.max().item())
