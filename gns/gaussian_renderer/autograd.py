"""Rendering as a differentiable function of the six parameter groups: what is the same for every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.backends.protocol import (
    Backend,
    BackwardStep,
    Planes,
    RenderGradients,
    RenderInputs,
    RenderTargets,
)
from gns.gaussian_renderer.output import ABSOLUTE, RenderOutput, ScreenGradients
from gns.scene.camera import Camera
from gns.scene.gaussians import GROUPS, Gaussians
from gns.utils.workspace import Workspace


def render(
    camera: Camera,
    gaussians: Gaussians,
    background: Tensor | Sequence[float],
    *,
    edges: Tensor | None = None,
    sh_degree: int | None = None,
    screen_gradients: ScreenGradients = ABSOLUTE,
    accumulate: bool = False,
    inverse_depth: bool = False,
    counts: bool = False,
    workspace: Workspace | None = None,
    step: BackwardStep | None = None,
) -> RenderOutput:
    """Render one view by 3D Gaussian splatting (Kerbl et al. 2023), differentiable in every parameter of `gaussians`.

    Args:
        camera: pinhole camera with its real principal point.
        gaussians: raw parameters, float32 (on the CPU also float64); activations happen inside. Their device decides
            where the view is rendered. They may be computed from other tensors, as opacities by a mask are. Those with
            a `frame` are drawn in it, and `antialiased` ones weakened by what the pixels widen them.
        background: RGB in [0, 1], [3] or three numbers; a constant, no gradient flows to it.
        edges: edge strength of the view, [H, W]; when given, `importance` is computed along.
        sh_degree: highest spherical-harmonic degree to evaluate; default: all that the coefficients hold.
        screen_gradients: which gradients by the means on the screen the backward pass leaves in the output.
        accumulate: the backward pass adds the gradient of each parameter that is a leaf straight into its `.grad`,
            which must exist and be stored as planes (`gns.scene.gaussians.as_planes`), instead of handing autograd a
            fresh tensor. Same numbers; no allocation. A parameter that was computed from others gets a fresh one.
        inverse_depth: draw the expected inverse depth too, Σ T·α/z with the depth z of each mean in front of the camera
            (what `--depths` of 3DGS supervises). Differentiable. Where nothing is drawn it is 0; divide by alpha for
            that of the surface alone.
        counts: count the Gaussians that contribute to each pixel. Not differentiable.
        step: the backward pass lets Adam spend the gradients at once, in place of accumulating them. `gaussians` must
            be the parameters of its groups, whose `.grad` is not looked at.
        workspace: memory for the results, which the next rendering with the same workspace overwrites; default: fresh.

    Returns:
        RenderOutput; `abs_grad` and `signed_grad` are filled by the backward pass.

    Raises:
        TypeError: a dtype that the device does not render in, or parameters of different dtypes.
        ValueError: parameters, background or edges of the wrong shape or on different devices, a device without a
            renderer, a degree that the coefficients do not hold, no gradient to `accumulate` in, or a `step`
            of other parameters or where the backend takes none.
        UserError: image or Gaussians are too large for the GPU's kernels.

    Two calls with the same input give the same bits, forward and backward, whatever the number of threads.
    """
    unit = gaussians.frame.scale
    camera, gaussians = gaussians.frame.camera(camera), gaussians.local()
    backend = _backend_for(gaussians)
    count, like = len(gaussians), gaussians.means
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    if not 0 <= degree <= gaussians.sh_degree:
        raise ValueError(f"sh_degree is {degree}, but the Gaussians hold degrees 0 to {gaussians.sh_degree}")
    take = (workspace or Workspace(like.device)).take
    request = _Request(
        backend=backend,
        inputs=RenderInputs(
            camera,
            _planes(gaussians),
            degree,
            _color(background, like),
            _map(edges, camera, like),
            gaussians.antialiased,
        ),
        take=take,
        radii=take("radii", (count,), like.dtype),
        importance=None if edges is None else take("importance", (count,), like.dtype),
        inverse_depth=inverse_depth,
        counts=take("counts", (camera.height, camera.width), torch.int32) if counts else None,
        in_place=_planes_to_add_to(gaussians) if accumulate and step is None else (None,) * len(GROUPS),
        step=None if step is None else _checked(step, gaussians, backend),
        abs_mean2d=take("abs_grad", (2, count), like.dtype).zero_() if screen_gradients.absolute else None,
        mean2d=take("signed_grad", (2, count), like.dtype).zero_() if screen_gradients.signed else None,
    )
    image, alpha, depth = _render(request, *(values for _, values in gaussians.named_tensors()))
    return RenderOutput(
        image=image,
        alpha=alpha,
        radii=request.radii,
        inverse_depth=None if depth is None else depth / unit if unit != 1 else depth,
        counts=request.counts,
        abs_grad=_rows(request.abs_mean2d, like),
        importance=request.importance,
        signed_grad=_rows(request.mean2d, like),
    )


@torch.no_grad()
def importance(camera: Camera, gaussians: Gaussians, edges: Tensor) -> Tensor:
    """Edge-weighted contribution of each Gaussian to one view: the sum over pixels of edge·T·α, [N].

    The forward walk without colour: about a third cheaper than `render(..., edges=edges).importance`, and the same
    bits. `edges` is [H, W] in [0, 1]. No gradient. Score of the densification of Improved-GS (arXiv 2508.12313).
    Raises what `render` raises.
    """
    camera, gaussians = gaussians.frame.camera(camera), gaussians.local()
    backend, means = _backend_for(gaussians), gaussians.means
    scores = means.new_empty(len(gaussians))
    black, strengths = means.new_zeros(3), _map(edges, camera, means)
    inputs = RenderInputs(camera, _planes(gaussians), 0, black, strengths, gaussians.antialiased)
    backend.render(inputs, RenderTargets(importance=scores))
    return scores


def planes_of(values: Tensor) -> Tensor:
    """[N, ...] with the Gaussian's index last, contiguous. Copies only what lies otherwise in memory."""
    return values.detach().movedim(0, -1).contiguous()


@dataclass(frozen=True, eq=False)
class _Request:
    """What `_render` needs besides the parameters. Holds no result that is differentiable: that would be a cycle."""

    backend: Backend
    inputs: RenderInputs
    take: Callable[..., Tensor]  # of the workspace
    radii: Tensor
    importance: Tensor | None
    inverse_depth: bool
    counts: Tensor | None
    in_place: tuple[Tensor | None, ...]  # by group, the planes that its gradient is added to; None for fresh ones
    abs_mean2d: Tensor | None
    mean2d: Tensor | None
    step: BackwardStep | None


class _Render(torch.autograd.Function):
    """Image, alpha and, where asked for, inverse depth as a differentiable function of the six parameter groups."""

    @staticmethod
    def forward(ctx: Any, request: _Request, *parameters: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        camera, dtype = request.inputs.camera, parameters[0].dtype
        image = request.take("image", (3, camera.height, camera.width), dtype)
        alpha = request.take("alpha", (camera.height, camera.width), dtype)
        depth = request.take("inverse_depth", (camera.height, camera.width), dtype) if request.inverse_depth else None
        targets = RenderTargets(image, alpha, request.radii, request.importance, depth, request.counts)
        ctx.rendering, ctx.request = request.backend.render(request.inputs, targets), request
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*parameters, image, alpha, depth)  # autograd notices a change before the backward pass
        return image, alpha, depth

    @staticmethod
    def backward(
        ctx: Any, by_image: Tensor | None, by_alpha: Tensor | None, by_depth: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *parameters, image, alpha, depth = ctx.saved_tensors
        request: _Request = ctx.request
        if by_image is None and by_alpha is None and by_depth is None:
            return (None,) * (1 + len(parameters))
        wanted = ctx.needs_input_grad[1:] if request.step is None else ()
        gradients = tuple(map(_gradient_planes, GROUPS, parameters, wanted, request.in_place, repeat(request.take)))
        ctx.rendering.backward(
            image.detach(),
            alpha.detach(),
            RenderGradients(
                image=torch.zeros_like(image) if by_image is None else by_image.contiguous(),
                alpha=None if by_alpha is None else by_alpha.contiguous(),
                parameters=gradients,
                abs_mean2d=request.abs_mean2d,
                mean2d=request.mean2d,
                step=request.step,
                inverse_depth=None if by_depth is None else by_depth.contiguous(),
            ),
            None if by_depth is None else depth.detach(),
        )
        if request.step is not None:
            return (None,) * (1 + len(parameters))
        handed_on = (
            gradient.movedim(-1, 0) if asked and there is None else None
            for gradient, asked, there in zip(gradients, wanted, request.in_place, strict=True)
        )
        return (None, *handed_on)


_render: Callable[..., tuple[Tensor, Tensor, Tensor | None]] = _Render.apply


def _gradient_planes(
    name: str, values: Tensor, wanted: bool, in_place: Tensor | None, take: Callable[..., Tensor]
) -> Tensor:
    """Where the backward pass adds the gradient of one group: to what is there, to zeros, or where nobody looks."""
    if in_place is not None:
        return in_place
    shape = (*values.shape[1:], len(values))
    return values.new_zeros(shape) if wanted else take(f"unwanted gradient of {name}", shape, values.dtype)


def _planes(gaussians: Gaussians) -> Planes:
    return tuple(planes_of(values) for _, values in gaussians.named_tensors())


def _rows(planes: Tensor | None, like: Tensor) -> Tensor:
    """[2, N] as [N, 2]; [0, 2] where there are none."""
    return like.new_empty(0, 2) if planes is None else planes.movedim(0, -1)


def _planes_to_add_to(gaussians: Gaussians) -> tuple[Tensor | None, ...]:
    """The gradient of each group as planes, for those that are leaves; None where autograd has to carry it on.

    Raises ValueError where a leaf that asks for a gradient has none that could be added to.
    """
    found: list[Tensor | None] = []
    for name, values in gaussians.named_tensors():
        if not (values.is_leaf and values.requires_grad):
            found.append(None)
            continue
        planes = None if values.grad is None else values.grad.movedim(0, -1)
        if planes is None or not planes.is_contiguous() or planes.dtype != values.dtype:
            raise ValueError(f"accumulate=True adds to {name}.grad, which must exist and be stored as planes")
        found.append(planes)
    return tuple(found)


def _checked(step: BackwardStep, gaussians: Gaussians, backend: Backend) -> BackwardStep:
    """The step. Raises ValueError where it is not of these Gaussians, or the backend takes none."""
    if not backend.steps_in_backward:
        raise ValueError(f"the backward pass takes no step of Adam on {backend.description}")
    parameters = [values for _, values in gaussians.named_tensors()]
    stepped = [group.tensors.parameter for group in step.groups]
    if len(stepped) != len(parameters) or any(a is not b for a, b in zip(stepped, parameters, strict=True)):
        raise ValueError("a step in the backward pass is one of the very parameters that are drawn")
    if any(group.merged != 1 or group.step < 1 for group in step.groups):
        raise ValueError("a step in the backward pass stands for itself alone, and steps count from 1")
    return step


# ---- the boundary: what is checked once, so that no backend has to ---------------------------------------------------


def _backend_for(gaussians: Gaussians) -> Backend:
    """The backend of the Gaussians' device. Raises TypeError and ValueError where they are not fit to be rendered."""
    means = gaussians.means
    backend = backend_of(means.device)
    if means.dtype not in backend.dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in backend.dtypes)
        raise TypeError(f"Gaussians on {means.device} are rendered in {names}, not {means.dtype}")
    dtype, device, count = means.dtype, means.device, len(means)
    shapes = ((count, 3), (count, 3), (count, 4), (count,), (count, 1, 3), (count, *gaussians.sh_rest.shape[1:2], 3))
    for (name, values), shape in zip(gaussians.named_tensors(), shapes, strict=True):
        if values.dtype != dtype:
            raise TypeError(f"{name} are {values.dtype} and means {dtype}: all parameters must share one dtype")
        if values.device != device:
            raise ValueError(f"{name} are on {values.device} and means on {device}: move them to one device")
        if values.shape != shape:
            raise ValueError(f"{name} have the shape {tuple(values.shape)}, not {shape}")
    return backend


def _color(background: Tensor | Sequence[float], like: Tensor) -> Tensor:
    """The background as the backends take it, [3]."""
    color = torch.as_tensor(
        background, dtype=like.dtype, device=None if isinstance(background, Tensor) else like.device
    )
    if color.shape != (3,) or color.device != like.device:
        raise ValueError(
            f"background must be three numbers on {like.device}, not {tuple(color.shape)} on {color.device}"
        )
    return color.contiguous()


def _map(edges: Tensor | None, camera: Camera, like: Tensor) -> Tensor | None:
    """The edges as the backends take them, [H, W]."""
    if edges is None:
        return None
    if edges.shape != (camera.height, camera.width) or edges.device != like.device:
        raise ValueError(
            f"edges must be [{camera.height}, {camera.width}] on {like.device}, as the view is, not "
            f"{tuple(edges.shape)} on {edges.device}"
        )
    return edges.to(like.dtype).contiguous()
