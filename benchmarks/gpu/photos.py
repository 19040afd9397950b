"""A short run on photos."""

from __future__ import annotations

import time

from benchmarks.gpu.bench import Bench, Result, Skipped, reset_memory
from gns.arguments import parse_train
from gns.scene.readers import SceneOptions, read_scene
from gns.training.listeners.held_out import held_out_psnr
from gns.training.loop import train


def photos(bench: Bench) -> Result:
    """A short run on photos: iterations a second and held-out PSNR."""
    if bench.scene is None or not bench.scene.is_dir():
        raise Skipped(f"there is no scene {bench.scene}")
    scene = read_scene(bench.scene, SceneOptions(), lambda _: None)
    arguments = ["-s", str(bench.scene), "--final-budget", "60000", "--quiet"]
    config = parse_train([*arguments, "--iterations", str(bench.photo_iterations), "--test-iterations", "-1"])
    reset_memory(bench.device)
    start = time.perf_counter()
    state = train(scene, config, device=bench.device)
    seconds = time.perf_counter() - start
    return {
        "scene": bench.scene.name,
        "iterations": config.iterations,
        "seconds": seconds,
        "iterations a second": config.iterations / seconds,
        "gaussians": len(state.population),
        "held-out PSNR": held_out_psnr(state.population.gaussians, scene) if scene.test else None,
    }
