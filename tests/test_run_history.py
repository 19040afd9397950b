"""What a log says of a run of several sessions."""

from __future__ import annotations

from typing import Any

from gns.run_history import lasting, total

LOG: list[dict[str, Any]] = [
    {"iteration": 0, "started": "a", "seconds": 0.0},
    {"iteration": 100, "loss": 0.5, "seconds": 10.0},
    {"iteration": 200, "loss": 0.4, "seconds": 20.0},
    {"iteration": 150, "started": "b", "seconds": 0.5},
    {"iteration": 200, "loss": 0.41, "seconds": 6.0},
    {"iteration": 201, "raw_loss": 0.3},
    {"iteration": 300, "loss": 0.3, "seconds": 15.0},
]


def test_what_was_gone_through_again_is_left_out() -> None:
    assert [record.get("loss") for record in lasting(LOG) if "loss" in record] == [0.5, 0.41, 0.3]
    assert lasting([]) == []


def test_a_clock_that_starts_again_is_added_up() -> None:
    assert total(LOG, "seconds") == 35.0
    assert total(LOG, "cpu_seconds") is None
