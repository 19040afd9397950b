from __future__ import annotations

import io

import pytest

from gns.utils.console import say, warn


def test_a_line_is_said_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    say("one", False)
    say("two", True)
    assert capsys.readouterr() == ("one\n", "")


class Gone(io.StringIO):
    """A terminal that was closed, or a pipe without a reader."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Gone())
    monkeypatch.setattr("sys.stderr", Gone())
    say("one", False)
    warn("two")
