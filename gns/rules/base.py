"""What a rule is: how a model grows, or who is taken out of it.

A rule is a frozen object. What it remembers is a value that its methods take and return, so that a checkpoint holds it
and nothing else does. A method of training, such as `--method gns`, is a combination of rules and the calendars they
run by; `gns.rules` lists them. docs/extending.md builds one step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from gns.rules.calendar import Calendar
from gns.rules.optimisation import Optimisation

if TYPE_CHECKING:  # for the reader and mypy alone: the command line reads rules without waiting for torch
    import torch
    from torch import Tensor

    from gns.gaussian_renderer import RenderOutput, ScreenGradients
    from gns.model.population import Extra, Population
    from gns.scene import Gaussians, View
    from gns.team import Team

S = TypeVar("S")
Chance = Mapping[str, "torch.Generator"]


@dataclass(frozen=True)
class NoOptions:
    """The options of a rule that has none."""


@dataclass(frozen=True, eq=False)
class Run:
    """What a rule may know of the run that it serves."""

    budget: int  # B, the number of Gaussians asked for; 0 where the method takes none
    extent: float  # of the scene, in world units
    background: tuple[float, float, float]  # RGB in [0, 1] behind the scene
    views: Sequence[View]  # the training views as large as they are at the moment, pixels on the device that trains
    optimisation: Optimisation  # scaled to the run's length
    team: Team  # the processes that train together


@dataclass(frozen=True, eq=False)
class Rule(Generic[S]):
    """A rule and the run it serves. The loop calls its methods in the order in which they stand here.

    Iterations `it` count from 1. Each method has a default that does nothing, so a rule writes those that it needs.
    The population is changed by `edit` and `stepped` alone, and only through its own methods.
    """

    run: Run
    calendar: Any  # its own kind of `Calendar`, scaled to the run's length
    options: Any  # an instance of `Options`

    name: ClassVar[str]  # in checkpoints and config.json
    Options: ClassVar[type] = NoOptions  # dataclass whose fields carry `gns.utils.option_table.option`
    chances: ClassVar[tuple[str, ...]] = ()  # its sources of chance; each has a generator of its own

    def extras(self) -> Sequence[Extra]:
        """Further numbers per Gaussian that the population keeps for this rule."""
        return ()

    def most(self) -> int:
        """The most Gaussians that this rule lets a run have; 0 where it does not decide that."""
        return 0

    def begin(self) -> S:
        """The state before the first iteration: a frozen dataclass of numbers and None."""
        raise NotImplementedError

    def restored(self, saved: Mapping[str, Any]) -> S:
        """The state that a checkpoint holds as a dictionary of its fields. Raises TypeError where they are others."""
        state: Any = self.begin()
        if set(saved) != set(vars(state)):
            raise TypeError(f"{self.name} remembers {', '.join(vars(state))}, not {', '.join(saved)}")
        restored: S = replace(state, **saved)
        return restored

    def initial(self, gaussians: Gaussians, chance: Chance) -> Gaussians:
        """What training starts from, in place of the `gaussians` made of the scene's points."""
        return gaussians

    def prepare(self, state: S, population: Population, it: int) -> S:
        """The state with which iteration `it` begins, before anything is rendered."""
        return state

    def rendered(self, state: S, population: Population, gaussians: Gaussians) -> Gaussians:
        """What is drawn in place of `gaussians`, differentiable in the population's parameters.

        Groups that are handed on as they are cost nothing; what is computed gets its gradient through autograd.
        """
        return gaussians

    def wants(self, it: int) -> ScreenGradients | None:
        """The screen gradients that `observe` is to find in the output of iteration `it`; None: do not call it."""
        return None

    def penalty(self, state: S, population: Population, it: int) -> Tensor | None:
        """A scalar to add to the loss of `it`, once for all processes; None for nothing."""
        return None

    def observe(self, state: S, population: Population, output: RenderOutput, it: int) -> S:
        """Take statistics of what was rendered, after the backward pass. Extras may be added to, in place."""
        return state

    def leaves_alone(self, state: S, population: Population, it: int) -> bool:
        """Whether `observe` and `edit` will neither read nor change parameters at `it`, nor change a learning rate.

        Where all rules say so, a GPU steps in the backward pass already, before they are called: same result, half as
        many bytes. Asked after `prepare`.
        """
        return False

    def edit(self, state: S, population: Population, it: int, chance: Chance) -> S:
        """Births and deaths at the end of `it`, before the optimiser's step. `chance` has a generator per source."""
        return state

    def rate_factors(self, state: S, it: int) -> Mapping[str, float]:
        """What to multiply the learning rates of parameter groups by at `it`."""
        return {}

    def stepped(self, state: S, population: Population, it: int, chance: Chance) -> S:
        """The last word of `it`, after the optimiser's step."""
        return state

    def report(self, state: S) -> Mapping[str, float]:
        """Figures of the moment for log, bar and report."""
        return {}

    def remark(self, state: S, population: Population) -> str | None:
        """A sentence that the user should read once, as soon as there is reason for it."""
        return None


@dataclass(frozen=True)
class Calendars:
    """When a method does what, at its natural length: the optimiser's calendar, and one for each of its rules."""

    optimisation: Optimisation
    rules: tuple[Calendar, ...]


@dataclass(frozen=True)
class Method:
    """What `--method` names: rules, in the order in which they act, and the calendars to choose from."""

    summary: str  # half a sentence for --help
    rules: tuple[type[Rule[Any]], ...]
    schedules: Mapping[str, Calendars]  # by the value of --schedule
    budgeted: bool = True  # whether the number of Gaussians is asked for


@dataclass(frozen=True, eq=False)
class Plan:
    """A method made ready for one run."""

    optimisation: Optimisation
    rules: tuple[Rule[Any], ...]

    @cached_property
    def extras(self) -> tuple[Extra, ...]:
        """The further numbers per Gaussian of all rules; rules that declare the same one share it.

        Raises ValueError where two declare different ones of the same name.
        """
        extras = tuple(dict.fromkeys(extra for rule in self.rules for extra in rule.extras()))
        names = [extra.name for extra in extras]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two rules declare {twice[0]} for each Gaussian, and not alike")
        return extras

    @property
    def chances(self) -> tuple[str, ...]:
        """The sources of chance of all rules."""
        return tuple(name for rule in self.rules for name in rule.chances)

    def learning_rates(self, it: int, extent: float, factors: Mapping[str, float]) -> dict[str, float]:
        """Step size at `it` of every parameter group, trained extras included; see `Optimisation.learning_rates`."""
        rates = self.optimisation.learning_rates(it, extent, factors)
        for extra in self.extras:
            if extra.rate is not None:
                rates[extra.name] = extra.rate * factors.get(extra.name, 1.0)
        return rates
