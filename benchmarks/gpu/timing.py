"""Each stage and the whole iteration; memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.bench import SEED, Bench, Result, Room, crowd, judged, median, milliseconds, reset_memory
from gns.gaussian_renderer import ScreenGradients, render
from gns.gaussian_renderer.autograd import planes_of
from gns.gaussian_renderer.backends import gpu
from gns.gaussian_renderer.backends.protocol import RenderInputs
from gns.losses.photometric import photometric_loss
from gns.model.population import Population
from gns.rules import screen_gradients
from gns.scene import Camera
from gns.scene.gaussians import GROUPS
from gns.training.memory import training_bytes
from gns.utils.workspace import Workspace


def timing(bench: Bench) -> Result:
    """Medians in milliseconds, stage by stage and of whole iterations; memory."""
    return {f"{count:,} Gaussians": _time_crowd(bench, count) for count in bench.timed}


def _time_crowd(bench: Bench, count: int) -> Result:
    camera, gaussians = crowd(count, *bench.size, bench.device)
    reset_memory(bench.device)
    population, photo = Population(gaussians, screen_gradients.EXTRAS), photo_of(bench)
    del gaussians
    iteration, host = time_iteration(bench, camera, population, photo)
    peak = torch.cuda.max_memory_allocated(bench.device) if bench.device.type == "cuda" else 0
    result: Result = {
        "iteration": median(iteration),
        "fastest iteration": min(iteration),
        "host of an iteration": median(host),
        "peak gigabytes": peak / 1e9,
        "estimated gigabytes": training_bytes(count, 3, bench.size[0] * bench.size[1], bench.device) / 1e9,
    }
    apart, _ = time_iteration(bench, camera, population, photo, in_backward=False)
    result["iteration with a separate step of Adam"] = median(apart)
    plain, _ = time_iteration(bench, camera, population, photo, observed=False)
    result["iteration without screen gradients"] = median(plain)
    with mock.patch.object(judged(bench.device), "forecast", Room(0)):
        waiting, _ = time_iteration(bench, camera, population, photo)
    result["iteration that waits for the number of instances"] = median(waiting)
    result |= _time_stages(bench, camera, population, photo)
    return result


def time_iteration(
    bench: Bench,
    camera: Camera,
    population: Population,
    photo: Tensor,
    *,
    observed: bool = True,
    in_backward: bool = True,
) -> tuple[list[float], list[float]]:
    """Times of render, loss, backward, statistics and Adam as training runs them, and of the host's share."""
    background = torch.zeros(3, device=bench.device)
    workspace = Workspace(bench.device)
    still = dict.fromkeys(GROUPS, 0.0)  # step sizes: Adam does all its work, and the model stays as it is
    host: list[float] = []

    def iterate() -> None:
        start = time.perf_counter()
        step = population.step_in_backward(still) if in_backward else None
        seen = render(
            camera,
            population.gaussians,
            background,
            screen_gradients=ScreenGradients(absolute=observed),
            accumulate=True,
            workspace=workspace,
            step=step,
        )
        photometric_loss(seen.image, photo, workspace=workspace).backward()  # type: ignore[no-untyped-call]
        if observed:
            screen_gradients.observe(population, seen.abs_grad, seen.radii)
        if step is None:
            population.step(GROUPS, still)
        host.append(1e3 * (time.perf_counter() - start))

    return milliseconds(bench.device, iterate, bench.rounds), host


def _time_stages(bench: Bench, camera: Camera, population: Population, photo: Tensor) -> Result:
    gaussians, still = population.gaussians, dict.fromkeys(GROUPS, 0.0)
    parameters = tuple(planes_of(values) for _, values in gaussians.named_tensors())
    gradients = tuple(values.grad.movedim(0, -1) for _, values in gaussians.named_tensors() if values.grad is not None)
    image, alpha = (
        photo.new_empty(3, *photo.shape[:2], dtype=torch.float32),
        photo.new_empty(photo.shape[:2], dtype=torch.float32),
    )
    radii, absolute = torch.empty_like(parameters[3]), torch.empty_like(parameters[0][:2])
    edges, background = torch.rand_like(alpha), torch.zeros(3, device=bench.device)
    rendering = gpu.Rendering(judged(bench.device), RenderInputs(camera, parameters, 3, background, edges))
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
        "project_backward_step": lambda: rendering.project_backward_step(
            population.step_in_backward(still), absolute, None
        ),
        "adam": lambda: population.step(GROUPS, still),
    }
    medians = {name: median(milliseconds(bench.device, body, bench.rounds)) for name, body in stages.items()}
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


def photo_of(bench: Bench) -> Tensor:
    width, height = bench.size
    generator = torch.Generator().manual_seed(SEED)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).to(bench.device)
