"""The exposure that is expected of a photo which was not learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from gns.appearance.expected import expected_exposures

IDENTITY = torch.eye(3, 4)


def brightened(gains: Sequence[float], first: int = 1) -> dict[str, Tensor]:
    """Transforms of every second photo: photo1.jpg, photo3.jpg, …"""
    return {f"photo{first + 2 * index}.jpg": gain * IDENTITY for index, gain in enumerate(gains)}


def gain(transform: Tensor) -> float:
    return float(transform[0, 0])


def test_a_steady_change_is_interpolated() -> None:
    """From photo 1 to photo 39, so that the order of names as text would mix it all up."""
    gains = [1 + 0.3 * math.sin(index / 4) for index in range(20)]
    expected = expected_exposures(brightened(gains), ["photo10.jpg", "photo20.jpg"])
    assert gain(expected["photo10.jpg"]) == pytest.approx((gains[4] + gains[5]) / 2, abs=0.01)
    assert gain(expected["photo20.jpg"]) == pytest.approx((gains[9] + gains[10]) / 2, abs=0.01)


def test_a_change_at_random_tells_nothing_but_the_mean() -> None:
    gains = (1 + 0.3 * torch.randn(20, generator=torch.Generator().manual_seed(0))).tolist()
    expected = expected_exposures(brightened(gains), ["photo10.jpg", "photo20.jpg"])
    for transform in expected.values():
        assert gain(transform) == pytest.approx(sum(gains) / 20, abs=1e-5)


def test_a_steady_change_with_some_chance_lies_between() -> None:
    """Half of the spread is steady: the guess counts for as much as it explains."""
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0)).tolist()
    steady = [0.2 * math.sin(index / 10) for index in range(200)]
    gains = [1 + value + 0.1 * chance for value, chance in zip(steady, noise, strict=True)]
    place = 55
    expected = gain(expected_exposures(brightened(gains), [f"photo{2 * place}.jpg"])[f"photo{2 * place}.jpg"])
    average, guess = sum(gains) / 200, (gains[place - 1] + gains[place]) / 2
    assert 0.2 < (expected - average) / (guess - average) < 0.9


def test_before_the_first_and_after_the_last_there_is_one_neighbour() -> None:
    gains = [1 + 0.1 * index for index in range(10)]
    expected = expected_exposures(brightened(gains, first=3), ["photo1.jpg", "photo99.jpg"])
    assert gain(expected["photo1.jpg"]) == pytest.approx(gains[0], abs=0.05)
    assert gain(expected["photo99.jpg"]) == pytest.approx(gains[-1], abs=0.05)


@pytest.mark.parametrize("gains", [[0.8, 1.2], [1.0] * 5], ids=["too few to judge", "all alike"])
def test_the_mean_is_what_is_left(gains: list[float]) -> None:
    expected = expected_exposures(brightened(gains), ["photo2.jpg"])
    torch.testing.assert_close(expected["photo2.jpg"], IDENTITY)


def test_white_balance_is_expected_too() -> None:
    learned = {f"{index}": torch.diag(torch.tensor([1 + index / 20, 1.0, 1 - index / 20])) for index in range(1, 10, 2)}
    learned = {name: torch.cat([rows, torch.zeros(3, 1)], dim=1) for name, rows in learned.items()}
    red, green, blue = expected_exposures(learned, ["6"])["6"].diagonal().tolist()
    assert red > 1.2 > 1.001 > green > 0.999 > 0.8 > blue


def test_nothing_learned_is_nothing_expected() -> None:
    assert expected_exposures({}, ["photo1.jpg"]) == {}
