"""What breaks renderers: nothing to draw, broken parameters, giants, stacks, very many tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from benchmarks.gpu.bench import Bench, Failed, Result
from benchmarks.gpu.comparing import compared, on_the_cpu, poisoned, tensors_of
from gns.gaussian_renderer import render
from gns.testing.comparison import evaluate
from gns.testing.examples import EXAMPLES, Example, camera_at, converted, example_of, gaussians_seen


def edge_cases(bench: Bench) -> Result:
    """What breaks renderers; the CPU backend is the judge, and no pixel and no gradient may be NaN."""
    result: Result = {}
    faults = []
    for name, scene in _edge_scenes(bench):
        everywhere = torch.ones(scene.camera.height, scene.camera.width, dtype=torch.bool)
        with poisoned(bench.device):
            try:
                found = evaluate(render, scene, torch.float32, everywhere, bench.device)
                result[name] = compared(found, on_the_cpu(scene, everywhere), everywhere)
                if not all(values.isfinite().all() for values in tensors_of(found).values()):
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
