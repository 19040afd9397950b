"""The backend on the CPU: native kernels (gns/csrc/cpu).

A rendering is four stages forward (project, sort by depth, list the instances of every tile, blend) and two backward
(blend_backward, project_backward). The native object keeps what they hand on to each other.

Memory in bytes, in float32, kept from one rendering to the next and only ever grown (`rendering_bytes`):

    a Gaussian    splat 64, footprint 48, slots 8, keys 8 and 8 sorted
                  results: radius 4, absolute gradient 8
    an instance   staged 16, listed 16, gradient packet 48
    a pixel       transmittance 4, image 12, alpha 4; loss: image gradient 12
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from gns.gaussian_renderer.backends.protocol import (
    AdamGroup,
    LossBackward,
    RenderGradients,
    RenderInputs,
    RenderTargets,
)
from gns.utils import native
from gns.utils.workspace import SPARE, Workspace

BYTES_A_GAUSSIAN = 136 + 12
BYTES_AN_INSTANCE = 80
BYTES_A_PIXEL = 32

_native = native.load()
_forced = ""  # the instruction set that somebody has asked for
# The kernels of each precision.
_kernels: dict[torch.dtype, Any] = {torch.float32: _native.float32, torch.float64: _native.float64}


def thread_count() -> int:
    """Threads that the kernels use."""
    count: int = _native.thread_count()
    return count


def set_threads(count: int) -> None:
    """Use `count` threads in all kernels; 0 means one for each core this process may run on. Never changes a result.

    No more than 1,024, and fewer where the system does not give as many.
    """
    _native.set_thread_count(count)


def instruction_sets() -> list[str]:
    """Builds of the kernels that run on this machine, best first: avx512, avx2, baseline."""
    names: list[str] = _native.instruction_sets()
    return names


def instruction_set() -> str:
    """The one of `instruction_sets()` in use: the best, unless another is forced."""
    return _forced or instruction_sets()[0]


def use_instruction_set(name: str) -> None:
    """Force one of `instruction_sets()`. Results differ between them by rounding."""
    global _forced
    _native.use_instruction_set(name)
    _forced = name


class CpuBackend:
    """See `gns.gaussian_renderer.backends.protocol.Backend`. float32 or float64."""

    dtypes = tuple(_kernels)
    description = "the CPU"
    steps_in_backward = False

    def what_is_missing(self) -> str | None:
        """Nothing: without its kernels this module cannot be imported."""
        return None

    def render(self, inputs: RenderInputs, targets: RenderTargets) -> Rendering:
        """See `Backend.render`."""
        return Rendering(inputs, targets)

    def photometric_loss(
        self,
        image: Tensor,
        target: Tensor,
        mask: Tensor | None,
        workspace: Workspace,
        *,
        squared: bool,
        differentiable: bool,
    ) -> tuple[Tensor, LossBackward]:
        """See `Backend.photometric_loss`. The kernel finds loss and gradient in one go; the latter is only scaled."""
        gradient = workspace.take("image_gradient", image.shape, image.dtype) if differentiable else None
        seen = None if mask is None else mask.view(torch.uint8)
        loss = _kernels[image.dtype].photometric_loss(*as_arrays(image, target, seen, gradient), squared)

        def backward(scale: Tensor) -> Tensor:
            assert gradient is not None
            return gradient if scale == 1 else gradient * scale

        return image.new_tensor(loss), backward

    def dissimilarity(self, image: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """See `Backend.dissimilarity`."""
        out = image.new_empty(image.shape[1:])
        seen = None if mask is None else mask.view(torch.uint8)
        _kernels[image.dtype].dissimilarity(*as_arrays(image, target, seen, out))
        return out

    def adam(self, groups: Sequence[AdamGroup], beta1: float, beta2: float, epsilon: float) -> None:
        """See `Backend.adam`."""
        _native.adam(
            [group.tensors.arrays for group in groups],
            [group.rate for group in groups],
            [group.step for group in groups],
            [group.decay for group in groups],
            beta1,
            beta2,
            epsilon,
        )

    def release_memory(self) -> None:
        """See `Backend.release_memory`."""
        _native.release_memory()

    def kept_bytes(self) -> int:
        """See `Backend.kept_bytes`."""
        count: int = _native.kept_bytes()
        return count

    def rendering_bytes(self, gaussians: int, instances: int, pixels: int) -> int:
        """See `Backend.rendering_bytes`: the table above, and room to spare."""
        least = gaussians * BYTES_A_GAUSSIAN + instances * BYTES_AN_INSTANCE + pixels * BYTES_A_PIXEL
        return least + least // SPARE


class Rendering:
    """One rendering on the CPU, see `gns.gaussian_renderer.backends.protocol.Rendering`."""

    def __init__(self, inputs: RenderInputs, targets: RenderTargets) -> None:
        kernels = self._kernels = _kernels[inputs.parameters[0].dtype]
        camera = inputs.camera
        self.native = kernels.Rendering(
            kernels.RenderInputs(
                intrinsics=(camera.fx, camera.fy, camera.cx, camera.cy),
                size=(camera.width, camera.height),
                world_to_camera=tuple(camera.world_to_camera.ravel().tolist()),
                parameters=kernels.Parameters(*as_arrays(*inputs.parameters)),
                sh_degree=inputs.sh_degree,
                background=tuple(inputs.background.tolist()),
                edges=as_array(inputs.edges),
                antialiased=inputs.antialiased,
            ),
            kernels.RenderTargets(
                image=as_array(targets.image),
                alpha=as_array(targets.alpha),
                radii=as_array(targets.radii),
                importance=as_array(targets.importance),
                inverse_depth=as_array(targets.inverse_depth),
                counts=as_array(targets.counts),
            ),
        )

    def backward(
        self, image: Tensor, alpha: Tensor, gradients: RenderGradients, inverse_depth: Tensor | None = None
    ) -> None:
        """Run the backward stages; the native object has kept alpha, as transmittance."""
        kernels = self._kernels
        self.native.backward(
            as_array(image),
            kernels.RenderGradients(
                image=as_array(gradients.image),
                alpha=as_array(gradients.alpha),
                parameters=kernels.Gradients(*as_arrays(*gradients.parameters)),
                abs_mean2d=as_array(gradients.abs_mean2d),
                mean2d=as_array(gradients.mean2d),
                inverse_depth=as_array(gradients.inverse_depth),
            ),
            as_array(inverse_depth),
        )


def as_array(values: Tensor | None) -> npt.NDArray[Any] | None:
    """The same memory as an array, which the native module takes in a fraction of the time; None stays None."""
    return None if values is None else values.numpy()


def as_arrays(*tensors: Tensor | None) -> list[npt.NDArray[Any] | None]:
    """`as_array` of each."""
    return [as_array(values) for values in tensors]
