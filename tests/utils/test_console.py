from __future__ import annotations

import pytest

from gns.utils.console import say


def test_a_line_is_said_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    say("one", False)
    say("two", True)
    assert capsys.readouterr() == ("one\n", "")
