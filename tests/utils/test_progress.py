"""Progress where stderr is no terminal."""

from __future__ import annotations

import pytest

from gns.utils.progress import Progress


def test_lines_tell_the_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr("gns.utils.progress.time.monotonic", lambda: clock[0])
    with Progress(quiet=False) as progress:
        for done, clock[0] in ((0, 0.0), (10, 10.0), (20, 40.0), (25, 45.0), (30, 90.0), (60, 120.0)):
            progress.tell("matching", done, 60, "pair")
        progress.tell("mapping", 5, 50)
        clock[0] += 720
        progress.tell("mapping", 6, 50)
    assert capsys.readouterr().err.splitlines() == [
        "matching: 20 of 60, 80 s left",
        "matching: 30 of 60, 2 min left",
        "matching: 60 of 60, 2 min",
        "mapping: 6 of 50, 8 h 48 min left",
    ]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        progress.tell("matching", 60, 60)
    assert capsys.readouterr() == ("", "")
