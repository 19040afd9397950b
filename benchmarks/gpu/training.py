"""A short run beside the CPU backend's, and a longer one alone."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.bench import CPU, SEED, Bench, Failed, Result
from benchmarks.gpu.comparing import cpu_backend
from gns.arguments import TrainConfig
from gns.scene import Scene
from gns.testing.tiny import cameras_on_an_arc, grey_points, photographed, small_gaussians
from gns.training.listeners.held_out import held_out_psnr
from gns.training.loop import Trainer


def training(bench: Bench) -> Result:
    """The loss follows the CPU backend's, and falls."""
    _, ours = train_synthetic(bench, bench.device, bench.beside_cpu)
    with cpu_backend():
        _, cpu = train_synthetic(bench, CPU, bench.beside_cpu)
    drift = [abs(a - b) / b for a, b in zip(ours, cpu, strict=True)]
    early = drift[: max(1, len(drift) // 10)]
    start = time.perf_counter()
    score, losses = train_synthetic(bench, bench.device, bench.alone, run_length=bench.alone)
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


def train_synthetic(
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
    trainer = Trainer(config, scene, device=device, views=moved)
    state = trainer.begin()
    while state.iteration < iterations:
        trainer.advance(state, lambda it, names, loss: losses.append(loss))
    return held_out_psnr(state.population.gaussians, scene), torch.stack(losses).tolist()


def synthetic_scene(views: int, width: int, height: int, count: int) -> Scene:
    """Photos of `count` Gaussians from cameras on an arc, made by the CPU backend; half of the means to start from."""
    generator = torch.Generator().manual_seed(SEED)
    truth = small_gaussians(count, generator, sigma=0.03, spread=0.4)
    with cpu_backend():
        seen = photographed(truth, cameras_on_an_arc(views, width, height, arc=1.2, focal=1.2 * width))
    held_out = seen[::8]
    kept = [view for view in seen if view not in held_out]
    return Scene("synthetic", kept, held_out, grey_points(truth.means[: count // 2]), 1.5, (0.0, 0.0, 0.0))
