"""Counts of a population, against cases counted by hand, and without any trace in what is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gns.rules import METHODS
from gns.rules.base import Stretch
from gns.run_folder import RunFolder
from gns.scene import Scene
from gns.testing.tiny import same_state, tiny_config
from gns.training.census import LOGIT_BINS, SIZE_BINS, Census
from gns.training.loop import Trainer, train
from gns.training.state import TrainState


class Selecting:
    """Stands for a rule that selects at given times."""

    def __init__(self, extent: float, *stretches: Stretch) -> None:
        self.run = type("Run", (), {"extent": extent})
        self._stretches = stretches

    def stretches(self) -> tuple[Stretch, ...]:
        return self._stretches


@pytest.fixture
def state(scene: Scene) -> TrainState:
    state = Trainer(tiny_config(), scene).begin()
    rules: Any = (
        Selecting(2.0, Stretch("growth", 1, 9), Stretch("first", 10, 12, True), Stretch("second", 20, 21, True)),
    )
    state.plan = replace(state.plan, rules=rules)
    return state


def test_opacities_are_counted_by_their_logit(state: TrainState) -> None:
    """32 bins from -8 to 8: 0.5 wide. What lies beyond counts in the last on either side."""
    state.population.gaussians.opacity_logits.detach()[:] = -7.9
    state.population.gaussians.opacity_logits.detach()[:5] = torch.tensor([-100.0, 0.1, 0.6, 7.9, 50.0])
    expected = dict.fromkeys(range(LOGIT_BINS), 0) | {0: 116, 16: 1, 17: 1, 31: 2}
    assert Census(state).opacities() == list(expected.values())


def test_births_and_deaths_are_counted_from_one_call_to_the_next(state: TrainState) -> None:
    population = state.population
    population.keep(torch.arange(120) < 115)
    census = Census(state)
    population.keep(torch.arange(115) < 100)
    population.append(population.gaussians.rows(torch.tensor([0, 1, 2])), torch.tensor([0, 1, 2]))
    assert census.flow() == {"births": 3, "deaths": 15}
    assert census.flow() == {"births": 0, "deaths": 0}


def test_who_outlived_a_selection(state: TrainState) -> None:
    gaussians = state.population.gaussians
    gaussians.opacity_logits.detach()[:] = torch.where(torch.arange(120) < 40, -2.9, 3.1)
    gaussians.log_scales.detach()[:] = torch.log(torch.tensor([0.025, 0.0001, 0.0001]))  # 0.0125 of an extent of 2
    census = Census(state)
    assert census.survival(9) is None
    assert census.survival(10) is None  # takes note
    state.population.keep(torch.arange(120) >= 30)  # ten of the faint ones are left
    state.population.append(gaussians.rows(torch.tensor([0])), torch.tensor([0]))  # was not there: does not count
    state.population.gaussians.opacity_logits.detach()[:] = 0.0  # who they are now does not matter
    assert census.survival(11) is None
    state.population.keep(torch.arange(91) != 50)  # an opaque one
    survival = census.survival(12)
    assert survival is not None and (survival["stretch"], survival["since"]) == ("first", 10)
    opacity, size = survival["opacity"], survival["size"]
    assert (opacity["before"][10], opacity["before"][22], sum(opacity["before"])) == (40, 80, 120)
    assert (opacity["survived"][10], opacity["survived"][22], sum(opacity["survived"])) == (10, 79, 89)
    assert (len(size["before"]), size["before"][15], size["survived"][15]) == (SIZE_BINS, 120, 89)
    assert census.survival(13) is None


def test_a_run_resumed_inside_a_selection_follows_who_is_left(state: TrainState) -> None:
    census = Census(state)
    assert census.survival(11) is None
    survival = census.survival(12)
    assert survival is not None and survival["since"] == 11
    assert [census.survival(it) for it in (13, 19, 20)] == [None] * 3
    second = census.survival(21)
    assert second is not None and second["stretch"] == "second"


def test_a_log_leaves_no_trace_in_what_is_trained(scene: Scene, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, log_every_iteration=True)
    run = RunFolder.create(config.model_path, config)
    assert same_state(train(scene, config, run=run).state_dict(), train(scene, tiny_config()).state_dict())
    records = run.read_log()
    losses = [record["iteration"] for record in records if "raw_loss" in record]
    assert losses == list(range(1, 301))
    (survival,) = [record["survival"] for record in records if "survival" in record]
    counts = {record["iteration"]: record["gaussians"] for record in records if "gaussians" in record}
    assert sum(survival["opacity"]["before"]) == sum(survival["size"]["before"]) == counts[150]
    assert sum(survival["opacity"]["survived"]) == config.final_budget == counts[300]
    assert all(sum(record["opacities"]) == record["gaussians"] for record in records if "opacities" in record)
    flows = [record for record in records if "births" in record]
    born, died = (sum(record[key] for record in flows) for key in ("births", "deaths"))
    assert counts[0] + born - died == counts[300] and born > 100 and died > 100
    assert any("target" in record and record["opacity_at_rank"] > 0 for record in records)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_what_it_does_when(name: str, scene: Scene) -> None:
    budget = {"final_budget": 100} if METHODS[name].budgeted else {"final_budget": None}
    for schedule in METHODS[name].schedules:
        plan = Trainer(tiny_config(method=name, schedule=schedule, **budget), scene).plan
        stretches = [stretch for rule in plan.rules for stretch in rule.stretches()]
        assert stretches and all(0 <= stretch.first < stretch.last <= 300 for stretch in stretches)
        selects = [stretch for stretch in stretches if stretch.selects]
        assert len(selects) == {"gns": 2 if schedule == "fast" else 1}.get(
            name, int(name.startswith(("oneshot", "learned")))
        )
