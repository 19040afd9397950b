"""Rows stay together through every edit, Adam is torch's, and a saved population is the same to the bit."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gns.errors import UserError
from gns.model.adam import AdamGroup, AdamTensors, adam_step
from gns.model.population import Extra, Population, Split
from gns.scene import Gaussians
from gns.scene.gaussians import GROUPS
from gns.testing.tiny import same_state

# Trained or not, inherited or not, numbers and vectors, from zero and from elsewhere.
EXTRAS = (
    Extra("visits"),
    Extra("age", width=2, initial=-1.0, inherited=True),
    Extra("mask", initial=0.5, rate=1e-2),
    Extra("shift", width=2, rate=2e-3, inherited=True),
)
STATISTICS, TRAINED = ("visits", "age"), ("mask", "shift")
RATES = {
    "means": 1e-3,
    "log_scales": 5e-3,
    "quats": 1e-3,
    "opacity_logits": 2.5e-2,
    "sh_dc": 2.5e-3,
    "sh_rest": 2.5e-4,
    "mask": 1e-2,
    "shift": 2e-3,
}
ONCE = dict.fromkeys(RATES, 1)  # each step stands for one
DECAYS = {"sh_rest": 1e-2, "mask": 1e-3}


def _gaussians(count: int, seed: int = 0, sh_degree: int = 1) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    coefficients = (sh_degree + 1) ** 2 - 1
    return Gaussians(
        means=normal(count, 3),
        log_scales=normal(count, 3),
        quats=normal(count, 4),
        opacity_logits=normal(count),
        sh_dc=normal(count, 1, 3),
        sh_rest=normal(count, coefficients, 3),
    )


def test_births_and_deaths_are_counted_and_who_was_there_is_followed() -> None:
    population = Population(_gaussians(8), EXTRAS)
    assert population.followed() is None
    population.keep(torch.arange(8) != 2)
    population.follow()
    population.keep(torch.arange(7) != 0)
    origins = torch.tensor([1, 1])
    population.split(Split(torch.tensor([1]), population.gaussians.rows(origins), origins))
    population.append(population.gaussians.rows(origins), origins)
    population.keep(torch.arange(9) != 4)
    followed = population.followed()
    assert followed is not None and followed.tolist() == [1, 3, 4, 5, -1, -1, -1, -1]
    assert (population.born, population.died) == (1 + 2, 3)
    assert len(population) == 8 + population.born - population.died


def _gradient(values: Tensor) -> Tensor:
    assert values.grad is not None
    return values.grad


def _lived_in(count: int = 12) -> Population:
    """A population whose every row differs in every tensor."""
    population = Population(_gaussians(count), EXTRAS)
    for seed in (1, 2):
        _add_gradients(population, seed)
        population.step(population.groups, RATES, ONCE)
    generator = torch.Generator().manual_seed(3)
    for name in STATISTICS:
        population.extra(name).add_(torch.rand(population.extra(name).shape, generator=generator))
    _add_gradients(population, 4)
    return population


def _add_gradients(population: Population, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for gradient in population.sums(statistics=False):
        gradient.add_(torch.randn(gradient.shape, generator=generator))


def _begun(name: str, count: int, children: Gaussians, origins: Tensor, before: dict[str, Tensor]) -> Tensor:
    """What a newborn row must hold in the tensor of a state that is called `name`."""
    owner = name.split("/")[1]
    if name.endswith(("/gradient", "/first_moment", "/second_moment")):
        return torch.zeros_like(before[name])[:1].expand(count, *before[name].shape[1:])
    for extra in EXTRAS:
        if extra.name == owner:
            return before[name][origins] if extra.inherited else torch.full_like(before[name][origins], extra.initial)
    values: Tensor = getattr(children, owner)
    return values


def _tensors(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """All per-row tensors of a state by their path, copied."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if isinstance(value, Tensor):
            found[f"{prefix}{key}"] = value.detach().clone()
        elif isinstance(value, dict):
            found |= _tensors(value, f"{prefix}{key}/")
    return found


def _is_planes(values: Tensor) -> bool:
    return values.movedim(0, -1).is_contiguous()


def _assert_leaves(population: Population) -> None:
    """Parameters, trained extras included, are leaves of autograd stored as planes, and so are their gradients."""
    parameters = [values for _, values in population.gaussians.named_tensors()]
    for values in [*parameters, *(population.extra(name) for name in TRAINED)]:
        assert values.is_leaf and values.requires_grad
        assert _is_planes(values) and _is_planes(_gradient(values))
    for name in STATISTICS:
        assert not population.extra(name).requires_grad and _is_planes(population.extra(name))


def test_begins_with_the_given_rows_and_nothing_else() -> None:
    gaussians = _gaussians(5)
    population = Population(gaussians)
    assert len(population) == 5
    assert population.groups == GROUPS
    for name, tensor in _tensors(population.state_dict()).items():
        if name.endswith("/parameter"):
            assert torch.equal(tensor, getattr(gaussians, name.split("/")[1]))
        else:
            assert not tensor.any(), name
    assert len(_tensors(population.state_dict())) == 6 * 4
    for _, values in population.gaussians.named_tensors():
        assert values.is_leaf and values.requires_grad
        assert _is_planes(values) and _is_planes(_gradient(values))


def test_extras_begin_at_their_initial_values() -> None:
    population = Population(_gaussians(5), EXTRAS)
    assert population.groups == (*GROUPS, *TRAINED)
    assert len(_tensors(population.state_dict())) == (6 + 2) * 4 + 2
    assert torch.equal(population.extra("visits"), torch.zeros(5))
    assert torch.equal(population.extra("age"), torch.full((5, 2), -1.0))
    assert torch.equal(population.extra("mask"), torch.full((5,), 0.5))
    assert torch.equal(population.extra("shift"), torch.zeros(5, 2))
    _assert_leaves(population)
    with pytest.raises(KeyError):
        population.extra("unknown")


def test_sums_are_all_that_grows() -> None:
    population = _lived_in()
    gradients = [_gradient(values) for _, values in population.gaussians.named_tensors()]
    gradients += [_gradient(population.extra(name)) for name in TRAINED]
    alone, together = population.sums(statistics=False), population.sums(statistics=True)
    for found, wanted in zip(alone, gradients, strict=True):
        assert found is wanted
    for found, wanted in zip(together, [*gradients, *map(population.extra, STATISTICS)], strict=True):
        assert found is wanted


def test_scratch_has_a_number_for_each_gaussian_and_is_handed_out_again() -> None:
    population = _lived_in()
    scratch = population.scratch()
    assert scratch.shape == (12,) and scratch.data_ptr() == population.scratch().data_ptr()
    population.keep(torch.arange(12) < 5)
    assert population.scratch().shape == (5,)


def test_keep_takes_everything_along() -> None:
    population = _lived_in()
    before = _tensors(population.state_dict())
    mask = torch.arange(12) % 3 != 1
    population.keep(mask)
    after = _tensors(population.state_dict())
    assert len(population) == 8
    for name, tensor in before.items():
        assert len(set(map(str, tensor.tolist()))) == 12, (
            name
        )  # a row of its own for each: none can stand in for another
        assert torch.equal(after[name], tensor[mask]), name
    _assert_leaves(population)


def test_keeping_all_changes_nothing() -> None:
    population = _lived_in()
    gaussians = population.gaussians
    population.keep(torch.ones(12, dtype=torch.bool))
    assert population.gaussians is gaussians


def test_keeping_none_is_refused() -> None:
    with pytest.raises(UserError, match="no Gaussian is left"):
        _lived_in().keep(torch.zeros(12, dtype=torch.bool))


def test_split_replaces_parents_by_newborn_children() -> None:
    population = _lived_in()
    before = _tensors(population.state_dict())
    parents, children, origins = torch.tensor([7, 2]), _gaussians(4, seed=9), torch.tensor([7, 2, 2, 7])
    population.split(Split(parents, children, origins))
    survivors = [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]
    assert len(population) == 14
    for name, tensor in _tensors(population.state_dict()).items():
        assert torch.equal(tensor[:10], before[name][survivors]), name
        assert torch.equal(tensor[10:], _begun(name, 4, children, origins, before)), name
    _assert_leaves(population)


def test_append_leaves_everyone_and_adds_newborns() -> None:
    population = _lived_in()
    before = _tensors(population.state_dict())
    children, origins = _gaussians(3, seed=9), torch.tensor([11, 0, 11])
    population.append(children, origins)
    assert len(population) == 15
    for name, tensor in _tensors(population.state_dict()).items():
        assert torch.equal(tensor[:12], before[name]), name
        assert torch.equal(tensor[12:], _begun(name, 3, children, origins, before)), name
    _assert_leaves(population)


def test_overwrite_makes_newborns_of_rows() -> None:
    """Rows may inherit from one that is overwritten itself: what it had before counts."""
    population = _lived_in()
    before = _tensors(population.state_dict())
    leaves = [values for _, values in population.gaussians.named_tensors()]
    rows, values, origins = torch.tensor([8, 1, 4]), _gaussians(3, seed=9), torch.tensor([1, 4, 10])
    population.overwrite(rows, values, origins)
    others = [row for row in range(12) if row not in rows.tolist()]
    for name, tensor in _tensors(population.state_dict()).items():
        assert torch.equal(tensor[others], before[name][others]), name
        assert torch.equal(tensor[rows], _begun(name, 3, values, origins, before)), name
    for (_, values_now), leaf in zip(population.gaussians.named_tensors(), leaves, strict=True):
        assert values_now is leaf  # in place: a step and an edit later they are still the population's
    _assert_leaves(population)
    population.step(population.groups, RATES, ONCE)
    assert {group["steps"] for group in population.state_dict()["groups"].values()} == {3}


def test_all_may_split() -> None:
    population = _lived_in(2)
    population.split(Split(torch.tensor([0, 1]), _gaussians(4, seed=9), torch.tensor([0, 1, 0, 1])))
    assert torch.equal(population.gaussians.means, _gaussians(4, seed=9).means)


def test_opacity_reset_lowers_the_high_and_forgets_their_moments() -> None:
    population = _lived_in()
    before = _tensors(population.state_dict())
    opacities = population.opacities
    population.reset_opacities(0.3)
    assert torch.allclose(population.opacities, opacities.clamp(max=0.3))
    assert (opacities > 0.3).any() and (opacities < 0.3).any()
    changed = {
        "groups/opacity_logits/parameter",
        "groups/opacity_logits/first_moment",
        "groups/opacity_logits/second_moment",
    }
    for name, tensor in _tensors(population.state_dict()).items():
        assert torch.equal(tensor, before[name]) == (name not in changed), name
    assert not population.state_dict()["groups"]["opacity_logits"]["second_moment"].any()
    assert population.state_dict()["groups"]["opacity_logits"]["steps"] == 2


def test_only_named_groups_step_and_the_others_go_on_summing() -> None:
    population = Population(_gaussians(6), EXTRAS)
    _add_gradients(population, 1)
    before = _tensors(population.state_dict())
    population.step(("means", "opacity_logits", "shift"), RATES, ONCE)
    extras = [(name, population.extra(name)) for name in TRAINED]
    for name, values in [*population.gaussians.named_tensors(), *extras]:
        stepped = name in ("means", "opacity_logits", "shift")
        assert torch.equal(values, before[f"groups/{name}/parameter"]) != stepped
        assert torch.equal(_gradient(values), before[f"groups/{name}/gradient"]) != stepped
        assert _gradient(values).any() != stepped
        assert population.state_dict()["groups"][name]["steps"] == int(stepped)


def test_autograd_adds_to_the_preallocated_gradient() -> None:
    population = Population(_gaussians(4))
    opacity_logits = population.gaussians.opacity_logits
    gradient = _gradient(opacity_logits)
    for _ in range(2):
        opacity_logits.square().sum().backward()  # type: ignore[no-untyped-call]
    assert opacity_logits.grad is gradient
    assert torch.allclose(gradient, 4 * opacity_logits)


@pytest.mark.parametrize("decays", [{}, DECAYS], ids=["no decay", "decay"])
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-12])
def test_population_steps_like_torch_adam(scale: float, decays: dict[str, float]) -> None:
    """Dense Adam through a split and a cull: survivors go on as though nothing had happened, unseen ones too."""
    population = Population(_gaussians(10), EXTRAS)
    # The peer knows the survivors only: they start as rows 1 … 8 of the population and never notice their neighbours.
    start = {name: values.detach()[1:9].clone() for name, values in _parameters(population).items()}
    peers = {name: values.clone().requires_grad_() for name, values in start.items()}
    options = [
        {"params": [peer], "lr": RATES[name], "weight_decay": decays.get(name, 0.0) / RATES[name]}
        for name, peer in peers.items()
    ]
    adam = torch.optim.AdamW(options, eps=1e-15)
    generator = torch.Generator().manual_seed(5)
    rows = slice(1, 9)
    for it in range(12):
        if it == 4:
            population.keep(torch.tensor([False] + [True] * 9))
            rows = slice(0, 8)
        if it == 7:
            population.split(Split(torch.tensor([8]), _gaussians(2, seed=8), torch.tensor([8, 8])))
        for name, values in _parameters(population).items():
            gradient = scale * torch.randn(peers[name].shape, generator=generator)
            gradient[it % 8] = 0.0  # unseen in this view
            _gradient(values)[rows] += gradient
            peers[name].grad = gradient
        population.step(population.groups, RATES, ONCE, decays)
        adam.step()
    for name, values in _parameters(population).items():
        moved = (peers[name] - start[name]).abs().max()
        assert moved > 2 * RATES[name]
        assert torch.allclose(values[rows], peers[name], rtol=0, atol=1e-3 * RATES[name]), name


def _parameters(population: Population) -> dict[str, Tensor]:
    """All that is trained, by group."""
    extras = {name: population.extra(name) for name in population.groups if name not in GROUPS}
    return dict(population.gaussians.named_tensors()) | extras


def test_adam_step_keeps_layout_and_spends_the_gradient() -> None:
    parameter, gradient, first, second = (torch.randn(3, 5).T for _ in range(4))
    second.abs_()
    address = parameter.data_ptr()
    adam_step([AdamGroup(AdamTensors(parameter, gradient, first, second), 0.1, 1)])
    assert not gradient.any()
    assert parameter.data_ptr() == address
    assert all(_is_planes(tensor) for tensor in (parameter, gradient, first, second))


def test_adam_step_refuses_what_it_would_misread() -> None:
    rows, planes = torch.zeros(5, 3), torch.zeros(3, 5).T
    with pytest.raises(ValueError, match="planes"):
        adam_step([AdamGroup(AdamTensors(rows, planes, planes, planes), 0.1, 1)])
    with pytest.raises(ValueError, match="float64"):
        adam_step([AdamGroup(AdamTensors(planes.double(), planes, planes, planes), 0.1, 1)])


def _reloaded(population: Population) -> Population:
    file = io.BytesIO()
    torch.save(population.state_dict(), file)
    file.seek(0)
    return Population.from_state_dict(torch.load(file, weights_only=True), EXTRAS)


def test_saved_and_loaded_to_the_bit() -> None:
    population = _lived_in()
    loaded = _reloaded(population)
    assert same_state(loaded.state_dict(), population.state_dict())
    _assert_leaves(loaded)
    assert {group["steps"] for group in loaded.state_dict()["groups"].values()} == {2}
    for one in (population, loaded):
        one.step(one.groups, RATES, ONCE)
        one.append(_gaussians(2, seed=9), torch.tensor([3, 4]))
    assert same_state(loaded.state_dict(), population.state_dict())


def _averaged() -> Population:
    """A population that has averaged the parameters after three steps."""
    population = _lived_in()
    for seed in (5, 6, 7):
        _add_gradients(population, seed)
        population.step(population.groups, RATES, ONCE)
        population.average()
    return population


def test_a_mean_is_saved_and_goes_on_to_the_bit() -> None:
    population = _averaged()
    loaded = _reloaded(population)
    for one in (population, loaded):
        one.step(one.groups, RATES, ONCE)
        one.average()
    assert loaded.state_dict()["mean"]["steps"] == 4
    assert same_state(loaded.state_dict(), population.state_dict())


def test_a_mean_is_of_those_who_are_there() -> None:
    """Whatever adds, drops or changes Gaussians begins it anew."""
    one, origin = _gaussians(1, seed=9), torch.tensor([3])
    edits: list[Callable[[Population], None]] = [
        lambda population: population.keep(torch.arange(12) != 5),
        lambda population: population.append(one, origin),
        lambda population: population.split(Split(origin, one, origin)),
        lambda population: population.overwrite(origin, one, origin),
        lambda population: population.reset_opacities(0.3),
        lambda population: population.forget_mean(),
    ]
    for edit in edits:
        population = _averaged()
        assert population.mean is not None and len(population.mean) == 12
        edit(population)
        assert population.mean is None
        population.average()
        mean = population.mean
        assert mean is not None and same_state(
            dict(mean.named_tensors()), {name: v.detach() for name, v in population.gaussians.named_tensors()}
        )


def test_a_mean_of_other_gaussians_is_refused() -> None:
    saved = _averaged().state_dict()
    values = saved["mean"]["values"]
    for bad in (
        dict(_gaussians(4).named_tensors()),
        {**values, "quats": 1.0},
        {**values, "means": values["means"].double()},
    ):
        with pytest.raises(ValueError, match="its mean is of other Gaussians"):
            Population.from_state_dict({**saved, "mean": {"values": bad, "steps": 1}}, EXTRAS)
    for steps in (0, 1.5):
        with pytest.raises(ValueError, match=f"its mean is over {steps} steps"):
            Population.from_state_dict({**saved, "mean": {"values": values, "steps": steps}}, EXTRAS)


@pytest.mark.parametrize("kept", [(), EXTRAS[:3], EXTRAS[1:], (*EXTRAS[:2], Extra("other"), *EXTRAS[2:])])
def test_a_population_with_other_extras_is_refused(kept: tuple[Extra, ...]) -> None:
    saved = Population(_gaussians(4), kept).state_dict()
    with pytest.raises(ValueError, match="its Gaussians keep"):
        Population.from_state_dict(saved, EXTRAS)
    with pytest.raises(ValueError, match="its Gaussians keep"):
        Population.from_state_dict(Population(_gaussians(4), EXTRAS).state_dict(), kept)


@pytest.mark.parametrize(
    "other", [Extra("mask", width=2, initial=0.5, rate=1e-2), Extra("mask", initial=0.5)], ids=["wider", "untrained"]
)
def test_an_extra_of_another_kind_is_refused(other: Extra) -> None:
    saved = Population(_gaussians(4), [other if extra.name == "mask" else extra for extra in EXTRAS]).state_dict()
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        Population.from_state_dict(saved, EXTRAS)
