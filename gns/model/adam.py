"""Adam over parameter groups, in place, by one pass over memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.backends.protocol import AdamGroup, AdamTensors, BackwardStep

__all__ = ["BETA1", "BETA2", "EPSILON", "AdamGroup", "AdamTensors", "BackwardStep", "adam_step"]

BETA1 = 0.9
BETA2 = 0.999
# The pressure of selection is a gradient of about 1e-8 a Gaussian: an ε of that size would be another method.
EPSILON = 1e-15


def adam_step(groups: Sequence[AdamGroup]) -> None:
    """One step of Adam with bias correction (Kingma and Ba, 2015; the form of `torch.optim.Adam`), for every row.

    Parameters and moments change in place; gradients are zeroed as they are spent, ready for the next sum. Rows without
    a gradient move too, by momentum.

    A step with `merged` = k > 1 spends the summed gradients of k steps at once, with rate·√k and β^k, which leads about
    as far as the k steps would (Zhao et al., arXiv 2406.18533), and takes away what k decays would.

    `decay` is decoupled from the gradient (Loshchilov and Hutter 2019, arXiv 1711.05101): the parameter is multiplied
    by 1 − decay, and then the step is taken. Theirs is in units of the rate; this one is not.

    Raises:
        ValueError: a tensor is not float32 or not stored as planes (`gns.scene.gaussians.as_planes`), a step does not
            count from 1, or the tensors are of different sizes or on different devices.
    """
    due = [_as_one_step(group) for group in groups if group.tensors.parameter.numel()]
    if not due:
        return
    device = due[0].tensors.flat[0].device
    if any(group.tensors.flat[0].device != device for group in due):
        raise ValueError("Adam steps all groups on one device")
    if any(group.step < 1 for group in due):
        raise ValueError("steps count from 1")
    backend = backend_of(device)
    for merged in sorted({group.merged for group in due}):  # on one process all are alike
        backend.adam([group for group in due if group.merged == merged], BETA1**merged, BETA2**merged, EPSILON)


def _as_one_step(group: AdamGroup) -> AdamGroup:
    """The group with gradient, rate and count such that a plain step with β^merged does what is asked."""
    if group.merged == 1:
        return group
    # Gradient / √k keeps the second moment what it is at k = 1: k may change from one step to the next.
    group.tensors.gradient.mul_(1 / math.sqrt(group.merged))
    return replace(
        group,
        rate=group.rate * math.sqrt(group.merged),
        step=max(1, group.step // group.merged),
        decay=1 - (1 - group.decay) ** group.merged,
    )
