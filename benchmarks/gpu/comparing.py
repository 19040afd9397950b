"""Differences between what the device draws and what a judge draws: the reference, or the CPU backend."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.bench import CPU, SEED, Bench, Failed, Result, judged
from gns.gaussian_renderer import ScreenGradients, reference, render
from gns.gaussian_renderer.backends import IN_USE
from gns.gaussian_renderer.backends.cpu import CpuBackend
from gns.losses.photometric import dissimilarity, photometric_loss
from gns.model.population import Population
from gns.rules import screen_gradients
from gns.scene import Camera, Gaussians
from gns.scene.gaussians import GROUPS
from gns.testing.comparison import Outcome, evaluate
from gns.testing.examples import Example, converted, example_of

# Share of entries that may differ: an α on the edge of 1/255 or a transmittance on that of 1e-4 may fall either way.
MOST_DIFFERENT = 1e-3
IMAGE_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 2e-3


def against_reference(bench: Bench, scene: Example) -> Result:
    """Differences from the reference, but for pixels in which a decision hangs on rounding; raises Failed."""
    band = reference.near_cutoff(scene.camera, scene.gaussians, sh_degree=scene.sh_degree)
    expected = evaluate(reference.render, scene, torch.float64, ~band)
    return compared(evaluate(render, scene, torch.float32, ~band, bench.device), expected, ~band)


def against_cpu(bench: Bench, camera: Camera, gaussians: Gaussians) -> Result:
    """Differences from the CPU backend, in all pixels; raises Failed."""
    scene = example_of(camera, gaussians)
    everywhere = torch.ones(camera.height, camera.width, dtype=torch.bool)
    expected = on_the_cpu(scene, everywhere)
    return compared(evaluate(render, scene, torch.float32, everywhere, bench.device), expected, everywhere)


def on_the_cpu(scene: Example, counted: Tensor) -> Outcome:
    """What the CPU backend makes of an example."""
    with cpu_backend():
        return evaluate(render, scene, torch.float32, counted)


def compared(found: Outcome, expected: Outcome, counted: Tensor) -> Result:
    """Differences by tensor; raises Failed where one is too large."""
    result: Result = {}
    faults = []
    drawn, should = found.radii > 0, expected.radii > 0
    result["drawn differently"] = int((drawn != should).sum())
    if result["drawn differently"] > MOST_DIFFERENT * len(drawn):
        faults.append("radii")
    actuals = tensors_of(found)
    for name, wanted in tensors_of(expected).items():
        actual = actuals[name]
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


def tensors_of(outcome: Outcome) -> dict[str, Tensor]:
    """Its tensors by the names that stand in the figures."""
    names = {name: f"{name} gradient" for name in outcome.gradients}
    names |= {"abs_grad": "absolute screen gradient", "signed_grad": "signed screen gradient"}
    return {
        "image": outcome.image,
        "alpha": outcome.alpha,
        "radii": outcome.radii,
        "importance": outcome.importance,
        **{names[name]: values for name, values in outcome.gradients.items()},
    }


def iterate(scene: Example, device: torch.device, steps: int, *, observed: bool = True) -> dict[str, Tensor]:
    """`steps` whole iterations; the parameters, moments, losses and pictures, all that determinism is about."""
    gaussians = converted(scene.gaussians, torch.float32).to(device)
    population = Population(gaussians, screen_gradients.EXTRAS)
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
            screen_gradients=ScreenGradients(absolute=observed),
            accumulate=True,
        )
        loss = photometric_loss(seen.image, photo, mask, squared=step % 2 == 1) + 0.01 * seen.alpha.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if observed:
            screen_gradients.observe(population, seen.abs_grad, seen.radii)
            kept[f"screen gradients {step}"] = seen.abs_grad
        population.step(GROUPS, dict.fromkeys(GROUPS, 1e-3))
        assert seen.importance is not None
        kept |= {f"image {step}": seen.image.detach(), f"loss {step}": loss.detach()}
        kept[f"dissimilarity {step}"] = dissimilarity(seen.image, photo, mask)
        kept |= {f"radii {step}": seen.radii, f"importance {step}": seen.importance}
    for name, group in population.state_dict()["groups"].items():
        kept |= {f"{name} {part}": group[part] for part in ("parameter", "first_moment", "second_moment")}
    return kept


@contextmanager
def poisoned(device: torch.device) -> Iterator[None]:
    """New memory holds NaN and the largest integers inside the block, so that reading it before writing shows."""
    judged(device).idle.clear()
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch then fills what it allocates
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        judged(device).idle.clear()


@contextmanager
def cpu_backend() -> Iterator[None]:
    """What lies on the CPU takes the CPU backend inside the block, also in a test that sends all through the other."""
    with mock.patch.dict(IN_USE, {CPU: CpuBackend()}):
        yield
