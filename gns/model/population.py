"""The only owner of everything that has one row per Gaussian, and the only place that adds or drops rows.

Parameters, gradients, Adam's moments and the further numbers that rules ask for are cut and joined together, by the
same indices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gns.errors import UserError
from gns.model.adam import BETA1, BETA2, EPSILON, AdamGroup, AdamTensors, BackwardStep, adam_step
from gns.scene import Gaussians
from gns.scene.gaussians import GROUPS, as_planes
from gns.utils.workspace import Workspace

_NO_DECAY: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Extra:
    """A further number, or vector, per Gaussian. It begins at `initial`, and so it does for a child that inherits
    nothing."""

    name: str
    width: int | None = None  # components: [N, width]; None for a plain number, [N]
    initial: float = 0.0
    rate: float | None = None  # Adam's step size; None for what is not trained, such as a statistic
    inherited: bool = False  # whether a child has its parent's value

    def rows(self, count: int, like: Tensor) -> Tensor:
        """The values of `count` Gaussians at their beginning, with dtype and device of `like`."""
        shape = (count,) if self.width is None else (count, self.width)
        return as_planes(like.new_full(shape, self.initial))


@dataclass(frozen=True, eq=False)
class Split:
    """Parents to remove and the children that take their place."""

    parents: Tensor  # [K] int64, distinct rows
    children: Gaussians  # any number of rows
    origins: Tensor  # int64, the row from which each child inherits


@dataclass(eq=False)
class _Mean:
    """The mean of the parameters that are drawn over some steps of the optimiser, by group."""

    values: dict[str, Tensor]  # [N, ...], stored as planes
    steps: int = 1

    def add(self, parameters: Mapping[str, Tensor]) -> None:
        """Count the parameters of one more step."""
        self.steps += 1
        for name, values in parameters.items():
            self.values[name].lerp_(values, 1 / self.steps)


@dataclass(eq=False)
class _Group:
    """One parameter group: four tensors of the same shape [N, ...], stored as planes."""

    parameter: Tensor  # a leaf; its `grad` is the sum of gradients since the last step
    first_moment: Tensor
    second_moment: Tensor
    steps: int = 0  # that Adam has made

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

    def overwrite(self, rows: Tensor, values: Tensor) -> None:
        """Other `values` for the `rows`, with zero gradients and moments."""
        self.parameter[rows] = values
        for forgotten in (self.gradient, self.first_moment, self.second_moment):
            forgotten[rows] = 0

    def state_dict(self) -> dict[str, Any]:
        """The group as plain tensors and its number of steps."""
        return {
            "parameter": self.parameter.detach(),
            "gradient": self.gradient,
            "first_moment": self.first_moment,
            "second_moment": self.second_moment,
            "steps": self.steps,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Everything of `saved` but the parameter, with which the group was begun. Raises KeyError."""
        self.gradient.copy_(saved["gradient"])
        self.first_moment.copy_(saved["first_moment"])
        self.second_moment.copy_(saved["second_moment"])
        self.steps = saved["steps"]


def _alike(values: object, parameter: Tensor) -> bool:
    """Whether `values` can be those of `parameter`."""
    return isinstance(values, Tensor) and (values.shape, values.dtype) == (parameter.shape, parameter.dtype)


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
    """N Gaussians with their gradients, their optimiser, and the further numbers that rules ask for.

    The gradients are allocated in advance and only ever added to: by the renderer's backward pass (`accumulate=True`)
    and by autograd. `step` zeroes those that it applies. Edits replace the tensors, so hold no reference across one.
    """

    def __init__(self, gaussians: Gaussians, extras: Sequence[Extra] = ()) -> None:
        self._extras = {extra.name: extra for extra in extras}
        self._groups = {name: _Group.begin(values) for name, values in gaussians.named_tensors()}
        self._statistics: dict[str, Tensor] = {}
        for extra in extras:
            rows = extra.rows(len(gaussians), gaussians.opacity_logits.detach())
            if extra.rate is None:
                self._statistics[extra.name] = rows
            else:
                self._groups[extra.name] = _Group.begin(rows)
        self._antialiased = gaussians.antialiased
        self._scratch = Workspace(gaussians.means.device)
        self._followed: Tensor | None = None
        self._mean: _Mean | None = None
        self.born = self.died = 0  # Gaussians added and dropped so far; a split adds one fewer than it has children
        self.gradients_are_zero = True  # as far as is known: whoever lets some grow must say so
        self.gaussians = self._view()

    def _view(self) -> Gaussians:
        return Gaussians(*(self._groups[name].parameter for name in GROUPS), antialiased=self._antialiased)

    def __len__(self) -> int:
        return len(self.gaussians)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of all parameter groups, trained extras included."""
        return tuple(self._groups)

    @property
    def opacities(self) -> Tensor:
        """α = sigmoid(logit), [N], outside autograd."""
        return torch.sigmoid(self.gaussians.opacity_logits.detach())

    @torch.no_grad()
    def average(self) -> None:
        """Let the parameters that are drawn, as they are now, count towards their `mean`.

        The mean over the last steps of a run lies nearer to the optimum than the last of them, which the noise of
        single views, and step sizes that do not fall, keep moving about it (Polyak and Juditsky 1992; Izmailov et al.
        2018, arXiv 1803.05407). Where Gaussians come, go or are changed otherwise it begins anew.
        """
        parameters = {name: self._groups[name].parameter.detach() for name in GROUPS}
        if self._mean is None:
            self._mean = _Mean({name: values.clone() for name, values in parameters.items()})
        else:
            self._mean.add(parameters)

    def forget_mean(self) -> None:
        """Let no step count towards the mean any more that was made before."""
        self._mean = None

    @property
    def mean(self) -> Gaussians | None:
        """The mean of all that `average` has seen, outside autograd; None where that is nothing."""
        if self._mean is None:
            return None
        return Gaussians(*(self._mean.values[name] for name in GROUPS), antialiased=self._antialiased)

    def extra(self, name: str) -> Tensor:
        """The values of an `Extra`, [N] or [N, width]: a leaf of autograd where it is trained. Raises KeyError."""
        return self._groups[name].parameter if name in self._groups else self._statistics[name]

    def follow(self) -> None:
        """Remember who is here; no checkpoint does."""
        self._followed = torch.arange(len(self), device=self.gaussians.means.device)

    def followed(self) -> Tensor | None:
        """The row that each Gaussian had when `follow` was called, −1 for those born since, [N] int64; None before."""
        return self._followed

    def scratch(self) -> Tensor:
        """Uninitialised memory for a number per Gaussian, [N], float32; the next call hands out the same."""
        return self._scratch.take("row", (len(self),))

    def sums(self, *, statistics: bool) -> list[Tensor]:
        """What grows by one view after the other: all gradients and, on request, the extras that are not trained."""
        gradients = [group.gradient for group in self._groups.values()]
        return [*gradients, *self._statistics.values()] if statistics else gradients

    @torch.no_grad()
    def keep(self, mask: Tensor) -> None:
        """Drop the Gaussians whose `mask` [N] is False. Raises UserError where none would be left."""
        if mask.all():
            return
        survivors = mask.nonzero().squeeze(1)
        self.died += len(mask) - len(survivors)
        self._edit(survivors)

    @torch.no_grad()
    def split(self, split: Split) -> None:
        """Put children in the place of their parents: at the end, without gradients and moments."""
        mask = torch.ones(len(self), dtype=torch.bool, device=split.parents.device)
        mask[split.parents] = False
        self.born += len(split.children) - len(split.parents)
        self._edit(mask.nonzero().squeeze(1), split.children, split.origins)

    @torch.no_grad()
    def append(self, children: Gaussians, origins: Tensor) -> None:
        """Add `children` at the end, without gradients and moments; `origins` are the rows that they inherit from."""
        everyone = torch.arange(len(self), device=origins.device)
        self.born += len(children)
        self._edit(everyone, children, origins)

    @torch.no_grad()
    def overwrite(self, rows: Tensor, values: Gaussians, origins: Tensor) -> None:
        """Give the distinct `rows` [K] other parameters; their gradients, moments and what they inherit are new too.

        `origins` [K] are the rows that they inherit from.
        """
        self._mean = None
        appended = self._appended(values, origins)
        for name, group in self._groups.items():
            group.overwrite(rows, appended[name])
        for name, statistic in self._statistics.items():
            statistic[rows] = appended[name]

    def _appended(self, children: Gaussians, origins: Tensor) -> dict[str, Tensor]:
        """The values with which children begin, by group and extra."""
        inherited = {
            name: self.extra(name).detach()[origins]
            if extra.inherited
            else extra.rows(len(children), children.opacity_logits)
            for name, extra in self._extras.items()
        }
        return dict(children.named_tensors()) | inherited

    def _edit(self, survivors: Tensor, children: Gaussians | None = None, origins: Tensor | None = None) -> None:
        edit = _Edit(survivors, 0 if children is None else len(children))
        if len(edit) == 0:
            raise UserError("no Gaussian is left: check the camera poses and the masks of the scene, they cannot fit")
        self._mean = None
        appended = {} if children is None or origins is None else self._appended(children, origins)
        for name, group in self._groups.items():
            group.edit(edit, appended.get(name))
        self._statistics = {
            name: edit.applied_to(values, appended.get(name)) for name, values in self._statistics.items()
        }
        if self._followed is not None:
            newborn = self._followed.new_full((0 if children is None else len(children),), -1)
            self._followed = edit.applied_to(self._followed, newborn)
        self.gaussians = self._view()

    @torch.no_grad()
    def reset_opacities(self, ceiling: float) -> None:
        """α ← min(α, ceiling); the momentum that would carry it back up is forgotten, the step count is not."""
        self._mean = None
        group = self._groups["opacity_logits"]
        group.parameter.clamp_(max=float(torch.logit(torch.tensor(ceiling, dtype=torch.float64))))
        group.first_moment.zero_()
        group.second_moment.zero_()

    def step(
        self,
        names: Iterable[str],
        rates: Mapping[str, float],
        merged: Mapping[str, int] | None = None,
        decays: Mapping[str, float] = _NO_DECAY,
    ) -> None:
        """Let Adam apply, and zero, the gradients of the named groups. `rates` are step sizes by group.

        A step stands for `merged` steps by group, 1 by default, each of which takes away the share `decays` of what it
        finds, 0 by default: see `gns.model.adam.adam_step`.
        """
        due = []
        for name in names:
            group, times = self._groups[name], merged[name] if merged else 1
            group.steps += times
            due.append(AdamGroup(group.tensors, rates[name], group.steps, times, decays.get(name, 0.0)))
        adam_step(due)
        if len(due) == len(self._groups):
            self.gradients_are_zero = True

    def step_in_backward(self, rates: Mapping[str, float], decays: Mapping[str, float] = _NO_DECAY) -> BackwardStep:
        """The next step of the six groups that are drawn, counted here, for the backward pass of a rendering to take.

        Their gradients must be zero, and stay so. Trained extras are left to `step`.
        """
        due = []
        for name in GROUPS:
            group = self._groups[name]
            group.steps += 1
            due.append(AdamGroup(group.tensors, rates[name], group.steps, decay=decays.get(name, 0.0)))
        return BackwardStep(tuple(due), BETA1, BETA2, EPSILON)

    def state_dict(self) -> dict[str, Any]:
        """Everything above as plain tensors and integers. The tensors are the live ones: save them before going on."""
        return {
            "groups": {name: group.state_dict() for name, group in self._groups.items()},
            "statistics": dict(self._statistics),
            "mean": None if self._mean is None else {"values": dict(self._mean.values), "steps": self._mean.steps},
        }

    @staticmethod
    def with_extras(state: Mapping[str, Any], extras: Sequence[Extra]) -> dict[str, Any]:
        """The `state_dict` of a population, with `extras` in place of its own.

        Those that it lacks begin now, as if they had been there without a gradient: Adam has made as many steps as for
        the positions. Raises KeyError where a tensor is missing.
        """
        groups, statistics = {name: state["groups"][name] for name in GROUPS}, {}
        like, steps = groups["opacity_logits"]["parameter"], groups["means"]["steps"]
        for extra in extras:
            if extra.rate is None:
                known = state["statistics"].get(extra.name)
                statistics[extra.name] = extra.rows(len(like), like) if known is None else known
            else:
                fresh = {**_Group.begin(extra.rows(len(like), like)).state_dict(), "steps": steps}
                groups[extra.name] = state["groups"].get(extra.name, fresh)
        return {**state, "groups": groups, "statistics": statistics}

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Any],
        extras: Sequence[Extra] = (),
        device: torch.device | None = None,
        *,
        antialiased: bool = False,
    ) -> Population:
        """The population that `state_dict` described, bit by bit, on `device` (default: where its tensors are).

        Takes over those of its tensors that are there already. Whether its Gaussians are `antialiased` it does not say.
        Raises KeyError where a tensor is missing, and ValueError where it has other extras than `extras`.
        """
        groups, statistics = state["groups"], state["statistics"]
        parameters = (groups[name]["parameter"].to(device) for name in GROUPS)
        population = cls(Gaussians(*parameters, antialiased=antialiased), extras)
        if set(groups) != set(population._groups) or set(statistics) != set(population._statistics):
            raise ValueError(f"its Gaussians keep {', '.join([*groups, *statistics])}")
        for name, group in population._groups.items():
            if name in population._extras:
                group.parameter.detach().copy_(groups[name]["parameter"])
            group.load_state_dict(groups[name])
        for name, statistic in population._statistics.items():
            statistic.copy_(statistics[name])
        if (mean := state.get("mean")) is not None:
            values, steps = mean["values"], mean["steps"]
            if not all(_alike(values[name], population._groups[name].parameter) for name in GROUPS):
                raise ValueError("its mean is of other Gaussians")
            if not isinstance(steps, int) or steps < 1:
                raise ValueError(f"its mean is over {steps} steps")
            population._mean = _Mean({name: as_planes(values[name].to(device)) for name in GROUPS}, steps)
        population.gradients_are_zero = not any(bool(group.gradient.any()) for group in population._groups.values())
        return population
