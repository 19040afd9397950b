"""A backend's rendering as a differentiable function: what is the same for every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from gns.gaussian_renderer.output import RenderOutput
from gns.scene.camera import Camera
from gns.scene.gaussians import Gaussians
from gns.utils.workspace import Workspace

# The six parameter groups, or their gradients, as kernels read them: the Gaussian's index last, contiguous.
Planes = tuple[Tensor, ...]


class Rendering(Protocol):
    """One rendering of a backend; it keeps what the backward pass needs of the forward pass."""

    def forward(
        self,
        image: Tensor | None,
        alpha: Tensor | None,
        radii: Tensor | None,
        background: Tensor,
        edges: Tensor | None,
        importance: Tensor | None,
    ) -> None:
        """Fill what is given: image [3, H, W], alpha [H, W], radii [N]; importance [N], with edges [H, W]."""
        ...

    def backward(
        self,
        image: Tensor,
        alpha: Tensor,
        image_gradient: Tensor,
        alpha_gradient: Tensor | None,
        gradients: Planes,
        abs_grad: Tensor | None,
    ) -> None:
        """Add to `gradients`, and write abs_grad [2, N] where given.

        Image and alpha are those of the forward pass, and so must the parameters be that the rendering was given.
        """
        ...


# (camera, parameters, degree of spherical harmonics) -> a rendering
Begin = Callable[[Camera, Planes, int], Rendering]


def planes_of(values: Tensor) -> Tensor:
    """[N, ...] with the Gaussian's index last, contiguous. Copies only what lies otherwise in memory."""
    return values.detach().movedim(0, -1).contiguous()


class _Render(torch.autograd.Function):
    """Image and alpha as a differentiable function of the six parameter groups."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        log_scales: Tensor,
        quats: Tensor,
        opacity_logits: Tensor,
        sh_dc: Tensor,
        sh_rest: Tensor,
        request: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        parameters = (means, log_scales, quats, opacity_logits, sh_dc, sh_rest)
        camera = request["camera"]
        take = request["take"]
        image = take("image", (3, camera.height, camera.width), means.dtype)
        alpha = take("alpha", (camera.height, camera.width), means.dtype)
        rendering = request["begin"](camera, tuple(map(planes_of, parameters)), request["sh_degree"])
        rendering.forward(
            image, alpha, request["radii"], request["background"], request["edges"], request["importance"]
        )
        ctx.rendering, ctx.request = rendering, request
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*parameters, image, alpha)  # autograd notices a change before the backward pass
        return image, alpha

    @staticmethod
    def backward(ctx: Any, image_gradient: Tensor | None, alpha_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        *parameters, image, alpha = ctx.saved_tensors
        request = ctx.request
        if image_gradient is None and alpha_gradient is None:
            return (None,) * 7
        if image_gradient is None:
            image_gradient = torch.zeros_like(image)
        # Fresh ones are cleared, those to accumulate in hold earlier views.
        gradients = request["gradients"] or tuple(
            values.new_zeros(*values.shape[1:], len(values)) for values in parameters
        )
        ctx.rendering.backward(
            image.detach(),
            alpha.detach(),
            image_gradient.contiguous(),
            None if alpha_gradient is None else alpha_gradient.contiguous(),
            gradients,
            request["abs_grad"],
        )
        if request["gradients"]:
            return (None,) * 7
        return (*(gradient.movedim(-1, 0) for gradient in gradients), None)


_render: Callable[..., tuple[Tensor, Tensor]] = _Render.apply


def render(
    begin: Begin,
    camera: Camera,
    gaussians: Gaussians,
    background: Tensor,
    *,
    edges: Tensor | None = None,
    sh_degree: int | None = None,
    screen_gradients: bool = True,
    accumulate: bool = False,
    workspace: Workspace | None = None,
) -> RenderOutput:
    """See `gns.gaussian_renderer.render`; `begin` is the backend."""
    leaves = tuple(values for _, values in gaussians.named_tensors())
    count, like = len(gaussians), gaussians.means
    take = (workspace or Workspace(like.device)).take
    abs_grad = take("abs_grad", (2, count), like.dtype).zero_() if screen_gradients else None
    request: dict[str, Any] = {
        "begin": begin,
        "camera": camera,
        "background": background,
        "sh_degree": gaussians.sh_degree if sh_degree is None else sh_degree,
        "edges": None if edges is None else edges.to(like.dtype).contiguous(),
        "gradients": _gradient_planes(gaussians) if accumulate else None,
        "take": take,
        "radii": take("radii", (count,), like.dtype),
        "importance": None if edges is None else take("importance", (count,), like.dtype),
        "abs_grad": abs_grad,
    }
    image, alpha = _render(*leaves, request)
    absolute = like.new_empty(0, 2) if abs_grad is None else abs_grad.movedim(0, -1)
    return RenderOutput(image, alpha, request["radii"], absolute, request["importance"])


def _gradient_planes(gaussians: Gaussians) -> Planes:
    """The parameters' gradients, to be added to."""
    planes = []
    for name, values in gaussians.named_tensors():
        gradient = None if values.grad is None else values.grad.movedim(0, -1)
        if gradient is None or not gradient.is_contiguous():
            raise ValueError(f"accumulate=True adds to {name}.grad, which must exist and be stored as planes")
        planes.append(gradient)
    return tuple(planes)


@torch.no_grad()
def importance(begin: Begin, camera: Camera, gaussians: Gaussians, edges: Tensor) -> Tensor:
    """See `gns.gaussian_renderer.importance`; `begin` is the backend."""
    means = gaussians.means
    scores = means.new_empty(len(gaussians))
    parameters = tuple(planes_of(values) for _, values in gaussians.named_tensors())
    begin(camera, parameters, 0).forward(
        None, None, None, means.new_zeros(3), edges.to(means.dtype).contiguous(), scores
    )
    return scores
