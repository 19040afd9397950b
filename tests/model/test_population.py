"""Rows stay together through every edit, Adam is torch's, and a saved population is the same to the bit."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from gns.errors import UserError
from gns.gaussian_renderer.output import RenderOutput
from gns.model.adam import AdamGroup, AdamTensors, adam_step
from gns.model.population import Population, Split
from gns.rules.calendar import GROUPS
from gns.scene import Gaussians

RATES = {"means": 1e-3, "log_scales": 5e-3, "quats": 1e-3, "opacity_logits": 2.5e-2, "sh_dc": 2.5e-3, "sh_rest": 2.5e-4}


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


def _gradient(values: Tensor) -> Tensor:
    assert values.grad is not None
    return values.grad


def _seen(count: int, seed: int) -> RenderOutput:
    generator = torch.Generator().manual_seed(seed)
    radii = torch.randint(0, 3, (count,), generator=generator).float()
    abs_grad = torch.rand(count, 2, generator=generator) * (radii > 0)[:, None]
    return RenderOutput(torch.zeros(3, 1, 1), torch.zeros(1, 1), radii, abs_grad)


def _lived_in(count: int = 12) -> Population:
    """A population whose every row differs in every tensor."""
    population = Population(_gaussians(count))
    for seed in (1, 2):
        _add_gradients(population, seed)
        population.step(GROUPS, RATES)
    population.observe(_seen(count, seed=3))
    _add_gradients(population, 4)
    return population


def _add_gradients(population: Population, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, values in population.gaussians.named_tensors():
        _gradient(values).add_(torch.randn(values.shape, generator=generator))


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


def test_begins_with_the_given_rows_and_nothing_else() -> None:
    gaussians = _gaussians(5)
    population = Population(gaussians)
    assert len(population) == 5
    for name, tensor in _tensors(population.state_dict()).items():
        if name.endswith("/parameter"):
            assert torch.equal(tensor, getattr(gaussians, name.split("/")[1]))
        else:
            assert not tensor.any(), name
    assert len(_tensors(population.state_dict())) == 6 * 4 + 2
    for _, values in population.gaussians.named_tensors():
        assert values.is_leaf and values.requires_grad
        assert _is_planes(values) and _is_planes(_gradient(values))


def test_keep_takes_everything_along() -> None:
    population = _lived_in()
    before = _tensors(population.state_dict())
    mask = torch.arange(12) % 3 != 1
    population.keep(mask)
    after = _tensors(population.state_dict())
    assert len(population) == 8
    for name, tensor in before.items():
        assert tensor.any(), name
        assert torch.equal(after[name], tensor[mask]), name
    for _, values in population.gaussians.named_tensors():
        assert values.is_leaf and values.requires_grad
        assert _is_planes(values) and _is_planes(_gradient(values))


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
    parents, children = torch.tensor([7, 2]), _gaussians(4, seed=9)
    population.split(Split(parents, children))
    survivors = [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]
    assert len(population) == 14
    for name, tensor in _tensors(population.state_dict()).items():
        assert torch.equal(tensor[:10], before[name][survivors]), name
        if name.endswith("/parameter"):
            assert torch.equal(tensor[10:], getattr(children, name.split("/")[1]))
        else:
            assert not tensor[10:].any(), name
    for _, values in population.gaussians.named_tensors():
        assert _is_planes(values) and _is_planes(_gradient(values))


def test_all_may_split() -> None:
    population = _lived_in(2)
    population.split(Split(torch.tensor([0, 1]), _gaussians(4, seed=9)))
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


def test_statistics_average_over_the_views_that_drew_a_gaussian() -> None:
    population = Population(_gaussians(3))
    image, alpha = torch.zeros(3, 1, 1), torch.zeros(1, 1)
    first = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    second = torch.tensor([[0.0, 1.0], [6.0, 8.0], [0.0, 0.0]])
    population.observe(RenderOutput(image, alpha, torch.tensor([2.0, 0.0, 0.0]), first))
    population.observe(RenderOutput(image, alpha, torch.tensor([1.0, 5.0, 0.0]), second))
    assert population.screen_gradients.tolist() == [3.0, 10.0, 0.0]  # (5 + 1)/2, 10/1, never drawn
    population.restart_statistics()
    assert population.screen_gradients.tolist() == [0.0, 0.0, 0.0]


def test_only_named_groups_step_and_the_others_go_on_summing() -> None:
    population = Population(_gaussians(6))
    _add_gradients(population, 1)
    before = _tensors(population.state_dict())
    population.step(("means", "opacity_logits"), RATES)
    for name, values in population.gaussians.named_tensors():
        stepped = name in ("means", "opacity_logits")
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


@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e-12])
def test_population_steps_like_torch_adam(scale: float) -> None:
    """Dense Adam through a split and a cull: survivors go on as though nothing had happened, unseen ones too."""
    population = Population(_gaussians(10))
    # The peer knows the survivors only: they start as rows 1 … 8 of the population and never notice their neighbours.
    peers = [values.detach()[1:9].clone().requires_grad_() for _, values in population.gaussians.named_tensors()]
    options = [{"params": [peer], "lr": RATES[name]} for name, peer in zip(GROUPS, peers, strict=True)]
    adam = torch.optim.Adam(options, eps=1e-15)
    generator = torch.Generator().manual_seed(5)
    rows = slice(1, 9)
    for it in range(12):
        if it == 4:
            population.keep(torch.tensor([False] + [True] * 9))
            rows = slice(0, 8)
        if it == 7:
            population.split(Split(torch.tensor([8]), _gaussians(2, seed=8)))
        for (_, values), peer in zip(population.gaussians.named_tensors(), peers, strict=True):
            gradient = scale * torch.randn(peer.shape, generator=generator)
            gradient[it % 8] = 0.0  # unseen in this view
            _gradient(values)[rows] += gradient
            peer.grad = gradient
        population.step(GROUPS, RATES)
        adam.step()
    for (name, values), peer in zip(population.gaussians.named_tensors(), peers, strict=True):
        moved = (peer - getattr(_gaussians(10), name)[1:9]).abs().max()
        assert moved > 2 * RATES[name]
        assert torch.allclose(values[rows], peer, rtol=0, atol=1e-3 * RATES[name]), name


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


def test_saved_and_loaded_to_the_bit() -> None:
    population = _lived_in()
    file = io.BytesIO()
    torch.save(population.state_dict(), file)
    file.seek(0)
    loaded = Population.from_state_dict(torch.load(file, weights_only=True))
    for name, tensor in _tensors(population.state_dict()).items():
        assert torch.equal(_tensors(loaded.state_dict())[name], tensor), name
    for name, values in loaded.gaussians.named_tensors():
        assert _is_planes(values) and _is_planes(_gradient(values))
        assert loaded.state_dict()["groups"][name]["steps"] == 2
    for one in (population, loaded):
        one.step(GROUPS, RATES)
    assert torch.equal(loaded.gaussians.sh_rest, population.gaussians.sh_rest)
