"""A third rule moves in: options, chance, numbers per Gaussian, memory and report follow from its own file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from gns.arguments import CONFIG_FILE, config_text, parse_train, read_config
from gns.gaussian_renderer import RenderOutput, ScreenGradients
from gns.model.population import Extra, Population
from gns.rules import DEFAULT_METHOD, METHODS
from gns.rules.base import Calendars, Chance, NoOptions, Plan, Rule
from gns.rules.calendar import Calendar, Date
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene
from gns.testing.tiny import same_state, tiny_config, tiny_run, tiny_scene
from gns.training.events import Event, Remark
from gns.training.loop import Trainer, train
from gns.utils.option_table import option

LAST = 250  # iteration of a run of 300 until which the newcomer acts


@dataclass(frozen=True)
class AnchorCalendar(Calendar):
    """When the newcomer acts."""

    until: Date


@dataclass(frozen=True)
class AnchorOptions:
    """What may be chosen about it."""

    anchor_weight: int = field(default=2, metadata=option("strength of the pull", group="method gns", at_least=0))


@dataclass(frozen=True)
class AnchorState:
    """What it remembers."""

    steps: int = 0
    drawn: float = 0.0


class Anchor(Rule[AnchorState]):
    """Pulls a number of each Gaussian to 1 and counts how often it was drawn; the picture does not change."""

    name = "anchor"
    Options = AnchorOptions
    chances = ("anchor",)
    calendar: AnchorCalendar
    options: AnchorOptions

    def extras(self) -> Sequence[Extra]:
        return (Extra("pull", initial=0.5, rate=0.01, inherited=True), Extra("drawn"))

    def begin(self) -> AnchorState:
        return AnchorState()

    def wants(self, it: int) -> ScreenGradients | None:
        return ScreenGradients() if it <= self.calendar.until else None

    def penalty(self, state: AnchorState, population: Population, it: int) -> Tensor | None:
        return self.options.anchor_weight * (population.extra("pull") - 1).square().sum()

    def observe(self, state: AnchorState, population: Population, output: RenderOutput, it: int) -> AnchorState:
        population.extra("drawn").add_(output.radii > 0)
        return state

    def rate_factors(self, state: AnchorState, it: int) -> dict[str, float]:
        return {"pull": 0.5}

    def stepped(self, state: AnchorState, population: Population, it: int, chance: Chance) -> AnchorState:
        return AnchorState(state.steps + 1, float(torch.rand((), generator=chance["anchor"])))

    def report(self, state: AnchorState) -> dict[str, float]:
        return {"anchor": state.steps}

    def remark(self, state: AnchorState, population: Population) -> str | None:
        return "the anchor holds" if state.steps > 15 else None


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene()


@pytest.fixture(scope="module")
def plain(scene: Scene) -> dict[str, Any]:
    """The final state without the newcomer."""
    state: dict[str, Any] = train(scene, tiny_config()).state_dict()
    return state


@pytest.fixture
def moved_in() -> Iterator[None]:
    """The default method with one rule more."""
    method = METHODS[DEFAULT_METHOD]
    schedules = {
        name: Calendars(
            natural.optimisation, (*natural.rules, AnchorCalendar(LAST * natural.optimisation.iterations // 300))
        )
        for name, natural in method.schedules.items()
    }
    with patch.dict(METHODS, {DEFAULT_METHOD: replace(method, rules=(*method.rules, Anchor), schedules=schedules)}):
        yield


@pytest.mark.usefixtures("moved_in")
def test_its_options_are_on_the_command_line_and_in_config_json(tmp_path: Path) -> None:
    config = parse_train(["-s", "scene", "--final-budget", "5k", "--anchor_weight", "7"])
    assert config.rules["anchor"] == AnchorOptions(7)
    (tmp_path / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")
    assert read_config(tmp_path / CONFIG_FILE) == config


@pytest.mark.usefixtures("moved_in")
def test_it_trains_remembers_reports_and_speaks(scene: Scene, plain: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(tmp_path, checkpoint_iterations=(80,))
    folder = RunFolder.create(config.model_path, config)
    heard: list[Event] = []
    state = train(scene, config, run=folder, on_event=heard.append)
    population, memory = state.population, state.rules["anchor"]

    # Adam goes about its rate a step, downhill from 0.5 to 1: half of 0.01, by the factor, for 100 steps.
    assert population.extra("pull").min() > 0.9 and population.extra("pull").max() < 1.1
    assert population.extra("drawn").max() > 50
    assert memory.steps == 300
    generator = torch.Generator().manual_seed(4)  # the fifth source of chance, after those that were there
    for _ in range(300):
        drawn = float(torch.rand((), generator=generator))
    assert memory.drawn == drawn
    records = [record for record in folder.read_log() if "anchor" in record]
    assert [record["anchor"] for record in records] == [*range(10, 301, 10)] and all(
        "rate" in record for record in records
    )
    assert [event.text for event in heard if isinstance(event, Remark)] == ["the anchor holds"]

    saved = read_checkpoint(folder.checkpoint_path(80))
    assert saved["rules"]["anchor"]["steps"] == 80
    continued = train(scene, config, resume_from=saved)
    assert same_state(continued.state_dict(), state.state_dict())

    # It does not touch what is drawn: nobody else notices that it is there.
    everything = state.state_dict()
    for name, group in plain["population"]["groups"].items():
        assert same_state(everything["population"]["groups"][name], group), name
    for kind in ("rules", "generators"):
        for name, value in plain[kind].items():
            assert same_state(everything[kind][name], value), name


@pytest.mark.usefixtures("moved_in")
def test_a_checkpoint_from_before_it_moved_in_is_refused(scene: Scene, plain: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="does not fit this scene, its method"):
        train(scene, tiny_config(), resume_from={**plain, "iteration": 10})


@pytest.mark.usefixtures("moved_in")
def test_its_methods_are_called_when_it_said(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an iteration, in the order in which `Rule` lists them, with the iteration's own number."""
    calls: list[tuple[str, int]] = []
    names = ("prepare", "rendered", "wants", "penalty", "observe", "edit", "rate_factors", "stepped")

    def spy(name: str) -> None:
        original = getattr(Anchor, name)

        def noting(rule: Rule[Any], *arguments: Any) -> Any:
            its = [argument for argument in arguments if type(argument) is int]
            calls.append((name, its[0] if its else -1))
            return original(rule, *arguments)

        monkeypatch.setattr(Anchor, name, noting)

    for name in names:
        spy(name)
    trainer = Trainer(tiny_config(), scene)
    state = trainer.begin()
    for it, observed in ((1, True), (250, True), (251, False)):
        state.iteration = it - 1
        calls.clear()
        trainer.advance(state)
        expected = {name: -1 if name == "rendered" else it for name in names if observed or name != "observe"}
        assert dict(calls) == expected and len(calls) == len(expected)
        order = [name for name, _ in calls]
        assert order.index("prepare") == 0 and order[-3:] == ["edit", "rate_factors", "stepped"]


# The base


class Bare(Rule[None]):
    """A rule that does nothing."""

    name = "bare"

    def begin(self) -> None:
        return None


def test_a_rule_does_nothing_by_itself() -> None:
    rule = Bare(tiny_run(), Calendar(), NoOptions())
    gaussians: Any = object()
    population: Any = object()
    assert rule.extras() == () and rule.chances == () and rule.most() == 0 and rule.Options is NoOptions
    assert rule.rendered(None, population, gaussians) is gaussians
    assert [rule.wants(1), rule.penalty(None, population, 1), rule.remark(None, population)] == [None] * 3
    assert rule.rate_factors(None, 1) == rule.report(None) == {}


class Sharing(Bare):
    """Asks for the same numbers as another rule, and one of its own."""

    name = "sharing"
    chances = ("sharing",)

    def extras(self) -> Sequence[Extra]:
        return (Extra("drawn"), Extra("own", rate=1e-3))


class Quarrelling(Bare):
    """Asks for a number that another rule has, and for another beginning of it."""

    name = "quarrelling"

    def extras(self) -> Sequence[Extra]:
        return (Extra("drawn", initial=1.0),)


def test_rules_that_declare_a_number_differently_are_refused() -> None:
    run = tiny_run()
    rules = (Sharing(run, Calendar(), NoOptions()), Quarrelling(run, Calendar(), NoOptions()))
    with pytest.raises(ValueError, match="two rules declare drawn for each Gaussian, and not alike"):
        _ = Plan(run.optimisation, rules).extras


def test_a_plan_joins_what_its_rules_ask_for() -> None:
    run = tiny_run()
    anchor = Anchor(run, AnchorCalendar(LAST), AnchorOptions())
    plan = Plan(run.optimisation, (anchor, Sharing(run, Calendar(), NoOptions())))
    assert [extra.name for extra in plan.extras] == ["pull", "drawn", "own"]
    assert plan.chances == ("anchor", "sharing")
    rates = plan.learning_rates(1, 2.0, {"own": 3.0, "quats": 2.0})
    plain = run.optimisation.learning_rates(1, 2.0, {})
    assert rates == {**plain, "quats": 2 * plain["quats"], "pull": 0.01, "own": pytest.approx(3e-3)}
    assert math.isclose(plain["means"] / run.optimisation.learning_rates(1, 1.0, {})["means"], 2.0)
