"""The model: N anisotropic Gaussians with raw (unactivated) parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from gns.scene.frame import WORLD, LocalFrame

# Degree-0 spherical harmonic: colour = C0 · dc + 0.5.
SH_C0 = 0.28209479177387814


def as_planes(values: Tensor) -> Tensor:
    """The same values and shape [N, ...], stored component by component: the Gaussian index runs fastest in memory.

    A vector register then loads one component of neighbouring Gaussians with a single contiguous read. Returns `values`
    itself where its memory already lies so.
    """
    planes = values.movedim(0, -1)
    return values if planes.is_contiguous() else planes.contiguous().movedim(-1, 0)


@dataclass(eq=False)
class Gaussians:
    """Raw parameters of N Gaussians; activations are the renderer's business.

    `means` are world positions, `log_scales` natural logs of the standard deviations along the principal axes, `quats`
    rotations (w, x, y, z) of any length, `opacity_logits` opacities before the sigmoid, `sh_dc` and `sh_rest`
    spherical-harmonic coefficients with K = (degree + 1)² − 1 in `sh_rest`. All tensors share dtype and device, and are
    stored as planes (`as_planes`).

    A model of a scene in small units or far from the origin knows the `frame` that it is drawn in. Its tensors are in
    the world even so; far from the origin its means are float64, where float32 would not hold them.

    An `antialiased` model was trained to be drawn with opacities that make up for the pixel's width, √(det Σ₂/det(Σ₂ +
    0.3 I)) times as large (the 2D filter of Mip-Splatting, Yu et al. 2024): reduced pictures of it stay as bright.
    """

    means: Tensor  # [N, 3]
    log_scales: Tensor  # [N, 3]
    quats: Tensor  # [N, 4]
    opacity_logits: Tensor  # [N]
    sh_dc: Tensor  # [N, 1, 3]
    sh_rest: Tensor  # [N, K, 3]
    frame: LocalFrame = field(default=WORLD, kw_only=True)
    antialiased: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name, values in self.named_tensors():
            if not values.requires_grad:
                setattr(self, name, as_planes(values))

    def __len__(self) -> int:
        return self.means.shape[0]

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The six parameter groups, in the order of `GROUPS`."""
        for name in GROUPS:
            yield name, getattr(self, name)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Gaussians:
        """What `change` makes of each parameter group; everything else is the same."""
        groups = (change(values) for _, values in self.named_tensors())
        return Gaussians(*groups, frame=self.frame, antialiased=self.antialiased)

    def to(self, device: torch.device) -> Gaussians:
        """The same Gaussians on `device`, outside autograd; tensors that are there already are shared."""
        return self.mapped(lambda values: values.detach().to(device))

    def rows(self, rows: Tensor) -> Gaussians:
        """Copies of the Gaussians `rows` [K] int64, outside autograd; a row may come several times."""
        return self.mapped(lambda values: values.detach()[rows])

    def in_world(self, frame: LocalFrame) -> Gaussians:
        """The same model in the world, to be drawn in `frame`, the coordinates of which its tensors have now.

        Its means stay float64 where float32 would move them by more than a tenth of the smallest Gaussians.
        """
        if frame == WORLD:
            return self
        means = frame.scale * self.means.double() + self.means.new_tensor(frame.offset, dtype=torch.float64)
        log_scales = (self.log_scales.double() + math.log(frame.scale)).to(self.log_scales.dtype)
        held = 10 * frame.rounding <= _smallest(log_scales)
        return replace(self, means=means.to(self.means.dtype) if held else means, log_scales=log_scales, frame=frame)

    def local(self) -> Gaussians:
        """The same model in its frame's coordinates, all of one dtype; itself where it is that already."""
        if self.frame == WORLD:
            return self
        offset, scale = self.frame.offset, self.frame.scale
        means = (self.means.double() - self.means.new_tensor(offset, dtype=torch.float64)) / scale
        log_scales = self.log_scales.double() - math.log(scale)
        dtype = self.log_scales.dtype
        return replace(self, means=means.to(dtype), log_scales=log_scales.to(dtype), frame=WORLD)

    def for_float32(self) -> tuple[Gaussians, tuple[float, float, float]]:
        """The model as files hold it, and what to add to its means there to have them in the world."""
        if self.means.dtype != torch.float64 or self.frame == WORLD:
            return self, WORLD.offset
        means = self.means - self.means.new_tensor(self.frame.offset)
        return replace(self, means=means.to(self.log_scales.dtype)), self.frame.offset

    @property
    def sh_degree(self) -> int:
        """Highest spherical-harmonic degree that the coefficients can hold (0 to 3)."""
        return math.isqrt(self.sh_rest.shape[1] + 1) - 1

    @property
    def opacities(self) -> Tensor:
        """α = sigmoid(logit), [N]."""
        return torch.sigmoid(self.opacity_logits)


# The names of the six parameter groups, in the order in which everything lists them.
GROUPS: tuple[str, ...] = tuple(entry.name for entry in fields(Gaussians) if not entry.kw_only)


def _smallest(log_scales: Tensor) -> float:
    """The standard deviation that the shortest axis of all but a hundredth of the Gaussians exceeds; 0 for none."""
    shortest = log_scales.detach().min(dim=1).values if len(log_scales) else log_scales.new_zeros(0)
    return float(shortest.kthvalue(1 + len(shortest) // 100).values.exp()) if len(shortest) else 0.0
