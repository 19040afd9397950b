"""Verify and time the CUDA backend on an NVIDIA GPU: `python benchmarks/gpu_verify.py [--only BLOCK ...] [--out DIR]`.

Under nine minutes, for a machine that is lent for a moment. Blocks run in this order; each writes DIR/BLOCK.json when
it ends, whatever becomes of the next one, and a table comes last:

* `environment`  GPU, driver, versions, time to compile the kernels; copy bandwidth, FMA and shuffle rates
* `smoke`        one small image forward and backward against the reference
* `parity`       every kernel launch of whole iterations repeated on the CPU from the same input: names the kernel and
                 argument at fault; then pictures and gradients against the CPU backend
* `determinism`  the same iterations twice, and with any foreseen number of instances: equal bits
* `sanitizer`    compute-sanitizer's four tools on `smoke`, where it is installed
* `edge_cases`   nothing to draw, broken parameters, giants, stacks, very many tiles: against the CPU backend
* `training`     200 iterations beside the CPU backend, then 2000 alone
* `timing`       each stage and the whole iteration, 0.6 and 1.8 million Gaussians at 1.6 megapixels; memory
* `gsplat`       the same Gaussians, camera, loss and optimiser work with gsplat, where it is installed
* `photos`       a short run on photos (--scene), where they are there

Exit status 1 if a block failed. A block whose tools are absent says so and counts as skipped.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gns.arguments import TrainConfig, parse_train
from gns.gaussian_renderer import ScreenGradients, reference, render
from gns.gaussian_renderer.autograd import planes_of
from gns.gaussian_renderer.backends import IN_USE, backend_of, gpu
from gns.gaussian_renderer.backends import kernel_table as kernels
from gns.gaussian_renderer.backends.cpu import CpuBackend
from gns.gaussian_renderer.backends.cuda import Launcher, NvrtcLauncher, Size
from gns.gaussian_renderer.backends.forecast import Forecast
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.gaussian_renderer.backends.kernel_table import Launchable
from gns.gaussian_renderer.backends.protocol import RenderInputs
from gns.gaussian_renderer.devices import pick_device
from gns.losses.photometric import photometric_loss
from gns.model.adam import AdamGroup, AdamTensors, adam_step
from gns.model.population import Population
from gns.rules.calendar import GROUPS
from gns.scene import Camera, Gaussians, PointCloud, Scene, View
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.examples import EXAMPLES, Example, camera_at, converted, example_of, gaussians_seen
from gns.training.loop import Trainer, TrainState, train
from gns.training.memory import training_bytes
from gns.training.recorder import held_out_psnr
from gns.utils.png import to_eight_bit
from gns.utils.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
SEED = 0


class Skipped(Exception):
    """A block cannot run here, for a reason that is no fault."""


@dataclass(frozen=True)
class Bench:
    """Where a block runs and how large it gets; tests make it small."""

    device: torch.device
    out: Path
    scene: Path | None
    timed: tuple[int, ...] = (600_000, 1_800_000)  # Gaussians
    size: tuple[int, int] = (1600, 1000)  # pixels
    rounds: int = 50
    synthetic: tuple[int, int, int, int] = (16, 320, 240, 3000)  # views, pixels across and down, Gaussians
    beside_cpu: int = 200  # iterations
    alone: int = 2000
    photo_iterations: int = 3000
    vast: tuple[int, int] = (4112, 2064)  # pixels of an image with more tiles than an int16 can number
    pile: int = 20_000  # Gaussians in one tile
    mirrored: tuple[int, int, int] = (4000, 320, 180)  # Gaussians and pixels of the largest scene repeated on the CPU
    pictured: tuple[int, int, int] = (20_000, 640, 359)  # the same of a scene that the CPU backend judges


Result = dict[str, Any]


def _backend(device: torch.device) -> GpuBackend:
    """The backend that is judged here."""
    backend = backend_of(device)
    assert isinstance(backend, GpuBackend)
    return backend


class Failed(Exception):
    """A block found what must not be; carries its figures."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


# Environment and smoke

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
    start = time.perf_counter()
    launcher = _backend(bench.device).kernels.launcher
    result: Result = {"seconds_to_compile_or_load": time.perf_counter() - start}
    source, target = (torch.empty(1 << 28, dtype=torch.uint8, device=bench.device) for _ in range(2))
    copy = _median(_milliseconds(bench.device, lambda: target.copy_(source), 10))
    result["copy_gigabytes_a_second"] = 2 * len(source) / copy / 1e6
    if isinstance(launcher, NvrtcLauncher):
        result |= _rates(bench.device)
    return result


def _rates(device: torch.device) -> Result:
    """Fused multiply-adds and shuffles of 32 lanes a second, in units of 1e9."""
    blocks, threads, rounds = 132 * 32, 256, 4096
    out = torch.empty(blocks * threads, device=device)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rates.cu"
        source.write_text(_RATES)
        names = ("fma_rate", "shuffle_rate")
        launcher = NvrtcLauncher(dict.fromkeys(names, source), ("--std=c++17",), (), device)
        for name in names:
            body = _launch_of(launcher, name, (blocks, 1, 1), (threads, 1, 1), (rounds, out))
            lanes = 4 * rounds * blocks * threads
            results[f"{name}_a_warp"] = lanes / 32 / _median(_milliseconds(device, body, 5)) / 1e6
    return results


def _launch_of(
    launcher: Launcher, name: str, grid: Size, block: Size, args: Sequence[Launchable]
) -> Callable[[], None]:
    return lambda: launcher.launch(name, grid, block, args)


def smoke(bench: Bench) -> Result:
    """The smallest thing that can work."""
    camera = camera_at(64, 64)
    return _against_reference(bench, example_of(camera, gaussians_seen(camera, 60)))


def _against_reference(bench: Bench, scene: Example) -> Result:
    band = reference.near_cutoff(scene.camera, scene.gaussians, sh_degree=scene.sh_degree)
    expected = _evaluate(scene, CPU, ~band, dtype=torch.float64, renderer=reference.render)  # not a backend's
    return _compared(_evaluate(scene, bench.device, ~band), expected, ~band)


# Parity


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


PAIR_TOLERANCE = 1e-3  # of the largest entry; beyond it an entry differs
# Share of entries that may differ: an α on the edge of 1/255 or a transmittance on that of 1e-4 may fall either way.
MOST_DIFFERENT = 1e-3
EXACT = ("emit", "ranges")  # kernels whose arithmetic IEEE 754 settles to the last bit
IMAGE_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 2e-3


def parity(bench: Bench) -> Result:
    """Kernel by kernel, then picture by picture."""
    result: Result = {"launches": _launch_parity(bench), "pictures": {}}
    for name, make in EXAMPLES.items():
        with _poisoned(bench.device):
            result["pictures"][name] = _against_reference(bench, make())
    for count, width, height in (bench.pictured, (bench.timed[0], *bench.size)):
        camera, gaussians = crowd(count, width, height, CPU)
        with _poisoned(bench.device):
            result["pictures"][f"{count:,} at {width}×{height}"] = _against_cpu(bench, camera, gaussians)
    return result


def _launch_parity(bench: Bench) -> Result:
    """Whole iterations under `Mirror`. Skipped, and said so, without a C++ compiler."""
    from tests.cuda.shim import ShimLauncher, compiler

    if compiler() is None:
        return {"skipped": "no C++ compiler: the kernels cannot be repeated on the CPU"}
    backend_kernels = _backend(bench.device).kernels
    mirror = Mirror(backend_kernels.launcher, ShimLauncher())
    scenes = [(name, make()) for name, make in EXAMPLES.items()]
    scenes.append(("crowd", example_of(*crowd(*bench.mirrored, CPU))))
    with mock.patch.object(backend_kernels, "launcher", mirror):
        for _, scene in scenes:
            for screen_gradients in (True, False):
                with _poisoned(bench.device):
                    _iterate(scene, bench.device, steps=2, screen_gradients=screen_gradients)
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


def _iterate(scene: Example, device: torch.device, steps: int, *, screen_gradients: bool = True) -> dict[str, Tensor]:
    """`steps` whole iterations; the parameters, moments, losses and pictures, all that determinism is about."""
    gaussians = converted(scene.gaussians, torch.float32).to(device)
    population = Population(gaussians)
    generator = torch.Generator().manual_seed(SEED)
    height, width = scene.camera.height, scene.camera.width
    photo = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).to(device)
    mask = (torch.rand(height, width, generator=generator) > 0.2).to(device)
    background, edges = scene.background.float().to(device), scene.edges.float().to(device)
    kept: dict[str, Tensor] = {}
    for step in range(steps):
        seen = render(
            scene.camera,
            population.gaussians,
            background,
            edges=edges,
            sh_degree=scene.sh_degree,
            screen_gradients=ScreenGradients(absolute=screen_gradients),
            accumulate=True,
        )
        loss = photometric_loss(seen.image, photo, mask) + 0.01 * seen.alpha.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if screen_gradients:
            population.observe(seen)
            kept[f"screen gradients {step}"] = seen.abs_grad
        population.step(GROUPS, dict.fromkeys(GROUPS, 1e-3))
        assert seen.importance is not None
        kept |= {f"image {step}": seen.image.detach(), f"loss {step}": loss.detach()}
        kept |= {f"radii {step}": seen.radii, f"importance {step}": seen.importance}
    for name, group in population.state_dict()["groups"].items():
        kept |= {f"{name} {part}": group[part] for part in ("parameter", "first_moment", "second_moment")}
    return kept


@contextmanager
def _poisoned(device: torch.device) -> Iterator[None]:
    """New memory holds NaN and the largest integers inside the block, so that reading it before writing shows."""
    _backend(device).idle.clear()
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch then fills what it allocates
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        _backend(device).idle.clear()


Outcome = dict[str, Tensor]


def _evaluate(
    scene: Example,
    device: torch.device,
    counted: Tensor,
    *,
    dtype: torch.dtype = torch.float32,
    renderer: Callable[..., Any] = render,
) -> Outcome:
    """Image, alpha, radii, importance and all gradients of a weighted sum of the pixels `counted`, on the CPU."""
    gaussians = Gaussians(
        *(values.to(device).requires_grad_() for _, values in converted(scene.gaussians, dtype).named_tensors())
    )
    seen = renderer(
        scene.camera,
        gaussians,
        scene.background.to(device, dtype),
        edges=(scene.edges * counted).to(device, dtype),
        sh_degree=scene.sh_degree,
        screen_gradients=ScreenGradients(absolute=True, signed=True),
    )
    by_image = seen.image * (scene.image_weights * counted).to(device, dtype)
    by_alpha = seen.alpha * (scene.alpha_weights * counted).to(device, dtype)
    torch.autograd.backward(by_image.sum() + by_alpha.sum())
    found = {"image": seen.image, "alpha": seen.alpha, "radii": seen.radii, "importance": seen.importance}
    for name, values in gaussians.named_tensors():
        found[f"{name} gradient"] = torch.zeros_like(values) if values.grad is None else values.grad
    found |= {"absolute screen gradient": seen.abs_grad, "signed screen gradient": seen.signed_grad}
    return {name: values.detach().cpu().double() for name, values in found.items()}


@contextmanager
def _cpu_backend() -> Iterator[None]:
    """What lies on the CPU takes the CPU backend inside the block, also in a test that sends all through the other."""
    with mock.patch.dict(IN_USE, {CPU: CpuBackend()}):
        yield


def _compared(found: Outcome, expected: Outcome, counted: Tensor) -> Result:
    """Differences by tensor; raises Failed where one is too large."""
    result: Result = {}
    faults = []
    drawn, should = found["radii"] > 0, expected["radii"] > 0
    result["drawn differently"] = int((drawn != should).sum())
    if result["drawn differently"] > MOST_DIFFERENT * len(drawn):
        faults.append("radii")
    for name, wanted in expected.items():
        actual = found[name]
        if wanted.numel() == 0:
            continue
        off = (actual - wanted).abs()
        if name in ("image", "alpha"):
            off, limit = off * counted, IMAGE_TOLERANCE
        else:
            limit = GRADIENT_TOLERANCE * wanted.abs().max().item()
        share = (~(off <= limit)).double().mean().item()
        result[name] = {"largest": off.max().item(), "limit": limit, "beyond": share}
        if share > MOST_DIFFERENT:
            faults.append(name)
    if faults:
        raise Failed(f"differ: {', '.join(faults)}", result)
    return result


def _against_cpu(bench: Bench, camera: Camera, gaussians: Gaussians) -> Result:
    scene = example_of(camera, gaussians)
    everywhere = torch.ones(camera.height, camera.width, dtype=torch.bool)
    with _cpu_backend():
        expected = _evaluate(scene, CPU, everywhere)
    return _compared(_evaluate(scene, bench.device, everywhere), expected, everywhere)


def crowd(count: int, width: int, height: int, device: torch.device) -> tuple[Camera, Gaussians]:
    """Gaussians like those of a trained outdoor model: half of them in view, each in about eight tiles.

    Sizes are log-normal, opacities from faint to nearly 1, so that pixels end after some 85 contributions.
    """
    generator = torch.Generator().manual_seed(SEED)
    focal = 0.9 * width
    depth = 2 + 6 * torch.rand(count, generator=generator) ** 2
    reach = torch.tensor([math.sqrt(2.0) * width / focal, math.sqrt(2.0) * height / focal])
    across = (torch.rand(count, 2, generator=generator) - 0.5) * reach
    # The same share of the image however many there are: a denser model has smaller Gaussians.
    pixels = 4.3 * math.sqrt(width * height / 1.6e6) * math.sqrt(600_000 / max(count, 1)) ** 0.5
    sigma = (pixels * depth / focal)[:, None] * torch.exp(0.7 * torch.randn(count, 3, generator=generator))
    gaussians = Gaussians(
        means=torch.cat([across * depth[:, None], depth[:, None]], dim=1),
        log_scales=torch.log(sigma),
        quats=torch.randn(count, 4, generator=generator),
        opacity_logits=-0.7 + 1.5 * torch.randn(count, generator=generator),
        sh_dc=torch.randn(count, 1, 3, generator=generator),
        sh_rest=0.1 * torch.randn(count, 15, 3, generator=generator),
    )
    return Camera(width, height, focal, focal, width / 2, height / 2, np.eye(4), "crowd"), gaussians.to(device)


# Determinism, sanitizer, edge cases


def determinism(bench: Bench) -> Result:
    """Equal input, equal bits: small scenes, a large one, and a short training run.

    Also where the host knows the number of tile instances, makes room for twice as many, and has to come again; and
    without screen gradients.
    """
    result: Result = {}
    backend = _backend(bench.device)
    scenes = {name: make() for name, make in EXAMPLES.items()}
    scenes["large"] = example_of(*crowd(bench.timed[0], *bench.size, CPU))
    for name, scene in scenes.items():
        first = _iterate(scene, bench.device, steps=3)
        for label, room in (("", None), (", known", _Room(0)), (", ample", _Room(2)), (", too little", _Room(0.5))):
            with mock.patch.object(backend, "forecast", room or backend.forecast):
                again = _iterate(scene, bench.device, steps=3)
            result[name + label] = _different(first, again)
        plain = _iterate(scene, bench.device, steps=3, screen_gradients=False)
        result[f"{name}, no screen gradients"] = _different(plain, first)
    runs = [_train_synthetic(bench, bench.device, bench.beside_cpu)[1] for _ in range(2)]
    result["training"] = [] if runs[0] == runs[1] else ["losses"]
    different = [name for name, found in result.items() if found]
    if different:
        raise Failed(f"not the same bits twice: {', '.join(different)}", result)
    return result


def _different(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of what is in `first` and not the same in `second`."""
    return [name for name, values in first.items() if not _same_bits(values, second[name])]


class _Room(Forecast):
    """Foresees a share of the instances that the view last made; with share 0 it foresees nothing."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def capacity(self, view: Hashable, gaussians: int) -> int | None:
        """See `Forecast`."""
        seen = view in self._last and self._share > 0
        return int(self._share * self._last[view][1]) if seen else None


def _same_bits(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.contiguous().view(torch.int32), second.contiguous().view(torch.int32))


def sanitizer(bench: Bench) -> Result:
    """The smoke block under each of compute-sanitizer's tools."""
    program = _sanitizer_program()
    if program is None:
        raise Skipped("compute-sanitizer is neither on the PATH nor among the installed packages")
    result: Result = {"program": program}
    script = [sys.executable, str(Path(__file__).resolve()), "--only", "smoke", "--device", str(bench.device)]
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        # Memory that torch keeps for later hides what lies outside of an array.
        variables = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        command = [program, "--tool", tool, "--error-exitcode", "9", *script, "--out", str(bench.out / "sanitizer")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=variables, check=False)
        if "Device not supported" in done.stdout + done.stderr:
            raise Skipped(f"{program} does not support this machine's device")
        result[tool] = {"status": done.returncode, "says": done.stdout[-2000:] + done.stderr[-1000:]}
    failed = [tool for tool, found in result.items() if isinstance(found, dict) and found["status"] != 0]
    if failed:
        raise Failed(f"complaints of {', '.join(failed)}", result)
    return result


def _sanitizer_program() -> str | None:
    if found := shutil.which("compute-sanitizer"):
        return found
    for folder in map(Path, sys.path):
        for program in sorted(folder.glob("nvidia/**/compute-sanitizer")):
            if program.is_file():
                return str(program)
    return None


def edge_cases(bench: Bench) -> Result:
    """What breaks renderers; the CPU backend is the judge, and no pixel and no gradient may be NaN."""
    result: Result = {}
    faults = []
    for name, scene in _edge_scenes(bench):
        everywhere = torch.ones(scene.camera.height, scene.camera.width, dtype=torch.bool)
        with _poisoned(bench.device):
            try:
                found = _evaluate(scene, bench.device, everywhere)
                with _cpu_backend():
                    expected = _evaluate(scene, CPU, everywhere)
                result[name] = _compared(found, expected, everywhere)
                if not all(values.isfinite().all() for values in found.values()):
                    faults.append(name)
            except Failed as error:
                result[name] = {"failed": str(error), **error.result}
                faults.append(name)
    if faults:
        raise Failed(f"wrong: {', '.join(faults)}", result)
    return result


def _edge_scenes(bench: Bench) -> Iterator[tuple[str, Example]]:
    camera = camera_at(130, 70)
    healthy = gaussians_seen(camera, 200, seed=4)

    def changed(group: str, row: int, value: float) -> Example:
        gaussians = converted(healthy, torch.float64)
        getattr(gaussians, group)[row] = value
        return example_of(camera, gaussians)

    for group, _ in healthy.named_tensors():
        for value in (math.nan, math.inf, -math.inf):
            yield f"{value} in {group}", changed(group, 7, value)
    for value in (80.0, -80.0):
        yield f"log_scales {value}", changed("log_scales", 7, value)
        yield f"opacity_logits {value}", changed("opacity_logits", 7, value)
    yield "zero quaternion", changed("quats", 7, 0.0)
    at_camera = converted(healthy, torch.float64)
    at_camera.means[3] = torch.from_numpy(camera.center)
    yield "mean at the camera", example_of(camera, at_camera)
    for name in ("no Gaussians", "all outside the view", "all behind", "one giant", "opaque stacks", "equal depths"):
        yield name, EXAMPLES[name]()
    tile = camera_at(16, 16)
    pile = gaussians_seen(tile, bench.pile, size=(0.8, 2.5), logits=(-5.0, -2.0))
    yield "a tile's long list", example_of(tile, pile)
    vast = camera_at(*bench.vast)
    yield "very many tiles", example_of(vast, gaussians_seen(vast, 50, size=(20.0, 200.0)))


# Training


def synthetic_scene(views: int, width: int, height: int, count: int) -> Scene:
    """Photos of `count` Gaussians from cameras on an arc, made by the CPU backend; half of the means to start from."""
    generator = torch.Generator().manual_seed(SEED)
    truth = Gaussians(
        means=2 * torch.rand(count, 3, generator=generator) - 1,
        log_scales=math.log(0.03) + 0.4 * torch.randn(count, 3, generator=generator),
        quats=torch.randn(count, 4, generator=generator),
        opacity_logits=torch.full((count,), 2.0),
        sh_dc=torch.randn(count, 1, 3, generator=generator),
        sh_rest=torch.zeros(count, 0, 3),
    )
    seen = []
    for index in range(views):
        angle = 1.2 * (index / (views - 1) - 0.5)
        pose = np.eye(4)
        pose[0, 0] = pose[2, 2] = math.cos(angle)
        pose[0, 2], pose[2, 0], pose[2, 3] = math.sin(angle), -math.sin(angle), 4.0
        camera = Camera(width, height, 1.2 * width, 1.2 * width, width / 2, height / 2, pose, f"{index:02d}.png")
        with _cpu_backend():
            seen.append(View(camera, to_eight_bit(render(camera, truth, torch.zeros(3)).image)))
    points = PointCloud(truth.means[: count // 2].double().numpy(), np.full((count // 2, 3), 128, np.uint8))
    held_out = seen[::8]
    return Scene("synthetic", [view for view in seen if view not in held_out], held_out, points, 1.5, (0.0, 0.0, 0.0))


def _train_synthetic(
    bench: Bench, device: torch.device, iterations: int, run_length: int = 30_000
) -> tuple[float, list[float]]:
    """Held-out PSNR after the first `iterations` of a run of `run_length`, and the losses."""
    scene = synthetic_scene(*bench.synthetic)
    budget = max(100, bench.synthetic[-1] // 3)
    config = TrainConfig(
        source_path=Path("none"), model_path=Path("none"), final_budget=budget, iterations=run_length, quiet=True
    )
    losses: list[Tensor] = []
    moved = [replace(view, image=view.image.to(device)) for view in scene.train]
    trainer, state = Trainer(config, scene, device=device, views=moved), TrainState.begin(config, scene, device)
    while state.iteration < iterations:
        trainer.advance(state, lambda it, names, loss: losses.append(loss))
    return held_out_psnr(state.population.gaussians, scene), torch.stack(losses).tolist()


def training(bench: Bench) -> Result:
    """The loss follows the CPU backend's, and falls."""
    _, ours = _train_synthetic(bench, bench.device, bench.beside_cpu)
    with _cpu_backend():
        _, cpu = _train_synthetic(bench, CPU, bench.beside_cpu)
    drift = [abs(a - b) / b for a, b in zip(ours, cpu, strict=True)]
    early = drift[: max(1, len(drift) // 10)]
    start = time.perf_counter()
    score, losses = _train_synthetic(bench, bench.device, bench.alone, run_length=bench.alone)
    tenth = max(1, len(losses) // 10)
    result: Result = {
        "largest drift of the first tenth": max(early),
        "largest drift": max(drift),
        "mean drift": statistics.mean(drift),
        "first losses": statistics.mean(losses[:tenth]),
        "last losses": statistics.mean(losses[-tenth:]),
        "held-out PSNR": score,
        "iterations a second": bench.alone / (time.perf_counter() - start),
    }
    if max(early) > 1e-3 or statistics.mean(drift) > 0.02 or not result["last losses"] < 0.9 * result["first losses"]:
        raise Failed("the loss does not follow the CPU backend's, or does not fall", result)
    return result


# Timing


def _milliseconds(device: torch.device, body: Callable[[], Any], rounds: int) -> list[float]:
    """Times of `rounds` runs of `body` after three that warm up: between events on a GPU, of the wall elsewhere."""
    for _ in range(3):
        body()
    if device.type != "cuda":
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            body()
            times.append(1e3 * (time.perf_counter() - start))
        return times
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for mark in marks[1:]:
        body()
        mark.record()
    torch.cuda.synchronize(device)
    return [begin.elapsed_time(end) for begin, end in pairwise(marks)]


def _median(times: Sequence[float]) -> float:
    return round(statistics.median(times), 4)


def _photo(bench: Bench) -> Tensor:
    width, height = bench.size
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).to(bench.device)


def timing(bench: Bench) -> Result:
    """Medians in milliseconds, stage by stage and of whole iterations; memory."""
    return {f"{count:,} Gaussians": _time_crowd(bench, count) for count in bench.timed}


def _time_crowd(bench: Bench, count: int) -> Result:
    camera, gaussians = crowd(count, *bench.size, bench.device)
    _reset_memory(bench.device)
    population, photo = Population(gaussians), _photo(bench)
    del gaussians
    iteration, host = _whole_iteration(bench, camera, population, photo)
    peak = torch.cuda.max_memory_allocated(bench.device) if bench.device.type == "cuda" else 0
    result: Result = {
        "iteration": _median(iteration),
        "fastest iteration": min(iteration),
        "host of an iteration": _median(host),
        "peak gigabytes": peak / 1e9,
        "estimated gigabytes": training_bytes(count, 3, bench.size[0] * bench.size[1], bench.device) / 1e9,
    }
    plain, _ = _whole_iteration(bench, camera, population, photo, screen_gradients=False)
    result["iteration without screen gradients"] = _median(plain)
    with mock.patch.object(_backend(bench.device), "forecast", _Room(0)):
        waiting, _ = _whole_iteration(bench, camera, population, photo)
    result["iteration that waits for the number of instances"] = _median(waiting)
    result |= _time_stages(bench, camera, population, photo)
    return result


def _reset_memory(device: torch.device) -> None:
    _backend(device).idle.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _whole_iteration(
    bench: Bench, camera: Camera, population: Population, photo: Tensor, *, screen_gradients: bool = True
) -> tuple[list[float], list[float]]:
    """Times of render, loss, backward, statistics and Adam as training runs them, and of the host's share."""
    background = torch.zeros(3, device=bench.device)
    workspace = Workspace(bench.device)
    still = dict.fromkeys(GROUPS, 0.0)  # step sizes: Adam does all its work, and the model stays as it is
    host: list[float] = []

    def iterate() -> None:
        start = time.perf_counter()
        seen = render(
            camera,
            population.gaussians,
            background,
            screen_gradients=ScreenGradients(absolute=screen_gradients),
            accumulate=True,
            workspace=workspace,
        )
        photometric_loss(seen.image, photo, workspace=workspace).backward()  # type: ignore[no-untyped-call]
        if screen_gradients:
            population.observe(seen)
        population.step(GROUPS, still)
        host.append(1e3 * (time.perf_counter() - start))

    return _milliseconds(bench.device, iterate, bench.rounds), host


def _time_stages(bench: Bench, camera: Camera, population: Population, photo: Tensor) -> Result:
    gaussians = population.gaussians
    parameters = tuple(planes_of(values) for _, values in gaussians.named_tensors())
    gradients = tuple(values.grad.movedim(0, -1) for _, values in gaussians.named_tensors() if values.grad is not None)
    image, alpha = (
        photo.new_empty(3, *photo.shape[:2], dtype=torch.float32),
        photo.new_empty(photo.shape[:2], dtype=torch.float32),
    )
    radii, absolute = torch.empty_like(parameters[3]), torch.empty_like(parameters[0][:2])
    edges, background = torch.rand_like(alpha), torch.zeros(3, device=bench.device)
    rendering = gpu.Rendering(_backend(bench.device), RenderInputs(camera, parameters, 3, background, edges))
    rendering.project(with_colour=True, radii=radii)
    rendering.sort_by_depth()
    instances = rendering.count_instances()
    by_image = torch.randn_like(image) / image.numel()
    stages: dict[str, Callable[[], Any]] = {
        "project": lambda: rendering.project(with_colour=True, radii=radii),
        "sort_by_depth": rendering.sort_by_depth,
        "emit": lambda: rendering.emit(instances),
        "sort_by_tile": rendering.sort_by_tile,
        "blend": lambda: rendering.blend(image, alpha, scored=False),
        "score": lambda: rendering.blend(None, None, scored=True),
        "loss": lambda: _loss_and_gradient(image, photo),
        "blend_backward": lambda: rendering.blend_backward(image, alpha, by_image, None, absolute=False),
        "blend_backward with screen gradients": lambda: rendering.blend_backward(
            image, alpha, by_image, None, absolute=True
        ),
        "project_backward": lambda: rendering.project_backward(gradients, absolute, None),
        "adam": lambda: population.step(GROUPS, dict.fromkeys(GROUPS, 0.0)),
    }
    medians = {name: _median(_milliseconds(bench.device, body, bench.rounds)) for name, body in stages.items()}
    return {
        "visible": int((radii > 0).sum()),
        "instances": instances,
        "mean alpha": alpha.mean().item(),
        "stages": medians,
    }


def _loss_and_gradient(image: Tensor, photo: Tensor) -> Tensor:
    leaf = image.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(photometric_loss(leaf, photo), [leaf])
    return gradient


def gsplat(bench: Bench) -> Result:
    """An iteration of gsplat on the same Gaussians, camera, photo and loss, and with as much optimiser work."""
    try:
        package = importlib.import_module("gsplat")
    except ImportError as error:
        raise Skipped(f"gsplat is not installed ({error})") from error
    count = bench.timed[0]
    camera, gaussians = crowd(count, *bench.size, bench.device)
    photo = _photo(bench)
    with torch.no_grad():
        ours = render(camera, gaussians, torch.zeros(3, device=bench.device)).image
    theirs = _Gsplat(package.rasterization, camera, gaussians, photo)
    result: Result = {
        "version": package.__version__,
        "gaussians": count,
        "PSNR between the pictures": _psnr(theirs.image(), ours),
    }
    for optimiser in ("torch fused Adam", "Adam of gns"):
        body = theirs.iteration(optimiser)
        result[f"iteration with {optimiser}"] = _median(_milliseconds(bench.device, body, bench.rounds))
    times, _ = _whole_iteration(bench, camera, Population(gaussians), photo)
    result["iteration of gns"] = _median(times)
    fastest = min(value for name, value in result.items() if name.startswith("iteration with"))
    result["gns is faster by"] = fastest / result["iteration of gns"]
    return result


class _Gsplat:
    """gsplat's renderer in the place of ours."""

    def __init__(self, rasterization: Callable[..., Any], camera: Camera, gaussians: Gaussians, photo: Tensor) -> None:
        device = photo.device
        self._rasterization, self._camera, self._photo = rasterization, camera, photo
        # Rows, as gsplat reads them; six groups, as we have them.
        self._leaves = {
            name: values.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            for name, values in gaussians.named_tensors()
        }
        self._pose = torch.from_numpy(camera.world_to_camera).float().to(device)[None]
        matrix = [[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]
        self._intrinsics = torch.tensor([matrix], device=device)

    def image(self) -> Tensor:
        """[3, H, W]."""
        leaves = self._leaves
        pictures, _, self._seen = self._rasterization(
            means=leaves["means"],
            quats=leaves["quats"],
            scales=leaves["log_scales"].exp(),
            opacities=leaves["opacity_logits"].sigmoid(),
            colors=torch.cat([leaves["sh_dc"], leaves["sh_rest"]], dim=1),
            viewmats=self._pose,
            Ks=self._intrinsics,
            width=self._camera.width,
            height=self._camera.height,
            sh_degree=3,
            near_plane=0.2,
            packed=False,
            absgrad=True,
        )
        picture: Tensor = pictures[0].permute(2, 0, 1)
        return picture

    def iteration(self, optimiser: str) -> Callable[[], None]:
        """Render, loss, backward, step."""
        leaves = list(self._leaves.values())
        adam = torch.optim.Adam(leaves, lr=0.0, eps=1e-15, fused=True)
        moments = [(torch.zeros_like(leaf).detach(), torch.zeros_like(leaf).detach()) for leaf in leaves]

        def iterate() -> None:
            photometric_loss(self.image(), self._photo).backward()  # type: ignore[no-untyped-call]
            if optimiser == "torch fused Adam":
                adam.step()
                adam.zero_grad(set_to_none=True)
                return
            adam_step([_flat_group(leaf, *pair) for leaf, pair in zip(leaves, moments, strict=True)])
            adam.zero_grad(set_to_none=True)

        return iterate


def _flat_group(leaf: Tensor, first: Tensor, second: Tensor) -> AdamGroup:
    assert leaf.grad is not None
    tensors = AdamTensors(leaf.detach().view(-1), leaf.grad.reshape(-1), first.view(-1), second.view(-1))
    return AdamGroup(tensors, 0.0, 1)


def _psnr(image: Tensor, truth: Tensor) -> float:
    return (-10 * torch.log10((image.detach() - truth).square().mean().clamp(min=1e-10))).item()


def photos(bench: Bench) -> Result:
    """A short run on photos: iterations a second and held-out PSNR."""
    if bench.scene is None or not bench.scene.is_dir():
        raise Skipped(f"there is no scene {bench.scene}")
    scene = read_scene(bench.scene, SceneOptions(), lambda _: None)
    arguments = ["-s", str(bench.scene), "--final-budget", "60000", "--quiet"]
    config = parse_train([*arguments, "--iterations", str(bench.photo_iterations), "--test-iterations", "-1"])
    _reset_memory(bench.device)
    start = time.perf_counter()
    state = train(config, scene, device=bench.device)
    seconds = time.perf_counter() - start
    return {
        "scene": bench.scene.name,
        "iterations": config.iterations,
        "seconds": seconds,
        "iterations a second": config.iterations / seconds,
        "gaussians": len(state.population),
        "held-out PSNR": held_out_psnr(state.population.gaussians, scene) if scene.test else None,
    }


BLOCKS: dict[str, Callable[[Bench], Result]] = {
    block.__name__: block
    for block in (
        environment,
        smoke,
        parity,
        determinism,
        sanitizer,
        edge_cases,
        training,
        timing,
        gsplat,
        photos,
    )
}


def run_block(name: str, bench: Bench, machine: Result) -> Result:
    """Run one block and write its JSON, also when it fails."""
    start = time.perf_counter()
    record: Result = {"block": name, **machine}
    try:
        record |= {"passed": True, "result": BLOCKS[name](bench)}
    except Skipped as reason:
        record |= {"passed": None, "skipped": str(reason)}
    except Failed as fault:
        record |= {"passed": False, "error": str(fault), "result": fault.result}
    except Exception as error:  # whatever it is, the other blocks are worth their time
        record |= {"passed": False, "error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    record["seconds"] = round(time.perf_counter() - start, 2)
    bench.out.mkdir(parents=True, exist_ok=True)
    (bench.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def machine_of(device: torch.device) -> Result:
    """What every figure has to be read with."""

    def said(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False).stdout.strip()
        except OSError:
            return ""

    query = "--query-gpu=driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
    return {
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "none",
        "capability": ".".join(map(str, torch.cuda.get_device_capability(device))) if device.type == "cuda" else "",
        "driver, clocks, power": said("nvidia-smi", query, "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
    }


def print_table(records: Sequence[Result]) -> None:
    """A line a block, then the times."""
    for record in records:
        verdict = {True: "passed", False: "FAILED", None: "skipped"}[record["passed"]]
        why = record.get("error", record.get("skipped", ""))
        print(f"{record['block']:<12} {verdict:<8} {record['seconds']:7.1f} s  {why}")
    for record in records:
        if record["block"] == "timing" and record["passed"]:
            for label, figures in record["result"].items():
                print(f"\n{label}, {figures['instances']:,} instances: {figures['iteration']:.3f} ms an iteration")
                for stage, value in figures["stages"].items():
                    print(f"  {stage:<18} {value:8.3f} ms")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--only", nargs="+", choices=BLOCKS, default=list(BLOCKS), help="these blocks alone")
    parser.add_argument("--out", type=Path, default=here / "results" / "gpu", help="folder of the JSON files")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:NUMBER")
    parser.add_argument("--scene", type=Path, default=ROOT.parent / "shared" / "data" / "fox480", help="of photos")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bench = Bench(pick_device(options.device), options.out, options.scene)
    machine = machine_of(bench.device)
    records = []
    for name in options.only:
        print(f"{name} ...", flush=True)
        records.append(run_block(name, bench, machine))
    print_table(records)
    return int(any(record["passed"] is False for record in records))


if __name__ == "__main__":
    raise SystemExit(main())
