"""Gaussians in, pictures out; differentiable. The device of the tensors decides the backend."""

from __future__ import annotations

from torch import Tensor

from gns.gaussian_renderer import autograd
from gns.gaussian_renderer.backends import cpu
from gns.gaussian_renderer.backends import gpu as cuda
from gns.gaussian_renderer.backends.cpu import instruction_sets, set_threads, thread_count, use_instruction_set
from gns.gaussian_renderer.output import RenderOutput, ScreenGradients
from gns.scene.camera import Camera
from gns.scene.gaussians import Gaussians
from gns.utils.workspace import Workspace

__all__ = [
    "RenderOutput",
    "ScreenGradients",
    "importance",
    "instruction_sets",
    "release_memory",
    "render",
    "set_threads",
    "thread_count",
    "use_instruction_set",
]


def render(
    camera: Camera,
    gaussians: Gaussians,
    background: Tensor,
    *,
    edges: Tensor | None = None,
    sh_degree: int | None = None,
    screen_gradients: ScreenGradients = ScreenGradients(absolute=True),
    accumulate: bool = False,
    workspace: Workspace | None = None,
) -> RenderOutput:
    """Render one view by 3D Gaussian splatting (Kerbl et al. 2023), differentiable in every parameter of `gaussians`.

    Args:
        camera: pinhole camera with its real principal point.
        gaussians: raw parameters, float32 (on the CPU also float64); activations happen inside. All other tensors must
            be on their device.
        background: RGB in [0, 1], [3]; a constant, no gradient flows to it.
        edges: edge strength of the view, [H, W]; when given, `importance` is computed along.
        sh_degree: highest spherical-harmonic degree to evaluate; default: all that the coefficients hold.
        screen_gradients: whether the backward pass fills `abs_grad`, which costs a few percent.
        accumulate: the backward pass adds straight into each parameter's `.grad`, which must exist and be stored as
            planes, instead of handing autograd fresh tensors. Same numbers; no allocation.
        workspace: memory for the results, which the next rendering with the same workspace overwrites; default: fresh.

    Returns:
        RenderOutput; `abs_grad` is filled by the backward pass.

    Two calls with the same input give the same bits, forward and backward, whatever the number of threads.
    """
    return autograd.render(
        _backend(gaussians),
        camera,
        gaussians,
        background,
        edges=edges,
        sh_degree=sh_degree,
        screen_gradients=screen_gradients.absolute,
        accumulate=accumulate,
        workspace=workspace,
    )


def importance(camera: Camera, gaussians: Gaussians, edges: Tensor) -> Tensor:
    """Edge-weighted contribution of each Gaussian to one view: the sum over pixels of edge·T·α, [N].

    The forward walk without colour: about a third cheaper than `render(..., edges=edges).importance`, and the same
    bits. `edges` is [H, W] in [0, 1]. No gradient. Score of the densification of Improved-GS (arXiv 2508.12313).
    """
    return autograd.importance(_backend(gaussians), camera, gaussians, edges)


def release_memory() -> None:
    """Let go of the buffers that renderings keep for the next one: they have the size of the largest so far."""
    cpu.release_memory()
    cuda.release_memory()


def _backend(gaussians: Gaussians) -> autograd.Begin:
    return cuda.Rendering if cuda.runs_on(gaussians.means.device) else cpu.Rendering
