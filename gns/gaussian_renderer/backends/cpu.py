"""The renderer on the CPU: native kernels (gns/csrc/cpu).

A rendering is four stages forward (project, sort by depth, list the instances of every tile, blend) and two backward
(blend_backward, project_backward). The native object keeps what they hand on to each other.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from gns.gaussian_renderer.autograd import Planes
from gns.scene.camera import Camera
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


def release_memory() -> None:
    """See `gns.gaussian_renderer.release_memory`."""
    _native.release_memory()


def new_rendering(dtype: torch.dtype) -> Any:
    """A native rendering, which keeps what its stages hand on to each other."""
    if dtype == torch.float32:
        return _native.RenderingFloat()
    if dtype == torch.float64:
        return _native.RenderingDouble()
    raise TypeError(f"the renderer computes in float32 or float64, not {dtype}")


class Rendering:
    """One rendering on the CPU, see `gns.gaussian_renderer.autograd.Rendering`. float32 or float64."""

    def __init__(self, camera: Camera, parameters: Planes, sh_degree: int) -> None:
        self._camera, self._parameters, self._sh_degree = camera, parameters, sh_degree
        self._native = new_rendering(parameters[0].dtype)

    def forward(
        self,
        image: Tensor | None,
        alpha: Tensor | None,
        radii: Tensor | None,
        background: Tensor,
        edges: Tensor | None,
        importance: Tensor | None,
    ) -> None:
        """Run the forward stages."""
        camera = self._camera
        self._native.forward(
            (camera.fx, camera.fy, camera.cx, camera.cy),
            (camera.width, camera.height),
            tuple(camera.world_to_camera.ravel()),
            *as_arrays(*self._parameters),
            self._sh_degree,
            tuple(background.tolist()),
            *as_arrays(image, alpha, radii, edges, importance),
        )

    def backward(
        self,
        image: Tensor,
        alpha: Tensor,
        image_gradient: Tensor,
        alpha_gradient: Tensor | None,
        gradients: Planes,
        abs_grad: Tensor | None,
    ) -> None:
        """Run the backward stages."""
        self._native.backward(
            *as_arrays(*self._parameters),
            self._sh_degree,
            *as_arrays(image, image_gradient, alpha_gradient, *gradients, abs_grad),
        )


def as_arrays(*tensors: Tensor | None) -> list[npt.NDArray[Any] | None]:
    """The same memory as arrays, which the native module takes in a fraction of the time; None stays None."""
    return [None if values is None else values.numpy() for values in tensors]
