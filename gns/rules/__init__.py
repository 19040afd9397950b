"""Methods of training, each a combination of rules: how a model grows, and who is taken out of it.

A new one is a file in this folder and its line in `METHODS`: command line, config.json, checkpoints and log follow.
All iteration numbers of the package are in here. Importing this does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gns.rules import adaptive_density, gns, improved_gs, learned_mask, mcmc, one_shot
from gns.rules.base import Method, Plan, Rule, Run
from gns.rules.optimisation import Optimisation
from gns.rules.presets import DEFAULT_PRESET, PRESETS, PUBLISHED, Refinements

if TYPE_CHECKING:
    from gns.scene import View
    from gns.team import Team

__all__ = [
    "DEFAULT_METHOD",
    "DEFAULT_PRESET",
    "METHODS",
    "PRESETS",
    "SCHEDULES",
    "TEST_ITERATIONS",
    "Method",
    "Plan",
    "Refinements",
    "Rule",
    "Run",
    "all_rules",
    "optimisation_of",
    "plan_of",
]

METHODS: dict[str, Method] = {
    "gns": gns.METHOD,
    "3dgs": adaptive_density.METHOD,
    "mcmc": mcmc.METHOD,
    "improved-gs": improved_gs.METHOD,
    "oneshot-opacity": one_shot.BY_OPACITY,
    "oneshot-contribution": one_shot.BY_CONTRIBUTION,
    "learned-mask": learned_mask.METHOD,
}

DEFAULT_METHOD, *_ = METHODS

# The values of --schedule. Every method has the first.
SCHEDULES = tuple(dict.fromkeys(name for method in METHODS.values() for name in method.schedules))

TEST_ITERATIONS = (7_000,)  # when the held-out photos are measured besides the end, as 3DGS does


def all_rules() -> list[type[Rule[Any]]]:
    """The rules of all methods, each once."""
    return list(dict.fromkeys(rule for method in METHODS.values() for rule in method.rules))


def optimisation_of(method: str, schedule: str, iterations: int | None = None) -> Optimisation:
    """The optimiser's calendar for a run of `iterations`, by default of the length that it was written for."""
    natural = METHODS[method].schedules[schedule].optimisation
    return natural if iterations is None else natural.scaled(iterations / natural.iterations)


def plan_of(
    method: str,
    schedule: str,
    iterations: int,
    options: Mapping[str, Any],
    *,
    budget: int,
    extent: float,
    background: tuple[float, float, float],
    views: Sequence[View],
    team: Team,
    refinements: Refinements = PUBLISHED,
) -> Plan:
    """The rules of a method for one run. `options` are those of each rule, by its name; see `Run` for the rest.

    `refinements` change the calendars of all of them.
    """
    natural = refinements.applied(METHODS[method].schedules[schedule])
    factor = iterations / natural.optimisation.iterations
    optimisation = natural.optimisation.scaled(factor)
    run = Run(budget, extent, background, views, optimisation, team)
    pairs = zip(METHODS[method].rules, natural.rules, strict=True)
    return Plan(optimisation, tuple(rule(run, calendar.scaled(factor), options[rule.name]) for rule, calendar in pairs))
