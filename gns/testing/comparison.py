"""Evaluate a renderer on an example, and compare the outcome with the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from gns.gaussian_renderer import instruction_sets, reference, render, use_instruction_set
from gns.gaussian_renderer.output import RenderOutput, ScreenGradients
from gns.scene import Camera, Gaussians
from gns.testing.examples import EXAMPLES, Example, converted


class Renderer(Protocol):
    """What the reference and the production renderer have in common."""

    def __call__(
        self,
        camera: Camera,
        gaussians: Gaussians,
        background: Tensor,
        *,
        edges: Tensor | None = None,
        sh_degree: int | None = None,
        screen_gradients: ScreenGradients = ...,
        inverse_depth: bool = False,
        counts: bool = False,
    ) -> RenderOutput: ...


BOTH = ScreenGradients(absolute=True, signed=True)


@dataclass(frozen=True)
class Backend:
    """A way to run the production code, and how closely it has to follow the reference."""

    instruction_set: str
    dtype: torch.dtype
    image: float  # absolute, of colours, alpha
    gradient: float  # relative to the largest entry of each tensor; also radii and importance
    rounding: float  # relative: between two orders of summation of the same numbers

    def __str__(self) -> str:
        return f"{self.instruction_set}-{'double' if self.dtype == torch.float64 else 'float'}"


BACKENDS = [
    backend
    for name in instruction_sets()
    for backend in (
        Backend(name, torch.float64, image=1e-9, gradient=1e-7, rounding=1e-12),
        Backend(name, torch.float32, image=1e-5, gradient=1e-3, rounding=1e-5),
    )
]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a renderer made of an example, as float64 on the CPU."""

    image: Tensor  # [3, H, W]
    alpha: Tensor  # [H, W]
    radii: Tensor  # [N]
    importance: Tensor  # [N]
    gradients: dict[str, Tensor]  # by parameter group, and both screen gradients
    inverse_depth: Tensor | None = None  # [H, W], where the outcome is one with maps
    counts: Tensor | None = None  # [H, W], the same


CPU = torch.device("cpu")


def trainable(gaussians: Gaussians, dtype: torch.dtype, device: torch.device = CPU) -> Gaussians:
    """A copy whose parameters ask for gradients."""
    copy = converted(gaussians, dtype).to(device)
    for _, values in copy.named_tensors():
        values.requires_grad_()
    return copy


def evaluate(
    renderer: Renderer,
    example: Example,
    dtype: torch.dtype,
    counted: Tensor,
    device: torch.device = CPU,
    *,
    maps: bool = False,
) -> Outcome:
    """Render on `device`, weigh the pixels `counted` [H, W] (bool) to a scalar, and go back to the parameters.

    With `maps` inverse depth and counts are drawn too, and the former is weighed in.
    """
    gaussians = trainable(example.gaussians, dtype, device)
    output = renderer(
        example.camera,
        gaussians,
        example.background.to(device, dtype),
        edges=(example.edges * counted).to(device, dtype),
        sh_degree=example.sh_degree,
        screen_gradients=BOTH,
        inverse_depth=maps,
        counts=maps,
    )
    by_image = output.image * (example.image_weights * counted).to(device, output.image.dtype)
    by_alpha = output.alpha * (example.alpha_weights * counted).to(device, output.alpha.dtype)
    loss = by_image.sum() + by_alpha.sum()
    if output.inverse_depth is not None:
        weights = example.depth_weights * counted
        loss = loss + (output.inverse_depth * weights.to(device, output.inverse_depth.dtype)).sum()
    torch.autograd.backward(loss)
    assert output.importance is not None
    screen = {"abs_grad": output.abs_grad.cpu().double(), "signed_grad": output.signed_grad.cpu().double()}
    return Outcome(
        image=output.image.detach().cpu().double(),
        alpha=output.alpha.detach().cpu().double(),
        radii=output.radii.cpu().double(),
        importance=output.importance.cpu().double(),
        gradients=gradients_of(gaussians) | screen,
        inverse_depth=None if output.inverse_depth is None else output.inverse_depth.detach().cpu().double(),
        counts=None if output.counts is None else output.counts.cpu(),
    )


def gradients_of(gaussians: Gaussians) -> dict[str, Tensor]:
    """Copies of the gradients as float64 on the CPU; a group without gradient counts as zero."""
    return {
        name: torch.zeros_like(values).cpu().double() if values.grad is None else values.grad.cpu().double().clone()
        for name, values in gaussians.named_tensors()
    }


@cache
def example(name: str) -> Example:
    """The named example; built once, not to be changed."""
    return EXAMPLES[name]()


@cache
def outside_band(name: str) -> Tensor:
    """Pixels [H, W] (bool) of the named example in which no decision hangs on rounding; nearly all of them."""
    scene = example(name)
    band = reference.near_cutoff(scene.camera, scene.gaussians, sh_degree=scene.sh_degree)
    assert band.double().mean() <= 1e-2, f"{int(band.sum())} of {band.numel()} pixels are in the boundary band"
    return ~band


@cache
def judgement(name: str) -> Outcome:
    """What the reference makes of the named example."""
    return evaluate(reference.render, example(name), torch.float64, outside_band(name))


@cache
def judgement_of_maps(name: str) -> Outcome:
    """The same, with maps."""
    return evaluate(reference.render, example(name), torch.float64, outside_band(name), maps=True)


@cache
def drawn(name: str, backend: Backend) -> Outcome:
    """What the production renderer makes of the named example; rendered once, for all that it is judged by."""
    use_instruction_set(backend.instruction_set)
    return evaluate(render, example(name), backend.dtype, outside_band(name))


def assert_outcomes_agree(actual: Outcome, expected: Outcome, counted: Tensor, backend: Backend) -> None:
    """Pictures, radii, importance and gradients agree, the former in all pixels `counted`."""
    assert_images_agree(actual, expected, counted, backend)
    assert_radii_agree(actual.radii, expected.radii, backend.gradient)
    assert_close(actual.importance, expected.importance, backend.gradient, "importance")
    assert_gradients_agree(actual.gradients, expected.gradients, backend.gradient)


def assert_same_bits(first: Outcome, second: Outcome) -> None:
    """Not one number differs."""
    for name in ("image", "alpha", "radii", "importance"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.gradients.keys() == second.gradients.keys()
    for name, values in first.gradients.items():
        assert torch.equal(values, second.gradients[name]), name


def assert_images_agree(actual: Outcome, expected: Outcome, counted: Tensor, backend: Backend) -> None:
    """Colours and alpha agree in all pixels `counted`, and no pixel at all is NaN."""
    for name in ("image", "alpha"):
        found: Tensor = getattr(actual, name)
        wanted: Tensor = getattr(expected, name)
        assert found.shape == wanted.shape, f"{name}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
        assert torch.isfinite(found).all(), f"{name} has pixels that are not finite"
        error = ((found - wanted).abs() * counted).max().item()
        assert error <= backend.image, f"{name} is off by {error:.2e}, allowed {backend.image:.0e}"


def assert_maps_agree(actual: Outcome, expected: Outcome, counted: Tensor, backend: Backend) -> None:
    """Inverse depths agree in all pixels `counted` (none is above 5 in the examples), and counts are equal there."""
    assert actual.inverse_depth is not None and expected.inverse_depth is not None
    assert actual.counts is not None and expected.counts is not None
    assert torch.isfinite(actual.inverse_depth).all()
    error = ((actual.inverse_depth - expected.inverse_depth).abs() * counted).max().item()
    assert error <= 5 * backend.image, f"inverse depth is off by {error:.2e}, allowed {5 * backend.image:.0e}"
    wrong = (actual.counts != expected.counts) & counted
    assert not wrong.any(), f"counts differ in {int(wrong.sum())} pixels"


def assert_gradients_agree(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    """Every tensor agrees, relative to its largest expected entry; where that is zero, exactly."""
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        assert_close(actual[name], wanted, tolerance, name)


def assert_radii_agree(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """The same Gaussians are drawn, and each radius agrees relative to itself."""
    assert torch.equal(actual > 0, expected > 0), f"drawn differently: {(actual > 0).ne(expected > 0).nonzero()}"
    error = (actual - expected).abs()
    assert (error <= tolerance * expected).all(), f"radii are off by {error.max():.2e}"


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, name: str) -> None:
    """The largest difference is at most `tolerance` times the largest expected entry (NaN is a difference)."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    error, largest = (actual - expected).abs().max().item(), expected.abs().max().item()
    assert error <= tolerance * largest, f"{name} is off by {error:.2e}, {tolerance:.0e} of {largest:.2e} is allowed"
