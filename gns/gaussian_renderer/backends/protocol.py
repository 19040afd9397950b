"""What a backend offers, and the structs that it is given: the whole of what depends on where tensors lie.

Parameters and gradients are handed over as planes: the Gaussian's index last, contiguous. Dtypes, devices and shapes
have been checked before a backend is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gns.scene.camera import Camera
from gns.utils.workspace import Workspace

# The six parameter groups, or their gradients, in the order of `gns.scene.gaussians.GROUPS`:
# means [3, N], log_scales [3, N], quats [4, N], opacity_logits [N], sh_dc [1, 3, N], sh_rest [K, 3, N].
Planes = tuple[Tensor, ...]

# From ∂total/∂loss, a scalar, to ∂total/∂image, [3, H, W].
LossBackward = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class RenderInputs:
    """What a rendering reads. All tensors are on one device and of one floating dtype."""

    camera: Camera
    parameters: Planes
    sh_degree: int  # highest degree to evaluate, at most that of the coefficients
    background: Tensor  # [3]
    edges: Tensor | None = None  # [H, W], contiguous; asks for the importance
    antialiased: bool = False  # see `gns.scene.gaussians.Gaussians`


@dataclass(frozen=True, eq=False)
class RenderTargets:
    """Where a rendering writes its results; what is None is not computed. Contiguous."""

    image: Tensor | None = None  # [3, H, W]
    alpha: Tensor | None = None  # [H, W], only with the image
    radii: Tensor | None = None  # [N]
    importance: Tensor | None = None  # [N]; with the inputs' edges, and never without
    inverse_depth: Tensor | None = None  # [H, W], only with the image
    counts: Tensor | None = None  # int32 [H, W], only with the image


@dataclass(frozen=True, eq=False)
class RenderGradients:
    """The way back: where it starts from, and where it leaves what it finds. Contiguous."""

    image: Tensor  # ∂loss/∂image, [3, H, W]
    alpha: Tensor | None  # ∂loss/∂alpha, [H, W]; None is zero
    parameters: Planes  # ∂loss/∂parameters; added to, unless there is a `step`, which spends them
    # By the mean on the screen, summed over pixels, in units of half the image (W/2, H/2); written where given.
    abs_mean2d: Tensor | None = None  # [2, N], of the absolute gradient of each pixel
    mean2d: Tensor | None = None  # [2, N], of the gradient with its sign
    step: BackwardStep | None = None  # only where the backend `steps_in_backward`
    inverse_depth: Tensor | None = None  # ∂loss/∂(inverse depth), [H, W], where it starts from too; None is zero


class Rendering(Protocol):
    """One rendering that was drawn; it keeps what its backward pass needs."""

    def backward(
        self, image: Tensor, alpha: Tensor, gradients: RenderGradients, inverse_depth: Tensor | None = None
    ) -> None:
        """Fill `gradients`.

        `image`, `alpha` and, where it has a gradient, `inverse_depth` must hold what was drawn, and the inputs'
        parameters what they held then. (A rendering does not keep its targets: autograd's graph hangs on them and holds
        the rendering.)
        """
        ...


@dataclass(frozen=True, eq=False)
class AdamTensors:
    """What Adam reads and writes: four tensors of the same shape and memory layout, without gaps, in float32."""

    parameter: Tensor
    gradient: Tensor
    first_moment: Tensor
    second_moment: Tensor

    @cached_property
    def flat(self) -> tuple[Tensor, ...]:
        """The four in the order of memory, [numel] each; views. Raises ValueError where they are not stored so."""
        flat = tuple(map(_flat, (self.parameter, self.gradient, self.first_moment, self.second_moment)))
        if any(values.device != flat[0].device or values.shape != flat[0].shape for values in flat):
            raise ValueError("Adam takes a parameter, its gradient and its moments of one size, on one device")
        return flat

    @cached_property
    def arrays(self) -> tuple[npt.NDArray[np.float32], ...]:
        """The same as arrays, which the native module takes in a tenth of the time. Only on the CPU."""
        return tuple(values.numpy() for values in self.flat)


@dataclass(frozen=True, eq=False)
class AdamGroup:
    """A step to take. Keep `tensors` from one step to the next: it remembers how they lie in memory."""

    tensors: AdamTensors
    rate: float  # step size
    step: int  # this group's steps, counted from 1; this one counts `merged` times
    merged: int = 1  # steps that this one stands for
    decay: float = 0.0  # share of the parameter that it takes away, whatever the gradient and the rate


@dataclass(frozen=True, eq=False)
class BackwardStep:
    """A step of Adam that a rendering's backward pass takes with the gradients it finds, which never come to memory.

    Gives the same bits as adding to gradients of zero and stepping; the `gradient` of its tensors is not touched.
    """

    groups: tuple[AdamGroup, ...]  # the six that are drawn, in the order of `Planes`
    beta1: float
    beta2: float
    epsilon: float
    # Gradients by something else than the picture, as planes; None for zero. Filled before the backward pass.
    further: list[Tensor | None] = field(default_factory=lambda: [None] * 6)

    def add(self, number: int, gradient: Tensor) -> None:
        """Let the step of group `number` spend `gradient` [N, ...] too."""
        planes, before = gradient.detach().movedim(0, -1).contiguous(), self.further[number]
        self.further[number] = planes if before is None else before + planes


def _flat(values: Tensor) -> Tensor:
    """All elements in the order of memory, [numel]; a view."""
    flat = values.detach().movedim(0, -1)
    if values.dtype != torch.float32 or not flat.is_contiguous():
        raise ValueError(
            f"Adam steps float32 tensors stored as planes, not {values.dtype} with stride {values.stride()}"
        )
    return flat.view(-1)


class Backend(Protocol):
    """Everything that is done differently on one kind of device. Ask `backend_of` for the one of a device."""

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Floating types that it renders in."""
        ...

    @property
    def description(self) -> str:
        """What a user calls the device: "the CPU", "cuda:0 (NVIDIA H200)"."""
        ...

    @property
    def steps_in_backward(self) -> bool:
        """Whether a rendering's backward pass takes a `BackwardStep`."""
        ...

    def what_is_missing(self) -> str | None:
        """What keeps this backend from running, as a sentence without its full stop; None where nothing does."""
        ...

    def render(self, inputs: RenderInputs, targets: RenderTargets) -> Rendering:
        """Draw one view into `targets`. Raises UserError where it is too large to be drawn."""
        ...

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
        """The scalar of `gns.losses.photometric_loss`, and its way back, to be taken only if `differentiable`.

        `image` [3, H, W] outside autograd, `target` [H, W, 3] uint8, `mask` [H, W] bool; contiguous. The gradient lies
        in `workspace`. (The way back does not keep the scalar: autograd's graph hangs on it and holds the way back.)
        """
        ...

    def dissimilarity(self, image: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """The map of `gns.losses.dissimilarity`. Takes what `photometric_loss` takes."""
        ...

    def adam(self, groups: Sequence[AdamGroup], beta1: float, beta2: float, epsilon: float) -> None:
        """One plain step for each group, whatever its `merged`; no tensor is empty. See `gns.model.adam.adam_step`."""
        ...

    def release_memory(self) -> None:
        """See `gns.gaussian_renderer.release_memory`."""
        ...

    def kept_bytes(self) -> int:
        """Memory of the buffers that `release_memory` would let go of."""
        ...

    def rendering_bytes(self, gaussians: int, instances: int, pixels: int) -> int:
        """Memory in bytes of rendering, loss and their backward passes in float32.

        `instances` are the pairs of a Gaussian and a tile of 16 × 16 pixels that it meets.
        """
        ...
