"""What a state holds, what it refuses to become, and that nobody is handed the live tensors by mistake."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gns.errors import UserError
from gns.scene import Scene
from gns.testing.colour_gain import ColourGain
from gns.testing.tiny import TINY_BUDGET, same_state, tiny_config, tiny_scene
from gns.training.loop import Trainer, train
from gns.training.state import TrainState


def _begun(scene: Scene, **changes: Any) -> TrainState:
    return Trainer(tiny_config(**changes), scene).begin()


def test_a_checkpoint_of_another_scene_or_degree_is_refused(scene: Scene) -> None:
    saved = _begun(scene).state_dict()
    with pytest.raises(UserError, match="4 training views and the scene has 5"):
        train(tiny_scene(train_views=5), tiny_config(), resume_from=saved)
    with pytest.raises(UserError, match="--sh-degree 1, not 2"):
        train(scene, tiny_config(sh_degree=2), resume_from=saved)
    with pytest.raises(UserError, match="does not fit"):
        train(scene, tiny_config(), resume_from={"iteration": 3})


def _without(saved: dict[str, Any], *path: str) -> dict[str, Any]:
    """A state that lacks what lies at the end of `path`."""
    name, *rest = path
    if rest:
        return {**saved, name: _without(saved[name], *rest)}
    return {key: value for key, value in saved.items() if key != name}


@pytest.mark.parametrize(
    "path",
    [
        ("iteration",),
        ("sampler", "order"),
        ("generators", "split"),
        ("rules", "edge_growth"),
        ("rules", "natural_selection", "rate"),
        ("population", "statistics", "visits"),
        ("population", "groups", "quats"),
        ("population", "groups", "quats", "first_moment"),
        ("parts", "colour_gain"),
        ("parts", "colour_gain", "gains"),
    ],
    ids="/".join,
)
def test_a_checkpoint_that_lacks_something_is_refused(scene: Scene, path: tuple[str, ...]) -> None:
    saved = Trainer(tiny_config(), scene, parts=[ColourGain(4)]).begin().state_dict()
    fresh = Trainer(tiny_config(), scene, parts=[ColourGain(4)])
    fresh.begin(saved)
    with pytest.raises(UserError, match="does not fit this scene, its method or this version"):
        fresh.begin(_without(saved, *path))


def test_a_checkpoint_with_a_part_that_the_run_lacks_is_refused(scene: Scene) -> None:
    saved = Trainer(tiny_config(), scene, parts=[ColourGain(4)]).begin().state_dict()
    with pytest.raises(UserError, match="colour_gain"):
        train(scene, tiny_config(), resume_from=saved)
    with pytest.raises(UserError, match="does not fit"):  # of another number of photos
        Trainer(tiny_config(), scene, parts=[ColourGain(5)]).begin(saved)


@pytest.mark.parametrize("group", ["means", "opacity_logits", "sh_rest"])
@pytest.mark.parametrize(("tensor", "bad"), [("parameter", math.nan), ("second_moment", math.inf)])
def test_a_checkpoint_that_is_not_finite_is_refused(scene: Scene, group: str, tensor: str, bad: float) -> None:
    saved = {**_begun(scene).state_dict(), "iteration": 9}
    saved["population"]["groups"][group][tensor][2] = bad
    with pytest.raises(UserError, match=rf"the checkpoint of iteration 9 holds {group} that are not finite"):
        train(scene, tiny_config(), resume_from=saved)


def test_a_checkpoint_past_the_end_is_refused(scene: Scene) -> None:
    saved = {**_begun(scene).state_dict(), "iteration": 300}
    for iterations in (100, 300):
        with pytest.raises(UserError, match=r"iteration 300.*--iterations"):
            train(scene, tiny_config(iterations=iterations), resume_from=saved)


def test_each_source_of_chance_has_a_generator_of_its_own(scene: Scene) -> None:
    """No two seeds begin two generators alike, neither in one run nor from one run to the next."""
    starts = []
    for seed in (0, 1, 2):
        state = _begun(scene, seed=seed).state_dict()
        assert list(state["generators"]) == ["survey", "split", "final cut"]
        starts += [state["sampler"]["generator"], *state["generators"].values()]
    assert len({tuple(start.tolist()) for start in starts}) == 12


@pytest.mark.parametrize(
    ("grown_by", "method"),
    [
        ("gns", "oneshot-opacity"),
        ("gns", "oneshot-contribution"),
        ("gns", "learned-mask"),
        ("learned-mask", "gns"),
    ],
)
@pytest.mark.parametrize("seed", [0, 3])
def test_a_method_goes_on_from_what_another_grew_as_if_it_were_its_own(
    scene: Scene, grown_by: str, method: str, seed: int
) -> None:
    grower = Trainer(tiny_config(method=grown_by, seed=seed), scene)
    grown = grower.begin()
    while grown.iteration < 148:  # of 150, where the first of them begins to take Gaussians out
        grower.advance(grown)
    assert len(grown.population) > 2 * TINY_BUDGET
    config = tiny_config(method=method, seed=seed)
    alone, borrowed = train(scene, config), train(scene, config, start_from=grown)
    assert len(alone.gaussians) == TINY_BUDGET
    assert same_state(alone.state_dict(), borrowed.state_dict())


def test_a_state_of_another_method_is_taken_on_request_alone(scene: Scene) -> None:
    other = _begun(scene, method="mcmc")
    with pytest.raises(UserError, match="does not fit this scene, its method or this version"):
        train(scene, tiny_config(), resume_from=other)
    state = Trainer(tiny_config(), scene).begin(other, adapt=True)
    assert list(state.rules) == ["edge_growth", "natural_selection"]
    assert list(state.generators) == ["survey", "split", "final cut"]
    saved = other.state_dict()
    spoilt = [{**saved, name: value} for name, value in (("rules", 3), ("generators", [3]), ("population", []))]
    for nonsense in ({"iteration": 3}, *spoilt):
        with pytest.raises(UserError, match="the checkpoint does not fit this version of gns"):
            train(scene, tiny_config(), start_from=nonsense)
    with pytest.raises(UserError, match="4 training views and the scene has 5"):
        train(tiny_scene(train_views=5), tiny_config(), start_from=other)


def test_the_model_is_handed_out_as_a_copy(scene: Scene) -> None:
    state = _begun(scene)
    before = {name: values.detach().clone() for name, values in state.population.gaussians.named_tensors()}
    for name, values in state.gaussians.named_tensors():
        assert torch.equal(values, before[name]) and not values.requires_grad
        values.fill_(torch.nan)
    assert same_state(dict(state.population.gaussians.named_tensors()), before)


def test_a_rule_decides_what_is_drawn(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Listeners see, and files hold, what rules make of the Gaussians; the rules in their order."""

    def doubled(rule: Any, memory: Any, population: Any, gaussians: Any) -> Any:
        return type(gaussians)(**{**dict(gaussians.named_tensors()), "means": 2 * gaussians.means})

    def shifted(rule: Any, memory: Any, population: Any, gaussians: Any) -> Any:
        return type(gaussians)(**{**dict(gaussians.named_tensors()), "means": 1 + gaussians.means})

    monkeypatch.setattr("gns.rules.edge_growth.EdgeGrowth.rendered", doubled)
    monkeypatch.setattr("gns.rules.natural_selection.NaturalSelection.rendered", shifted)
    state = _begun(scene)
    assert torch.equal(state.gaussians.means, 2 * state.population.gaussians.means.detach() + 1)
    assert torch.equal(state.gaussians.quats, state.population.gaussians.quats)
