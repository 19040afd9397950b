"""Adam over parameter groups, in place, by one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gns.gaussian_renderer.backends import gpu as cuda
from gns.gaussian_renderer.backends import kernel_table as cuda_kernels
from gns.gaussian_renderer.backends.cuda import Argument
from gns.utils import native

BETA1 = 0.9
BETA2 = 0.999
# The pressure of selection is a gradient of about 1e-8 a Gaussian: an ε of that size would be another method.
EPSILON = 1e-15

_NO_TENSOR: tuple[Argument, ...] = (0, None, None, None, None, 0.0, 0.0)

_native = native.load()


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
        return tuple(map(_flat, (self.parameter, self.gradient, self.first_moment, self.second_moment)))

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

    A step with `merged` = k > 1 spends the summed gradients of k steps at once, with rate·√k and β^k, which leads about
    as far as the k steps would (Zhao et al., arXiv 2406.18533).

    Raises:
        ValueError: a tensor is not float32 or not stored as planes (`gns.scene.gaussians.as_planes`).
    """
    due = [_as_one_step(group) for group in groups if group.tensors.parameter.numel()]
    if not due:
        return
    step = _step_on_gpu if cuda.runs_on(due[0].tensors.parameter.device) else _step_on_cpu
    for merged in sorted({group.merged for group in due}):  # on one process all are alike
        step([group for group in due if group.merged == merged], BETA1**merged, BETA2**merged)


def _as_one_step(group: AdamGroup) -> AdamGroup:
    """The group with gradient, rate and count such that a plain step with β^merged does what is asked."""
    if group.merged == 1:
        return group
    # Gradient / √k keeps the second moment what it is at k = 1: k may change from one step to the next.
    group.tensors.gradient.mul_(1 / math.sqrt(group.merged))
    return replace(group, rate=group.rate * math.sqrt(group.merged), step=max(1, group.step // group.merged))


def _step_on_cpu(groups: Sequence[AdamGroup], beta1: float, beta2: float) -> None:
    _native.adam(
        [group.tensors.arrays for group in groups],
        [group.rate for group in groups],
        [group.step for group in groups],
        beta1,
        beta2,
        EPSILON,
    )


def _step_on_gpu(groups: Sequence[AdamGroup], beta1: float, beta2: float) -> None:
    """One step of all groups, in as many launches as they fill."""
    most = cuda_kernels.ADAM_TENSORS
    if len(groups) > most:
        _step_on_gpu(groups[most:], beta1, beta2)
    tensors: list[Argument] = []
    blocks = 0
    for group in groups[:most]:
        count = group.tensors.parameter.numel()
        blocks += cuda.blocks_of(count, cuda_kernels.ADAM_PART)
        tensors += (count, *group.tensors.flat)
        tensors += (group.rate / (1 - beta1**group.step), 1 / math.sqrt(1 - beta2**group.step))
    tensors += (most - len(groups)) * _NO_TENSOR
    factors = (beta1, 1 - beta1, beta2, 1 - beta2, EPSILON)
    cuda.launch("adam", groups[0].tensors.parameter.device, (blocks,), *tensors, *factors)
