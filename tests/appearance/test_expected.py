"""The exposure that is expected of a photo which was not learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from gns.appearance.expected import Variation, expected_exposures, variation
from gns.scene import Camera
from gns.testing.tiny import cameras_on_an_arc

IDENTITY = torch.eye(3, 4)


def camera(name: str, x: float = 0.0) -> Camera:
    """At [x, 0, 0]."""
    world_to_camera = np.eye(4)
    world_to_camera[0, 3] = -x
    return replace(cameras_on_an_arc(1, 8, 8)[0], name=name, world_to_camera=world_to_camera)


def expected(gains: Sequence[float], *, names: Sequence[str], places: Sequence[float], of: Camera) -> float:
    """The gain that is expected of one camera, where photos of such `names` and `places` have `gains`."""
    known = [camera(name, x) for name, x in zip(names, places, strict=True)]
    learned = {name: gain * IDENTITY for name, gain in zip(names, gains, strict=True)}
    transform: Tensor = expected_exposures(learned, known, [of])[of.name]
    torch.testing.assert_close(transform, transform[0, 0] * IDENTITY)
    return float(transform[0, 0])


def odd(count: int) -> list[str]:
    """photo1.jpg, photo3.jpg, … and so that their order as text would be another one."""
    return [f"photo{2 * index + 1}.jpg" for index in range(count)]


def chances(count: int, seed: int) -> list[float]:
    numbers: list[float] = torch.randn(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return numbers


def test_a_change_over_time_is_interpolated() -> None:
    """Wherever the camera stood: places tell nothing here."""
    gains = [1 + 0.3 * math.sin(index / 4) for index in range(40)]
    guess = expected(gains, names=odd(40), places=chances(40, 0), of=camera("photo10.jpg", 0.1))
    assert guess == pytest.approx((gains[4] + gains[5]) / 2, abs=0.02)


def test_a_change_over_space_is_interpolated() -> None:
    """Photos named without order, of a camera that sees a darker part further to the right."""
    places = [float(index) for index in range(40)]
    gains = [1 + 0.3 * math.sin(index / 8) for index in range(40)]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
    guess = expected(gains, names=[f"{place}" for place in order], places=places, of=camera("41", 10.5))
    assert guess == pytest.approx((gains[10] + gains[11]) / 2, abs=0.03)


def test_a_change_at_random_tells_nothing_but_the_mean() -> None:
    gains = [1 + 0.3 * chance for chance in chances(20, 0)]
    places = [float(index) for index in range(20)]
    guess = expected(gains, names=odd(20), places=places, of=camera("photo10.jpg", 4.5))
    assert guess == pytest.approx(sum(gains) / 20, abs=1e-5)


def test_a_steady_change_with_some_chance_lies_between() -> None:
    """The guess counts for as much as it explains."""
    gains = [1 + 0.2 * math.sin(index / 10) + 0.1 * chance for index, chance in enumerate(chances(200, 0))]
    at_one_place = [0.0] * 200
    guess = expected(gains, names=odd(200), places=at_one_place, of=camera("photo110.jpg"))
    average, neighbours = sum(gains) / 200, (gains[54] + gains[55]) / 2
    assert 0.2 < (guess - average) / (neighbours - average) < 0.9


def test_before_the_first_and_after_the_last_there_is_one_neighbour() -> None:
    gains = [1 + 0.1 * index for index in range(10)]
    names = [f"{index}" for index in range(1, 11)]
    for of, gain in (("0", gains[0]), ("11", gains[-1])):
        assert expected(gains, names=names, places=chances(10, 1), of=camera(of, 9.0)) == pytest.approx(gain, abs=0.15)


@pytest.mark.parametrize(
    ("gains", "places"),
    [([0.8, 1.2], [0, 1]), ([1.0] * 5, [0, 1, 2, 3, 4]), ([1.0], [0])],
    ids=["too few to judge", "all alike", "one"],
)
def test_the_mean_is_what_is_left(gains: list[float], places: list[float]) -> None:
    assert expected(gains, names=odd(len(gains)), places=places, of=camera("photo2.jpg", 0.5)) == pytest.approx(1)


def test_white_balance_is_expected_too() -> None:
    known = [camera(f"{index}", index) for index in range(1, 20, 2)]
    learned = {f"{index}": torch.diag(torch.tensor([1 + index / 40, 1.0, 1 - index / 40])) for index in range(1, 20, 2)}
    learned = {name: torch.cat([rows, torch.zeros(3, 1)], dim=1) for name, rows in learned.items()}
    transform = expected_exposures(learned, known, [camera("14", 14)])["14"]
    assert transform.diagonal().tolist() == pytest.approx([1.35, 1, 0.65], abs=0.04)


def test_variation_is_relative_to_a_grey() -> None:
    cameras = [camera(name, x) for x, name in enumerate(odd(40))]
    rising = torch.stack([(1 + 0.01 * index) * IDENTITY for index in range(40)])
    found = variation(rising, cameras)
    assert found.spread == pytest.approx(float(np.std(0.01 * np.arange(40))), rel=1e-4)
    assert found.explained > 0.99
    assert variation(rising[[0] * 40], cameras) == Variation(0, 0)


def test_nothing_learned_is_nothing_expected() -> None:
    assert expected_exposures({}, [camera("1")], [camera("2")]) == {}
