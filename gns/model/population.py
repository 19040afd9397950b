"""Who is alive: the only owner of everything that has one row per Gaussian, and the only place that adds or drops rows.

Parameters, gradients, Adam's moments and the densification statistics are cut and joined together, by the same indices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gns.errors import UserError
from gns.gaussian_renderer.output import RenderOutput
from gns.model.adam import AdamGroup, AdamTensors, adam_step
from gns.scene import Gaussians
from gns.scene.gaussians import as_planes
from gns.utils.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Split:
    """Parents to remove and the children that take their place."""

    parents: Tensor  # [K] int64, distinct rows
    children: Gaussians  # any number of rows


@dataclass(eq=False)
class _Group:
    """One parameter group: four tensors of the same shape [N, ...], stored as planes."""

    parameter: Tensor  # a leaf; its `grad` is the sum of gradients since the last step
    first_moment: Tensor
    second_moment: Tensor

    @classmethod
    def begin(cls, values: Tensor) -> _Group:
        """A group that was never stepped."""
        parameter = as_planes(values.detach()).requires_grad_()
        parameter.grad = torch.zeros_like(parameter)
        return cls(parameter, torch.zeros_like(parameter.detach()), torch.zeros_like(parameter.detach()))

    @property
    def gradient(self) -> Tensor:
        """Sum of the gradients since the group's last step."""
        assert self.parameter.grad is not None
        return self.parameter.grad

    @cached_property
    def tensors(self) -> AdamTensors:
        """All four, as Adam takes them."""
        return AdamTensors(self.parameter, self.gradient, self.first_moment, self.second_moment)

    def edit(self, edit: _Edit, children: Tensor | None) -> None:
        """Keep the survivors, and append `children` with zero gradients and moments.

        One tensor at a time: the memory that row surgery takes on top is that of one tensor, not of the whole model.
        """
        self.__dict__.pop("tensors", None)  # or the old ones would take memory until the new ones are made
        gradient = self.gradient
        self.parameter.grad = None
        gradient = edit.applied_to(gradient)
        self.first_moment = edit.applied_to(self.first_moment)
        self.second_moment = edit.applied_to(self.second_moment)
        self.parameter = edit.applied_to(self.parameter.detach(), children).requires_grad_()
        self.parameter.grad = gradient


class _Edit:
    """Rows to keep, and how many to append."""

    def __init__(self, survivors: Tensor, born: int) -> None:
        self._kept = len(survivors)
        # Any row stands in for those to append: one gather then makes the whole tensor, and its end is written over.
        self._rows = torch.cat([survivors, survivors.new_zeros(born)])

    def __len__(self) -> int:
        return len(self._rows)

    def applied_to(self, values: Tensor, appended: Tensor | None = None) -> Tensor:
        """The kept rows of `values` [N, ...], then `appended` or zeros, stored as planes."""
        *components, count = values.movedim(0, -1).shape
        # Two dimensions: torch gathers from more of them several times slower.
        planes = values.movedim(0, -1).reshape(math.prod(components), count)
        edited = planes.index_select(-1, self._rows).view(*components, len(self))
        if appended is None:
            edited[..., self._kept :] = 0
        else:
            edited[..., self._kept :] = appended.movedim(0, -1)
        return edited.movedim(-1, 0)


class Population:
    """N Gaussians with their gradients, their optimiser and their densification statistics.

    The gradients are allocated in advance and only ever added to: by the renderer's backward pass (`accumulate=True`)
    and by autograd. `step` zeroes those that it applies. Edits replace the tensors, so hold no reference across one.
    """

    def __init__(self, gaussians: Gaussians) -> None:
        self._groups = {name: _Group.begin(values) for name, values in gaussians.named_tensors()}
        self._steps = dict.fromkeys(self._groups, 0)
        self._gradient_sum = torch.zeros_like(
            gaussians.opacity_logits
        )  # [N], of the norms of the absolute screen gradient
        self._visits = torch.zeros_like(gaussians.opacity_logits)  # [N], iterations in which the Gaussian was drawn
        self._scratch = Workspace(gaussians.means.device)
        self.gaussians = self._view()

    def _view(self) -> Gaussians:
        return Gaussians(**{name: group.parameter for name, group in self._groups.items()})

    def __len__(self) -> int:
        return len(self.gaussians)

    @property
    def opacities(self) -> Tensor:
        """α = sigmoid(logit), [N], outside autograd."""
        return torch.sigmoid(self.gaussians.opacity_logits.detach())

    @property
    def screen_gradients(self) -> Tensor:
        """Mean norm of the absolute screen gradient over the iterations that drew the Gaussian, [N]; 0 if none did."""
        return self._gradient_sum / self._visits.clamp(min=1.0)

    @torch.no_grad()
    def observe(self, seen: RenderOutput) -> None:
        """Add one view to the densification statistics, after its backward pass."""
        # `abs_grad` is zero where nothing was drawn: only the visits need the radii.
        scratch = self._scratch.take("row", (len(self),))
        self._gradient_sum += torch.hypot(seen.abs_grad[:, 0], seen.abs_grad[:, 1], out=scratch)
        self._visits += torch.sign(seen.radii, out=scratch)

    def sums(self, *, statistics: bool) -> list[Tensor]:
        """What grows by one view after the other: all gradients and, on request, the densification statistics."""
        gradients = [group.gradient for group in self._groups.values()]
        return [*gradients, self._gradient_sum, self._visits] if statistics else gradients

    def restart_statistics(self) -> None:
        """Forget what was observed."""
        self._gradient_sum.zero_()
        self._visits.zero_()

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Drop the Gaussians whose `mask` [N] is False. Raises UserError where none would be left."""
        if mask.all():
            return
        self._edit(mask.nonzero().squeeze(1), None)

    @torch.no_grad()
    def split(self, split: Split) -> None:
        """Put children in the place of their parents: at the end, without gradients, moments and statistics."""
        mask = torch.ones(len(self), dtype=torch.bool, device=split.parents.device)
        mask[split.parents] = False
        self._edit(mask.nonzero().squeeze(1), split.children)

    def _edit(self, survivors: Tensor, children: Gaussians | None) -> None:
        edit = _Edit(survivors, 0 if children is None else len(children))
        if len(edit) == 0:
            raise UserError("no Gaussian is left: check the camera poses and the masks of the scene, they cannot fit")
        appended: Mapping[str, Tensor] = {} if children is None else dict(children.named_tensors())
        for name, group in self._groups.items():
            group.edit(edit, appended.get(name))
        self._gradient_sum = edit.applied_to(self._gradient_sum)
        self._visits = edit.applied_to(self._visits)
        self.gaussians = self._view()

    @torch.no_grad()
    def reset_opacities(self, ceiling: float) -> None:
        """α ← min(α, ceiling); the momentum that would carry it back up is forgotten, the step count is not."""
        group = self._groups["opacity_logits"]
        group.parameter.clamp_(max=float(torch.logit(torch.tensor(ceiling, dtype=torch.float64))))
        group.first_moment.zero_()
        group.second_moment.zero_()

    def step(self, names: Iterable[str], rates: Mapping[str, float], merged: Mapping[str, int] | None = None) -> None:
        """Let Adam apply, and zero, the gradients of the named groups. `rates` are step sizes by group.

        A step stands for `merged` steps by group, 1 by default: see `gns.model.adam.adam_step`.
        """
        due = []
        for name in names:
            group, times = self._groups[name], merged[name] if merged else 1
            self._steps[name] += times
            due.append(AdamGroup(group.tensors, rates[name], self._steps[name], times))
        adam_step(due)

    def state_dict(self) -> dict[str, Any]:
        """Everything above as plain tensors and integers. The tensors are the live ones: save them before going on."""
        return {
            "groups": {
                name: {
                    "parameter": group.parameter.detach(),
                    "gradient": group.gradient,
                    "first_moment": group.first_moment,
                    "second_moment": group.second_moment,
                    "steps": self._steps[name],
                }
                for name, group in self._groups.items()
            },
            "gradient_sum": self._gradient_sum,
            "visits": self._visits,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device | None = None) -> Population:
        """The population that `state_dict` described, bit by bit, on `device` (default: where its tensors are).

        Takes over those of its tensors that are there already. Raises KeyError.
        """
        groups = state["groups"]
        population = cls(Gaussians(**{name: group["parameter"].to(device) for name, group in groups.items()}))
        for name, group in groups.items():
            population._groups[name].gradient.copy_(group["gradient"])
            population._groups[name].first_moment.copy_(group["first_moment"])
            population._groups[name].second_moment.copy_(group["second_moment"])
            population._steps[name] = group["steps"]
        population._gradient_sum.copy_(state["gradient_sum"])
        population._visits.copy_(state["visits"])
        return population
