"""Time a training iteration on this CPU, stage by stage: `python benchmarks/cpu.py [--scene COLMAP_SCENE] [--out DIR]`.

One JSON and one chart of:

* `scene`: a model trained for a moment on a real scene; the whole iteration as training runs it (render, loss,
  backward, Adam), for each instruction set and for one and all threads.
* `load`: the same iteration while other processes want the cores, and beside torch's own pool of threads.
* `adam`: our optimiser step beside torch's fused one, on the same tensors.
* `work`: 5k to 500k synthetic Gaussians of one size on the screen, four pixels of image for each.
* `gaussians`: 5k to 500k of that size in 1920×1080 pixels: layer upon layer.
* `pixels`: a number of that size in 135×240 to 1920×1080 pixels: layers thin out.
* `size`: the same picture made of few large to many small ones.

The last four tell how the cost follows the work, the contributing (pixel, Gaussian) pairs. `linear` is what best
explains the first three of them: so many nanoseconds of blending a pair, and so many a pixel for reading and writing
images. Medians throughout; quote ratios within one run from a shared machine.

The kernels are built once more, with counters that the installed ones do not have, into build/counters.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.counting_kernels import built_kernels

sys.path.insert(1, str(built_kernels()))  # behind the checkout, before what is installed

from gns import gaussian_renderer as renderer
from gns.gaussian_renderer.backends.cpu import CpuBackend, Rendering
from gns.gaussian_renderer.backends.protocol import RenderInputs, RenderTargets
from gns.losses.photometric import photometric_loss
from gns.model.population import Population
from gns.scene import Camera, Gaussians, View
from gns.scene.gaussians import GROUPS
from gns.utils import native
from gns.utils.workspace import Workspace

SERIES = ("work", "gaussians", "pixels", "size")
SIGMA = 3.0  # pixels, of synthetic Gaussians
STAGES = ("project", "sort", "tiles", "blend", "loss", "blend_backward", "project_backward", "adam")
# Floating-point operations of one lane in the blending loops of gns/csrc/cpu/blend.cpp, a fused multiply-add being two:
# forward 5 (exponent) + 11 (2^x) + 4 (alpha, transmittance) + 7 (weight, colour); backward the first twenty again and
# 1 (weight) + 5 (g·c) + 2 (behind) + 7 (∂L/∂α, h) + 6 (t, h·t: 4 + 2) + 6 (colour) + 5 (sums) + 2 (|·|) + 6 (moments).
FORWARD_FLOPS, BACKWARD_FLOPS = 27, 60


def main() -> int:
    options = _options()
    _native = native.load()
    torch.set_num_threads(1)  # as training does
    report: dict[str, Any] = {"machine": _machine(), "peak": {}, "scene": [], "load": [], "adam": []}
    for name in renderer.instruction_sets():
        renderer.use_instruction_set(name)
        report["peak"][name] = _peak(_native)
    if options.scene and options.scene.is_dir():
        report["photos"] = options.scene.name
        population, views = _real_scene(options.scene, options.gaussians)
        report["scene"] = _every_instruction_set(population, views, options.rounds)
        report["load"] = _under_load(population, views, options.rounds)
    renderer.use_instruction_set(renderer.instruction_sets()[0])
    counts = (5_000, 20_000, 80_000) if options.quick else (5_000, 20_000, 100_000, 500_000)
    report["adam"] = [_beside_torch(count, options.rounds) for count in counts]
    report |= {series: _series(series, counts, options.rounds) for series in SERIES}
    report["linear"] = _linear_fit([*report["work"], *report["gaussians"], *report["pixels"]])
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "cpu.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    _print(report)
    print(f"figures: {path}")
    if (chart := _chart(report, options.out / "cpu.png")) is not None:
        print(f"chart: {chart}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data" / "fox480"
    parser.add_argument("--scene", type=Path, default=default, help="a COLMAP scene; skipped where it is absent")
    parser.add_argument("--gaussians", type=int, default=28_815, help="size of the model trained on it")
    parser.add_argument("--rounds", type=int, default=60, help="iterations timed for each figure")
    parser.add_argument("--quick", action="store_true", help="stop at 80,000 synthetic Gaussians")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results")
    return parser.parse_args()


def _machine() -> dict[str, Any]:
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    ).stdout.strip()
    return {"cpu": model, "threads": renderer.thread_count(), "torch": torch.__version__, "commit": commit}


def _peak(kernels: Any) -> float:
    """Fused multiply-adds a second in units of 1e9, on all threads: the best of several short bursts."""
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        done = kernels.multiply_adds(1_000_000)
        best = max(best, done / (time.perf_counter() - start) / 1e9)
    return best


def _real_scene(path: Path, count: int) -> tuple[Population, list[View]]:
    from gns.arguments import parse_train
    from gns.scene.readers import SceneOptions, read_scene
    from gns.training.loop import train

    scene = read_scene(path, SceneOptions(), lambda _: None)
    arguments = ["-s", str(path), "--final-budget", str(count), "--iterations", "1500", "--quiet"]
    print(f"training {count:,} Gaussians on {path.name} for a moment ...", flush=True)
    state = train(scene, parse_train(arguments))
    return state.population, scene.train


def _every_instruction_set(population: Population, views: list[View], rounds: int) -> list[dict[str, Any]]:
    print(f"{'':>24} " + " ".join(f"{stage[:10]:>10}" for stage in (*STAGES, "iteration")), flush=True)
    results = []
    for name in renderer.instruction_sets():
        for threads in (1, 0):
            renderer.use_instruction_set(name)
            renderer.set_threads(threads)
            result = {
                "instruction_set": name,
                "threads": renderer.thread_count(),
                **_time_iterations(population, views, rounds),
            }
            _print_row(f"{name}, {result['threads']} threads", result)
            results.append(result)
    renderer.set_threads(0)
    return results


def _under_load(population: Population, views: list[View], rounds: int) -> list[dict[str, Any]]:
    """The best instruction set's iteration while others want the cores; "torch" is its pool in this very process."""
    renderer.use_instruction_set(renderer.instruction_sets()[0])
    results = []
    for load in ("none", "torch", *range(1, renderer.thread_count() + 1)):
        for threads in (1, 0):
            renderer.set_threads(threads)
            with _load(load):
                between = _torch_in_parallel if load == "torch" else None
                result = _time_iterations(population, views, rounds, between)
            result = {"load": load, "threads": renderer.thread_count(), **result}
            label = f"{load} processes" if isinstance(load, int) else load
            _print_row(f"load: {label}, {result['threads']} threads", result)
            results.append(result)
    renderer.set_threads(0)
    return results


@contextmanager
def _load(load: int | str) -> Iterator[None]:
    """That many other processes which compute without end; or torch with as many threads as there are cores."""
    others = load if isinstance(load, int) else 0
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
    torch.set_num_threads(renderer.thread_count() if load == "torch" else 1)
    try:
        yield
    finally:
        torch.set_num_threads(1)
        for process in busy:
            process.kill()
            process.wait()


def _torch_in_parallel() -> None:
    """An operation that wakes torch's threads."""
    torch.rand(1 << 16).exp_()


def _beside_torch(count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step that also clears the gradients: ours, and torch's fused Adam on one and on all threads."""
    population = Population(_gaussians(count, 1920, 1080, 3.0))
    still = dict.fromkeys(GROUPS, 0.0)
    result = {"gaussians": count, "ours": _median_milliseconds(lambda: population.step(GROUPS, still), rounds)}
    leaves = [torch.nn.Parameter(values.detach().clone()) for _, values in population.gaussians.named_tensors()]
    for leaf in leaves:
        leaf.grad = torch.zeros_like(leaf)
    fused = torch.optim.Adam(leaves, lr=0.0, eps=1e-15, fused=True)

    def step() -> None:
        fused.step()
        fused.zero_grad(set_to_none=False)

    for threads in (1, renderer.thread_count()):
        torch.set_num_threads(threads)
        result[f"torch_{threads}"] = _median_milliseconds(step, rounds)
    torch.set_num_threads(1)
    print("adam, milliseconds: " + ", ".join(f"{name} {value:,.2f}" for name, value in result.items()), flush=True)
    return result


def _median_milliseconds(action: Callable[[], None], rounds: int) -> float:
    times = []
    for _ in range(rounds + 5):
        start = time.perf_counter()
        action()
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times[5:]), 3)


def _series(series: str, counts: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """One of `SERIES`, see the head of this file."""
    if series == "pixels":
        return [_synthetic(100_000, w, h, SIGMA, rounds) for w, h in ((240, 135), (480, 270), (960, 540), (1920, 1080))]
    results = []
    for count in counts:
        width, sigma = 1920, SIGMA
        if series == "work":
            width = round((4 * count * 16 / 9) ** 0.5)
        if series == "size":
            sigma = SIGMA * (1920 * 1080 / 4 / count) ** 0.5
        results.append(_synthetic(count, width, width * 9 // 16, sigma, rounds))
    return results


def _time_iterations(
    population: Population, views: list[View], rounds: int, between: Callable[[], None] | None = None
) -> dict[str, Any]:
    """Medians in milliseconds over `rounds` iterations, after a few that only warm up; `between` two, not timed."""
    workspace = Workspace(torch.device("cpu"))
    renderer.release_memory()  # so that memory is that of these iterations
    background = torch.zeros(3)
    still = dict.fromkeys(GROUPS, 0.0)  # step sizes: Adam does all its work, and the model stays as it is
    samples: dict[str, list[float]] = {name: [] for name in (*STAGES, "iteration")}
    pairs, blocks, rendering = [], [], None
    for round_ in range(rounds + 5):
        view = views[round_ % len(views)]
        if between:
            between()
        start = time.perf_counter()
        with _caught_rendering() as begun:
            output = renderer.render(
                view.camera, population.gaussians, background, accumulate=True, workspace=workspace
            )
            lap = time.perf_counter()
            loss = photometric_loss(output.image, view.image, view.mask, workspace)
            in_loss = time.perf_counter() - lap
            torch.autograd.backward(loss)
        lap = time.perf_counter()
        population.step(GROUPS, still)
        end = time.perf_counter()
        if round_ < 5:
            continue
        rendering = begun[0].native
        times = {**rendering.timings, "loss": in_loss, "adam": end - lap, "iteration": end - start}
        for name in samples:
            samples[name].append(1e3 * times[name])
        if round_ < 5 + min(rounds, 12):
            pairs.append(rendering.pairs)
            blocks.append(rendering.blocks)
    assert rendering is not None
    medians = {name: statistics.median(values) for name, values in samples.items()}
    mean_pairs = statistics.mean(pairs)
    seconds = (medians["blend"] + medians["blend_backward"]) / 1e3
    return {
        "gaussians": len(population),
        "visible": rendering.visible,
        "instances": rendering.instances,
        "pairs": mean_pairs,
        "lane_use": mean_pairs / (statistics.mean(blocks) * native.load().lanes()),
        "milliseconds": {name: round(value, 3) for name, value in medians.items()},
        "fastest_iteration": round(min(samples["iteration"]), 3),
        "nanoseconds_a_pair": 1e9 * seconds / mean_pairs,
        "pairs_a_second": mean_pairs / seconds,
        "gigaflops_blending": (FORWARD_FLOPS + BACKWARD_FLOPS) * mean_pairs / seconds / 1e9,
        "bytes_a_gaussian": (_population_bytes(population) + rendering.bytes) / len(population),
        "peak_resident_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def _population_bytes(population: Population) -> int:
    """Parameters, gradients, moments and statistics."""
    state = population.state_dict()
    of_groups = [value for group in state["groups"].values() for value in group.values() if torch.is_tensor(value)]
    return sum(tensor.nbytes for tensor in [*of_groups, *state["statistics"].values()])


@contextmanager
def _caught_rendering() -> Iterator[list[Rendering]]:
    """Collects the renderings that are begun inside the `with` block."""
    begun: list[Rendering] = []

    def render(self: CpuBackend, inputs: RenderInputs, targets: RenderTargets) -> Rendering:
        begun.append(Rendering(inputs, targets))
        return begun[-1]

    with mock.patch.object(CpuBackend, "render", render):
        yield begun


def _linear_fit(results: list[dict[str, Any]]) -> dict[str, float]:
    """Blending time as a sum over pairs and pixels, with the least squared relative deviations."""
    work = np.array([[result["pairs"], result["width"] * result["height"]] for result in results])
    nanoseconds = np.array([_blending(result) for result in results]) * 1e6
    costs = np.linalg.lstsq(work / nanoseconds[:, None], np.ones(len(results)), rcond=None)[0]
    deviations = np.abs(work @ costs / nanoseconds - 1)
    return {
        "nanoseconds_a_pair": float(costs[0]),
        "nanoseconds_a_pixel": float(costs[1]),
        "largest_deviation": float(deviations.max()),
    }


def _blending(result: dict[str, Any]) -> float:
    """Milliseconds, forward and backward."""
    milliseconds: float = result["milliseconds"]["blend"] + result["milliseconds"]["blend_backward"]
    return milliseconds


def _gaussians(count: int, width: int, height: int, sigma: float) -> Gaussians:
    """Gaussians of about `sigma` pixels, thinly opaque, at random over the image and the depth."""
    generator = torch.Generator().manual_seed(0)
    focal = float(width)
    depth = 2 + 4 * torch.rand(count, generator=generator)
    across = (torch.rand(count, 2, generator=generator) - 0.5) * torch.tensor([width / focal, height / focal])
    return Gaussians(
        means=torch.cat([across * depth[:, None], depth[:, None]], dim=1),
        log_scales=torch.log(sigma * depth / focal)[:, None] + 0.4 * torch.randn(count, 3, generator=generator),
        quats=torch.randn(count, 4, generator=generator),
        opacity_logits=torch.full((count,), -3.5),  # α 0.03: no pixel is full before the last Gaussian
        sh_dc=torch.randn(count, 1, 3, generator=generator),
        sh_rest=0.1 * torch.randn(count, 15, 3, generator=generator),
    )


def _synthetic(count: int, width: int, height: int, sigma: float, rounds: int) -> dict[str, Any]:
    """Timings of `_gaussians` before a photo of noise."""
    focal = float(width)
    camera = Camera(width, height, focal, focal, width / 2, height / 2, np.eye(4), "synthetic")
    noise = torch.Generator().manual_seed(0)
    photo: Tensor = torch.randint(0, 256, (height, width, 3), generator=noise, dtype=torch.uint8)
    population = Population(_gaussians(count, width, height, sigma))
    result = _time_iterations(population, [View(camera, photo)], max(10, rounds // 3))
    result |= {"width": width, "height": height, "sigma": sigma}
    _print_row(f"{count:,} at {width}×{height}", result)
    return result


def _print_row(label: str, result: dict[str, Any]) -> None:
    times = result["milliseconds"]
    figures = " ".join(f"{times[stage]:10.2f}" for stage in (*STAGES, "iteration"))
    memory = result["bytes_a_gaussian"]
    print(f"{label:>24} {figures}  {result['nanoseconds_a_pair']:.2f} ns a pair, {memory:.0f} B a Gaussian", flush=True)


def _print(report: dict[str, Any]) -> None:
    for name, peak in report["peak"].items():
        print(f"{name}: {peak:.0f} G multiply-adds a second at most")
    for result in report["scene"]:
        share = result["gigaflops_blending"] / (2 * report["peak"][result["instruction_set"]])
        print(
            f"{result['gaussians']:,} Gaussians, {result['instruction_set']}, {result['threads']} "
            f"threads: {result['milliseconds']['iteration']:.1f} ms an iteration, {result['pairs'] / 1e6:.1f} M pairs "
            f"({result['pairs_a_second'] / 1e9:.2f} G a second), "
            f"{100 * result['lane_use']:.0f} % of lanes, blending at {100 * share:.0f} % of the all-thread peak"
        )

    linear = report["linear"]
    print(
        f"blending takes {linear['nanoseconds_a_pair']:.2f} ns a pair and {linear['nanoseconds_a_pixel']:.2f} ns a "
        f"pixel, which explains all but `size` within {100 * linear['largest_deviation']:.0f} %"
    )


def _chart(report: dict[str, Any], path: Path) -> Path | None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        print("no chart: pip install matplotlib to draw one")
        return None
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    for result in report["scene"]:
        left = 0.0
        label = f"{result['instruction_set']}, {result['threads']}"
        for index, stage in enumerate(STAGES):
            value = result["milliseconds"][stage]
            axes[0].barh(label, value, left=left, color=f"C{index}", label=stage)
            left += value
    handles, labels = axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes[0].legend(unique.values(), unique.keys(), fontsize=8)
    axes[0].set(title="one iteration on a real scene (instruction set, threads)", xlabel="milliseconds")
    for key in ("work", "size"):
        results = report[key]
        axes[1].plot(
            [result["gaussians"] for result in results],
            [result["nanoseconds_a_pair"] for result in results],
            "o-",
            label=key,
        )
    axes[1].set(
        xscale="log", xlabel="Gaussians", ylabel="ns of blending a pair", ylim=(0, None), title="cost of a pair"
    )
    linear = report["linear"]
    for key in ("work", "gaussians", "pixels"):
        explained = [
            1e-6 * linear["nanoseconds_a_pair"] * result["pairs"]
            + 1e-6 * linear["nanoseconds_a_pixel"] * result["width"] * result["height"]
            for result in report[key]
        ]
        axes[2].plot(explained, [_blending(result) for result in report[key]], "o", label=key)
    axes[2].axline((1, 1), slope=1, color="grey", linewidth=1)
    axes[2].set(
        xscale="log",
        yscale="log",
        xlabel=f"{linear['nanoseconds_a_pair']:.2f} ns · pairs + {linear['nanoseconds_a_pixel']:.2f} ns · pixels",
        ylabel="milliseconds of blending",
        title="linear in pairs and pixels",
    )
    for axis in axes[1:]:
        axis.legend()
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
