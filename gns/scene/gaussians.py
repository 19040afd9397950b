"""The model: N anisotropic Gaussians with raw (unactivated) parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

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
    """

    means: Tensor  # [N, 3]
    log_scales: Tensor  # [N, 3]
    quats: Tensor  # [N, 4]
    opacity_logits: Tensor  # [N]
    sh_dc: Tensor  # [N, 1, 3]
    sh_rest: Tensor  # [N, K, 3]

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

    def to(self, device: torch.device) -> Gaussians:
        """The same Gaussians on `device`, outside autograd; tensors that are there already are shared."""
        return Gaussians(**{name: values.detach().to(device) for name, values in self.named_tensors()})

    def rows(self, rows: Tensor) -> Gaussians:
        """Copies of the Gaussians `rows` [K] int64, outside autograd; a row may come several times."""
        return Gaussians(**{name: values.detach()[rows] for name, values in self.named_tensors()})

    @property
    def sh_degree(self) -> int:
        """Highest spherical-harmonic degree that the coefficients can hold (0 to 3)."""
        return math.isqrt(self.sh_rest.shape[1] + 1) - 1

    @property
    def opacities(self) -> Tensor:
        """α = sigmoid(logit), [N]."""
        return torch.sigmoid(self.opacity_logits)


# The names of the six parameter groups, in the order in which everything lists them.
GROUPS: tuple[str, ...] = tuple(field.name for field in fields(Gaussians))
