"""Adam over parameter groups, in place, by one native pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gns.utils import native

BETA1 = 0.9
BETA2 = 0.999
# The pressure of selection is a gradient of about 1e-8 a Gaussian: an ε of that size would be another method.
EPSILON = 1e-15

_native = native.load()


@dataclass(frozen=True, eq=False)
class AdamGroup:
    """One tensor to step. All four have the same shape and memory layout, without gaps, in float32."""

    parameter: Tensor
    gradient: Tensor
    first_moment: Tensor
    second_moment: Tensor
    rate: float  # step size
    step: int  # this group's steps, counted from 1


def _flat(values: Tensor) -> Tensor:
    """All elements in the order of memory, [numel]; a view."""
    flat = values.detach().movedim(0, -1)
    if values.dtype != torch.float32 or not flat.is_contiguous():
        raise ValueError(
            f"Adam steps float32 tensors stored as planes, not {values.dtype} with stride {values.stride()}"
        )
    return flat.view(-1)


def adam_step(groups: Sequence[AdamGroup]) -> None:
    """One step of Adam with bias correction (Kingma and Ba, 2015; the form of `torch.optim.Adam`), for every row.

    Parameters and moments change in place; gradients are zeroed as they are spent, ready for the next sum. Rows without
    a gradient move too, by momentum.

    Raises:
        ValueError: a tensor is not float32 or not stored as planes (`gns.scene.gaussians.as_planes`).
    """
    _native.adam(
        [
            (_flat(g.parameter), _flat(g.gradient), _flat(g.first_moment), _flat(g.second_moment))
            for g in groups
            if g.parameter.numel()
        ],
        [g.rate for g in groups if g.parameter.numel()],
        [g.step for g in groups if g.parameter.numel()],
        BETA1,
        BETA2,
        EPSILON,
    )
