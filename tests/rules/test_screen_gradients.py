"""The statistic of growth: its mean, and what it costs."""

from __future__ import annotations

import torch

from gns.model.population import Population
from gns.rules import screen_gradients
from gns.testing.tiny import small_gaussians


def _population(count: int) -> Population:
    return Population(small_gaussians(count, torch.Generator().manual_seed(0)), screen_gradients.EXTRAS)


def test_statistics_average_over_the_views_that_drew_a_gaussian() -> None:
    population = _population(3)
    first = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
    second = torch.tensor([[0.0, 1.0], [6.0, 8.0], [0.0, 0.0]])
    screen_gradients.observe(population, first, torch.tensor([2.0, 0.0, 0.0]))
    screen_gradients.observe(population, second, torch.tensor([1.0, 5.0, 0.0]))
    assert screen_gradients.mean(population).tolist() == [3.0, 10.0, 0.0]  # (5 + 1)/2, 10/1, never drawn
    assert population.extra("visits").tolist() == [2.0, 1.0, 0.0]
    screen_gradients.restart(population)
    assert screen_gradients.mean(population).tolist() == [0.0, 0.0, 0.0]
    assert not population.extra("gradient_sum").any() and not population.extra("visits").any()


def test_a_view_takes_no_memory_but_the_populations_scratch() -> None:
    population, gradients, radii = _population(1_000), torch.rand(1_000, 2), torch.ones(1_000)
    screen_gradients.observe(population, gradients, radii)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        screen_gradients.observe(population, gradients, radii)
        torch.zeros(10)  # the profiler does see
    assert sum(max(event.self_cpu_memory_usage, 0) for event in profile.events()) < 1_000
    assert sum(max(event.self_cpu_memory_usage, 0) for event in profile.events()) >= 40
