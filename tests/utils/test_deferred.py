"""Modules that wait until they are used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gns.utils.deferred import deferred


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that was not imported yet."""
    (tmp_path / "waited_for.py").write_text("value = [1, 2]\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "waited_for", raising=False)
    return "waited_for"


def test_a_module_is_imported_when_it_is_first_used(module: str) -> None:
    stand_in = deferred(module)
    assert module not in sys.modules
    assert stand_in.value == [1, 2]
    assert module in sys.modules and stand_in.value is sys.modules[module].value
    assert "value" in vars(stand_in)  # the next look-up does not ask again


def test_what_a_module_lacks_is_an_error_of_that_module(module: str) -> None:
    with pytest.raises(AttributeError, match="'waited_for' has no attribute 'other'"):
        print(deferred(module).other)
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        print(deferred("nowhere").anything)
