"""Candidates, edge survey, draws and the long-axis split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gns import metrics
from gns.gaussian_renderer import reference
from gns.model.population import Population
from gns.rules import screen_gradients
from gns.rules.base import NoOptions
from gns.rules.edge_growth import (
    FAST,
    STANDARD,
    EdgeGrowth,
    GrowthCalendar,
    GrowthState,
    all_but_faintest,
    long_axis_split,
    photo_dissimilarity,
    survey,
)
from gns.scene import Camera, Gaussians, View
from gns.team import SINGLE, Team
from gns.testing.tiny import tiny_run

(GROWTH,) = STANDARD.growths
B = 100


def _gaussians(count: int, dtype: torch.dtype = torch.float32) -> Gaussians:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=dtype)

    means = 0.6 * normal(count, 3)
    return Gaussians(
        means, 0.3 * normal(count, 3) - 2.5, normal(count, 4), normal(count), normal(count, 1, 3), normal(count, 3, 3)
    )


def _views(count: int) -> list[View]:
    """Cameras in a row that look along +z, with noise for photos."""
    random = np.random.default_rng(0)
    views = []
    for index in range(count):
        pose = np.eye(4)
        pose[:3, 3] = [0.1 * index, 0.0, 4.0]
        camera = Camera(24, 16, 30.0, 30.0, 12.0, 8.0, pose, f"{index}.png")
        views.append(View(camera, torch.from_numpy(random.integers(0, 256, (16, 24, 3), dtype=np.uint8))))
    return views


def _population(statistics: list[float], opacity_logits: Tensor | None = None) -> Population:
    """A population whose mean screen gradients are `statistics`."""
    gaussians = _gaussians(len(statistics))
    if opacity_logits is not None:
        gaussians = replace(gaussians, opacity_logits=opacity_logits)
    population = Population(gaussians, screen_gradients.EXTRAS)
    _observe(population, torch.tensor(statistics))
    return population


def _observe(population: Population, lengths: Tensor) -> None:
    """One view in which everything is drawn, with screen gradients of these `lengths` [N]."""
    gradients = torch.stack([lengths, torch.zeros_like(lengths)], dim=1)
    screen_gradients.observe(population, gradients, torch.ones_like(lengths))


def _rule(budget: int = B, views: Sequence[View] = (), calendar: GrowthCalendar = STANDARD) -> EdgeGrowth:
    return EdgeGrowth(tiny_run(budget, views), calendar, NoOptions())


def _chance(seed: int = 0) -> dict[str, torch.Generator]:
    return {"survey": torch.Generator().manual_seed(seed), "split": torch.Generator().manual_seed(seed + 1)}


def _densify(
    population: Population,
    it: int,
    views: Sequence[View] = (),
    *,
    seed: int = 0,
    calendar: GrowthCalendar = STANDARD,
    budget: int = B,
) -> None:
    _rule(budget, views, calendar).densify(population, calendar.growths[0], it, _chance(seed))


# Candidates


def test_candidates_reach_the_threshold() -> None:
    statistic = torch.tensor([2.9e-4, 3.1e-4, 0.0, 1.0, 2.1e-4, torch.nan])
    rule = _rule()
    assert rule.candidates(statistic, GROWTH, 600).tolist() == [1, 3]
    assert rule.candidates(statistic, GROWTH, 14_500).tolist() == [1, 3]
    assert rule.candidates(statistic, GROWTH, 14_600).tolist() == [0, 1, 3, 4]  # 3e-4/1.5 = 2e-4 while below 3·B
    assert _rule(budget=2).candidates(statistic, GROWTH, 14_600).tolist() == [1, 3]  # 3·2 = 6 are there


# The event


def test_all_candidates_split_where_there_is_room() -> None:
    population = _population([1e-3] * 5 + [1e-5] * 10)
    _densify(population, 4_000)  # budget 150: no survey is needed
    assert len(population) == 20
    assert not population.extra("gradient_sum").any() and not population.extra("visits").any()


def test_growth_stops_at_the_budget() -> None:
    population = _population([1e-3] * 60)
    _densify(population, 700, _views(3))  # ⌊300·√(200/14000)⌋ = 35 < 60: full already
    assert len(population) == 60
    _observe(population, torch.ones(60))
    _densify(population, 1_300, _views(3))  # ⌊300·√(800/14000)⌋ = 71
    assert len(population) == 71


def test_late_parents_are_drawn_by_their_statistic() -> None:
    # 295 of 300: five of 200 candidates may split. Those of the first hundred weigh a million times more.
    population = _population([1.0] * 100 + [1e-3] * 100 + [0.0] * 95)
    before = population.gaussians.means.detach().clone()
    _densify(population, 14_900)
    assert len(population) == 300
    gone = [row for row in range(295) if not (population.gaussians.means == before[row]).all(dim=1).any()]
    assert len(gone) == 5 and max(gone) < 100


def test_early_parents_are_drawn_by_the_survey() -> None:
    # Half of the candidates lie behind all cameras: they contribute to no edge.
    population = _population([1e-3] * 60)
    with torch.no_grad():
        population.gaussians.means[::2, 2] = -10.0
    before = population.gaussians.means.detach().clone()
    _densify(population, 1_300, _views(3))
    gone = [row for row in range(60) if not (population.gaussians.means == before[row]).all(dim=1).any()]
    assert len(gone) == 11 and all(row % 2 == 1 for row in gone)


def test_generators_decide() -> None:
    def survivors(seed: int) -> Tensor:
        population = _population([1e-3] * 60)
        _densify(population, 1_300, _views(12), seed=seed)
        return population.gaussians.means.detach()

    assert torch.equal(survivors(0), survivors(0))
    assert not torch.equal(survivors(0), survivors(7))


@pytest.mark.parametrize(("views", "survey_all", "surveyed"), [(30, False, 10), (30, True, 30), (4, False, 4)])
def test_number_of_surveyed_views(views: int, survey_all: bool, surveyed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def spy(camera: Camera, gaussians: Gaussians, edges: Tensor) -> Tensor:
        names.append(camera.name)
        return torch.ones(len(gaussians))

    monkeypatch.setattr("gns.rules.edge_growth.renderer.importance", spy)
    calendar = replace(STANDARD, full_surveys=(1_250,) if survey_all else ())
    _densify(_population([1e-3] * 60), 1_300, _views(views), calendar=calendar)
    assert len(names) == len(set(names)) == surveyed


def test_the_faint_go_except_at_the_last_event() -> None:
    opacities = torch.tensor([0.0049, 0.0051, 0.5, 0.0])
    for it, left in ((600, 2), (14_800, 2), (14_900, 4)):
        population = _population([0.0] * 4, torch.logit(opacities))
        _densify(population, it)
        assert len(population) == left


# The survey


def test_survey_weighs_views_alike() -> None:
    gaussians = _gaussians(20, torch.float64)
    views = _views(3)
    expected = torch.zeros(20, dtype=torch.float64)
    for view in views:
        seen = reference.render(view.camera, gaussians, torch.zeros(3), edges=view.edges).importance
        assert seen is not None
        expected += seen / seen[seen > 0].mean() / 3
    assert expected.max() > 2 * expected[expected > 0].min()
    assert torch.allclose(survey(gaussians, views, SINGLE), expected, rtol=1e-9)


def test_survey_of_views_that_see_nothing() -> None:
    gaussians = _gaussians(20)
    gaussians.means[:, 2] = -10.0
    assert not survey(gaussians, _views(2), SINGLE).any()


def test_dissimilarity_is_what_ssim_lacks_where_pixels_count() -> None:
    gaussians, (view,) = _gaussians(20), _views(1)
    background = torch.tensor([0.2, 0.4, 0.6])
    unlike = photo_dissimilarity(gaussians, view, background)
    image = reference.render(view.camera, gaussians, background).image
    photo = view.image.movedim(-1, 0).float() / 255
    assert unlike.shape == view.image.shape[:2] and unlike.min() >= 0
    assert float(unlike.mean()) == pytest.approx(1 - metrics.ssim(image.float(), photo), abs=1e-4)
    mask = torch.ones(view.image.shape[:2], dtype=torch.bool)
    mask[:, 12:] = False
    masked = photo_dissimilarity(gaussians, replace(view, mask=mask), background)
    assert masked[:, 17:].abs().max() < 1e-6 < masked[:, :12].mean()  # half a window beyond the mask
    drawn = (255 * image.clamp(0, 1)).round().to(torch.uint8).movedim(0, -1)
    assert photo_dissimilarity(gaussians, replace(view, image=drawn), background).mean() < 0.05 * unlike.mean()


def test_growth_by_error_surveys_what_is_unlike_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def spy(camera: Camera, gaussians: Gaussians, weights: Tensor) -> Tensor:
        asked.append(weights)
        return torch.ones(len(gaussians))

    monkeypatch.setattr("gns.rules.edge_growth.renderer.importance", spy)
    population, views = _population([1e-3] * 60), _views(1)
    expected = photo_dissimilarity(population.gaussians, views[0], torch.zeros(3))
    for by_error, weights in ((False, views[0].edges), (True, expected)):
        _densify(_population([1e-3] * 60), 1_300, views, calendar=replace(STANDARD, by_error=by_error))
        assert torch.equal(asked.pop(), weights) and not asked


# The split


def test_children_lie_on_the_longest_axis() -> None:
    # A quarter turn about z maps the longest axis, the Gaussian's own x, to the world's y.
    half = math.sqrt(0.5)
    gaussians = Gaussians(
        means=torch.tensor([[1.0, 2.0, 3.0]]),
        log_scales=torch.tensor([[0.4, 0.2, 0.1]]).log(),
        quats=3 * torch.tensor([[half, 0.0, 0.0, half]]),  # of any length
        opacity_logits=torch.logit(torch.tensor([0.5])),
        sh_dc=torch.ones(1, 1, 3),
        sh_rest=torch.arange(9.0).view(1, 3, 3),
    )
    split = long_axis_split(gaussians, torch.tensor([0]))
    children = split.children
    assert split.parents.tolist() == [0]
    offset = 1.35 * 0.4
    assert torch.allclose(children.means, torch.tensor([[1.0, 2.0 + offset, 3.0], [1.0, 2.0 - offset, 3.0]]))
    other = math.sqrt(1 - 0.45**2)
    assert torch.allclose(children.log_scales.exp(), torch.tensor([[0.4 * 0.55, 0.2 * other, 0.1 * other]] * 2))
    assert torch.allclose(children.opacities, torch.tensor([0.3, 0.3]))
    for name in ("quats", "sh_dc", "sh_rest"):
        assert torch.equal(getattr(children, name), getattr(gaussians, name).repeat_interleave(2, dim=0))


def test_offsets_follow_the_covariance() -> None:
    """For any rotation the offset is the eigenvector of the covariance with the largest eigenvalue."""
    gaussians = _gaussians(50, torch.float64)
    parents = torch.arange(0, 50, 2)
    children = long_axis_split(gaussians, parents).children
    half = (children.means[:25] - children.means[25:]) / 2
    covariances = _covariances(gaussians)[parents]
    values, vectors = torch.linalg.eigh(covariances)
    expected = 1.35 * values[:, 2].sqrt()[:, None] * vectors[:, :, 2]
    sign = (half * expected).sum(dim=1, keepdim=True).sign()
    assert torch.allclose(half, sign * expected, rtol=1e-9)
    assert torch.allclose((children.means[:25] + children.means[25:]) / 2, gaussians.means[parents], rtol=1e-12)


def _covariances(gaussians: Gaussians) -> Tensor:
    """R S² Rᵀ by conjugation of the unit axes with the quaternions."""
    quats = gaussians.quats / gaussians.quats.norm(dim=1, keepdim=True)
    w, v = quats[:, :1], quats[:, 1:]
    columns = []
    for axis in torch.eye(3, dtype=torch.float64):
        u = axis.expand_as(v)
        t = 2 * torch.linalg.cross(v, u)
        columns.append(u + w * t + torch.linalg.cross(v, t))
    rotation = torch.stack(columns, dim=2)
    return rotation @ torch.diag_embed((2 * gaussians.log_scales).exp()) @ rotation.mT


def test_extreme_opacities_stay_finite() -> None:
    gaussians = replace(_gaussians(3), opacity_logits=torch.tensor([-120.0, 0.0, 120.0]))
    opacity_logits = long_axis_split(gaussians, torch.tensor([0, 1, 2])).children.opacity_logits
    expected = torch.tensor([-120.0 + math.log(0.6), math.log(0.3 / 0.7), math.log(0.6 / 0.4)])
    assert torch.allclose(opacity_logits, expected.repeat(2))


def test_growth_reaches_the_ceiling() -> None:
    """From 60 Gaussians to 3·B, when all have large gradients at every event."""
    population, views = _population([1e-3] * 60), _views(2)
    for it in GROWTH.densify:
        _densify(population, it, views)
        with torch.no_grad():
            population.gaussians.opacity_logits.fill_(0.0)
        _observe(population, torch.ones(len(population)))
        assert len(population) <= max(60, GROWTH.budget(it, B))
    assert len(population) == 3 * B


def test_an_unlimited_budget_doubles() -> None:
    population = _population([1e-3] * 8)
    _densify(population, 600, budget=10**8)
    assert len(population) == 16


# The rule


def test_the_most_that_growth_allows() -> None:
    assert _rule(1_000).most() == 3_000  # the standard schedule's ceiling is three budgets
    assert _rule(1_001, calendar=FAST).most() == 2_002


def test_statistics_are_asked_for_while_they_are_gathered() -> None:
    rule = _rule()
    assert [rule.wants(it) for it in (500, 501, 14_999, 15_000)] == [None, *[screen_gradients.ABSOLUTE] * 2, None]
    wanted = rule.wants(501)
    assert wanted is not None and wanted.absolute and not wanted.signed


@pytest.mark.parametrize(
    ("it", "left"),
    [
        (299, [0.01, 0.03, 0.04, 0.3, 0.9]),
        (300, [0.03, 0.04, 0.3, 0.9]),  # the early clean-up, below 0.02
        (600, [0.01, 0.03, 0.04, 0.3, 0.9]),  # a densify event spares everything above 0.005
        (3_000, [0.01, 0.03, 0.04, 0.05, 0.05]),  # a reset
        (3_300, [0.03, 0.04, 0.3, 0.9]),  # a recovery prune takes the faintest fifth
        (20_000, [0.01, 0.03, 0.04, 0.3, 0.9]),
    ],
)
def test_culls_and_resets_have_their_dates(it: int, left: list[float]) -> None:
    population = _population([0.0] * 5, torch.logit(torch.tensor([0.01, 0.03, 0.04, 0.3, 0.9])))
    state = _rule().edit(GrowthState(), population, it, _chance())
    assert state == GrowthState()
    assert population.opacities.tolist() == pytest.approx(left)


@pytest.mark.parametrize(
    ("photos", "team", "lowered"),
    [
        (300, SINGLE, [3_000, 6_000, 9_000, 12_000]),  # ten epochs from one to the next
        (301, SINGLE, [3_000, 9_000]),
        (301, Team(0, 2), [3_000, 6_000, 9_000, 12_000]),  # two photos in each iteration
    ],
)
def test_resets_wait_until_the_photos_were_seen(photos: int, team: Team, lowered: list[int]) -> None:
    views = _views(1) * photos
    rule = EdgeGrowth(tiny_run(B, views, team), replace(STANDARD, reset_epochs=9.99), NoOptions())
    found = []
    for it in (3_000, 6_000, 9_000, 12_000):
        population = _population([0.0] * 5, torch.full([5], 2.0))
        rule.edit(GrowthState(), population, it, _chance())
        found += [it] if population.opacities.max() < 0.06 else []
    assert found == lowered


def test_all_but_the_faintest() -> None:
    opacities = torch.tensor([0.5, 0.1, 0.4, 0.2, 0.3, 0.9, 0.8, 0.7, 0.6])
    assert all_but_faintest(opacities, 0.2).tolist() == [True, False] + [True] * 7  # ⌊0.2·9⌋ = 1
    assert all_but_faintest(opacities, 0.5).sum() == 5
    assert all_but_faintest(opacities[:4], 0.2).all()


def test_children_inherit_from_their_parent() -> None:
    assert long_axis_split(_gaussians(9), torch.tensor([7, 2])).origins.tolist() == [7, 2, 7, 2]


def test_the_survey_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of three looks at every third of the views, and at none that another looks at."""
    monkeypatch.setattr(Team, "summing", lambda team, sums: nullcontext())
    views, names = _views(8), list[str]()

    def spy(camera: Camera, gaussians: Gaussians, edges: Tensor) -> Tensor:
        names.append(camera.name)
        return torch.ones(len(gaussians))

    monkeypatch.setattr("gns.rules.edge_growth.renderer.importance", spy)
    rule = EdgeGrowth(tiny_run(B, views, Team(1, 3)), replace(STANDARD, full_surveys=(1_300,)), NoOptions())
    rule.densify(_population([1e-3] * 60), GROWTH, 1_300, _chance())
    assert names == ["1.png", "4.png", "7.png"]
