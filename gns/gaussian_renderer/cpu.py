"""The renderer on the CPU: native kernels (gns/csrc/cpu) behind one autograd function.

A rendering is four stages forward (project, sort by depth, list the instances of every tile, blend) and two backward
(blend_backward, project_backward). The native object keeps what they hand on to each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gns.gaussian_renderer.output import RenderOutput
from gns.scene.camera import Camera
from gns.scene.gaussians import Gaussians, as_planes
from gns.utils import native

_native = native.load()


def thread_count() -> int:
    """Threads that the kernels use."""
    count: int = _native.thread_count()
    return count


def set_threads(count: int) -> None:
    """Use `count` threads in all kernels; 0 means one for each core this process may run on. Never changes a result."""
    _native.set_thread_count(count)


def instruction_sets() -> list[str]:
    """Builds of the kernels that run on this machine, best first: avx512, avx2, baseline."""
    names: list[str] = _native.instruction_sets()
    return names


def use_instruction_set(name: str) -> None:
    """Force one of `instruction_sets()`. Results differ between them by rounding."""
    _native.use_instruction_set(name)


def new_rendering(dtype: torch.dtype) -> Any:
    """A native rendering, which keeps what its stages hand on to each other."""
    if dtype == torch.float32:
        return _native.RenderingFloat()
    if dtype == torch.float64:
        return _native.RenderingDouble()
    raise TypeError(f"the renderer computes in float32 or float64, not {dtype}")


def _planes(values: Tensor) -> Tensor:
    """[N, ...] as the kernels read it: the Gaussian's index last, contiguous. Copies only what lies otherwise."""
    return as_planes(values.detach()).movedim(0, -1)


def _forward(
    camera: Camera,
    parameters: tuple[Tensor, ...],
    background: Tensor,
    sh_degree: int,
    edges: Tensor | None,
    with_image: bool,
) -> tuple[Any, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Runs the forward stages; returns the native rendering, image, alpha, radii and importance."""
    means = parameters[0]
    dtype, count = means.dtype, means.shape[0]
    image = means.new_empty(3, camera.height, camera.width) if with_image else None
    alpha = means.new_empty(camera.height, camera.width) if with_image else None
    radii = means.new_empty(count) if with_image else None
    importance = means.new_empty(count) if edges is not None else None
    rendering = new_rendering(dtype)
    rendering.forward(
        (camera.fx, camera.fy, camera.cx, camera.cy),
        (camera.width, camera.height),
        tuple(camera.world_to_camera.ravel()),
        *(_planes(values) for values in parameters),
        sh_degree,
        tuple(background.tolist()),
        image,
        alpha,
        radii,
        None if edges is None else edges.to(dtype).contiguous(),
        importance,
    )
    return rendering, image, alpha, radii, importance


class _Render(torch.autograd.Function):
    """Image and alpha as a differentiable function of the six parameter groups."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        log_scales: Tensor,
        quats: Tensor,
        logits: Tensor,
        sh_dc: Tensor,
        sh_rest: Tensor,
        request: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        parameters = (means, log_scales, quats, logits, sh_dc, sh_rest)
        rendering, image, alpha, radii, importance = _forward(
            request["camera"], parameters, request["background"], request["sh_degree"], request["edges"], True
        )
        assert image is not None and alpha is not None
        request.update(radii=radii, importance=importance, rendering=rendering)
        ctx.rendering = rendering
        ctx.request = request
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*parameters, image)
        return image, alpha

    @staticmethod
    def backward(ctx: Any, image_gradient: Tensor | None, alpha_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        *parameters, image = ctx.saved_tensors
        request = ctx.request
        if image_gradient is None and alpha_gradient is None:
            return (None,) * 7
        if image_gradient is None:
            image_gradient = torch.zeros_like(image)
        if request["accumulate"]:
            gradients = [values.grad for values in request["leaves"]]
        else:
            gradients = [as_planes(torch.zeros_like(values)) for values in parameters]
        ctx.rendering.backward(
            *(_planes(values) for values in parameters),
            request["sh_degree"],
            image.detach(),
            image_gradient.contiguous(),
            None if alpha_gradient is None else alpha_gradient.contiguous(),
            *(gradient.movedim(0, -1) for gradient in gradients),
            request["abs_grad"].movedim(0, -1),
        )
        if request["accumulate"]:
            return (None,) * 7
        return (*gradients, None)


_render: Callable[..., tuple[Tensor, Tensor]] = _Render.apply


def render(
    camera: Camera,
    gaussians: Gaussians,
    background: Tensor,
    *,
    edges: Tensor | None = None,
    sh_degree: int | None = None,
    accumulate: bool = False,
) -> RenderOutput:
    """See `gns.gaussian_renderer.render`."""
    leaves = tuple(values for _, values in gaussians.named_tensors())
    if accumulate:
        for name, values in gaussians.named_tensors():
            if values.grad is None or not values.grad.movedim(0, -1).is_contiguous():
                raise ValueError(f"accumulate=True adds to {name}.grad, which must exist and be stored as planes")
    request: dict[str, Any] = {
        "camera": camera,
        "background": background,
        "sh_degree": gaussians.sh_degree if sh_degree is None else sh_degree,
        "edges": edges,
        "accumulate": accumulate,
        "leaves": leaves,
        "abs_grad": as_planes(gaussians.means.new_zeros(len(gaussians), 2)),
    }
    image, alpha = _render(*leaves, request)
    return RenderOutput(image, alpha, request["radii"], request["abs_grad"], request["importance"])


@torch.no_grad()
def importance(camera: Camera, gaussians: Gaussians, edges: Tensor) -> Tensor:
    """See `gns.gaussian_renderer.importance`."""
    parameters = tuple(values for _, values in gaussians.named_tensors())
    *_, scores = _forward(camera, parameters, torch.zeros(3), 0, edges, with_image=False)
    assert scores is not None
    return scores
