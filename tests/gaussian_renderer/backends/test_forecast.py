"""What is foreseen of a view's tile instances."""

from __future__ import annotations

import pytest

from gns.gaussian_renderer.backends import forecast
from gns.gaussian_renderer.backends.forecast import LEAST_SLACK, MOST_GROWTH, Forecast


def test_nothing_is_foreseen_of_a_new_view() -> None:
    known = Forecast()
    known.learn("a", 10, 80)
    assert known.capacity("b", 10) is None


def test_there_is_room_to_grow() -> None:
    known = Forecast()
    known.learn("a", 1000, 80_000)
    assert known.capacity("a", 1000) == 90_000 + LEAST_SLACK
    assert known.capacity("a", 1100) == 99_000 + LEAST_SLACK
    assert known.capacity("a", 100) == 90_000 + LEAST_SLACK  # the few that are left may be the large ones
    assert known.capacity("a", 10**9) == 90_000 * MOST_GROWTH + LEAST_SLACK


def test_the_last_number_counts() -> None:
    known = Forecast()
    known.learn("a", 1000, 80_000)
    known.learn("a", 1000, 8_000)
    assert known.capacity("a", 1000) == 9_000 + LEAST_SLACK


def test_a_view_without_gaussians() -> None:
    known = Forecast()
    known.learn("a", 0, 0)
    assert known.capacity("a", 1000) == LEAST_SLACK


def test_the_view_that_was_not_seen_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "MOST_VIEWS", 3)
    known = Forecast()
    for view in ("a", "b", "c", "a", "d"):
        known.learn(view, 10, 80)
    assert [view for view in "abcd" if known.capacity(view, 10) is None] == ["b"]
