"""Choosing rows: by weighted draws, and by rank."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_without_replacement(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Distinct rows drawn one after the other with probability ∝ weight, [count] int64, ascending.

    `weights` [N] ≥ 0; rows of weight zero (or NaN) come only when the others have run out. The generator is a CPU one,
    so that a seed gives the same draw on every device. Raises ValueError where count exceeds N.

    The `count` smallest of Exponential(1)/weight are such a draw (Efraimidis and Spirakis, 2006). torch.multinomial
    does the same but refuses more than 2²⁴ rows.
    """
    if count > len(weights):
        raise ValueError(f"cannot draw {count} of {len(weights)} rows")
    uniform = torch.rand(len(weights), dtype=torch.float64, generator=generator).to(weights.device)
    arrivals = -torch.log1p(-uniform) / weights.double()
    arrivals = torch.nan_to_num(arrivals, nan=torch.inf, posinf=torch.inf)
    # A stable sort settles ties (rows of weight zero) by index, on every device.
    return torch.argsort(arrivals, stable=True)[:count].sort().values


def draw_with_replacement(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Rows drawn independently with probability ∝ weight, [count] int64, in the order of the draws.

    `weights` [N] ≥ 0, not all zero. The generator is a CPU one, so that a seed gives the same draw on every device.
    """
    ends = weights.double().cumsum(0)
    uniform = torch.rand(count, dtype=torch.float64, generator=generator).to(weights.device)
    return torch.searchsorted(ends, uniform * ends[-1], right=True).clamp(max=len(weights) - 1)


def mask_of_largest(values: Tensor, count: int) -> Tensor:
    """Mask [N] of the `count` largest of `values` [N]; of equals the first come first."""
    return mask_of(torch.argsort(values, descending=True, stable=True)[:count], values)


def mask_of(rows: Tensor, like: Tensor) -> Tensor:
    """Mask with the length of `like` [N], True in `rows` [K]."""
    mask = torch.zeros_like(like, dtype=torch.bool)
    mask[rows] = True
    return mask
