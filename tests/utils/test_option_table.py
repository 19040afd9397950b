"""A dataclass as a command line and as JSON, apart from what it is the options of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gns.errors import UserError
from gns.utils.option_table import (
    build,
    check,
    described_fields,
    flag,
    from_json,
    given_options,
    option,
    option_of,
    to_json,
)


@dataclass(frozen=True)
class First:
    """A field of each kind."""

    path: Path = field(metadata=option("where", group="one", short="-p"))
    count: int | None = field(default=None, metadata=option("how many", group="one", at_least=1, metavar="SIZE"))
    loud: bool = field(default=False, metadata=option("whether", group="machine", session=True))
    names: tuple[str, ...] = field(default=(), metadata=option("which", group="two"))
    own: Any = None  # no option

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Second:
    """Options that come beside the first."""

    way: str = field(default="slow", metadata=option("100 % slow or fast", group="two", choices=("slow", "fast")))


def _given(*words: str) -> dict[str, Any]:
    return given_options([First, Second], words, prog="prog", description="What it does.")


def test_what_was_given_and_nothing_else_comes_back() -> None:
    assert _given() == {}
    assert _given("-p", "a", "--loud", "--way", "fast") == {"path": Path("a"), "loud": True, "way": "fast"}
    assert _given("--names", "x", "y", "--no-loud", "--count=3k") == {"names": ("x", "y"), "loud": False, "count": 3000}


def test_options_are_fields_with_a_description() -> None:
    assert [field.name for field in described_fields(First)] == ["path", "count", "loud", "names"]
    assert option_of(described_fields(First)[0]).short == "-p"
    assert flag("final_budget") == "--final-budget"
    with pytest.raises(UserError, match="unknown option --own"):
        _given("--own", "1")


def test_tables_share_one_help_with_the_machine_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _given("--help")
    text = capsys.readouterr().out
    assert text.startswith("usage: prog -p PATH [options]\n")
    places = [text.index(f"\n{group}:\n") for group in ("one", "two", "machine")]
    assert places == sorted(places)
    assert "100 % slow or fast (default: slow)" in text and "--count SIZE" in text and "{slow,fast}" in text


def test_a_missing_field_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"-p \(--path\) is missing: where"):
        build(First, {"count": 3})
    assert build(First, {"path": Path("a")}) == First(Path("a"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": 0}, "--count is 0: it must be at least 1"),
        ({"count": 1.0}, "--count cannot be 1.0"),
        ({"count": True}, "--count cannot be True"),
        ({"path": "a"}, "--path cannot be 'a'"),
        ({"path": None}, "--path cannot be None"),
        ({"loud": 1}, "--loud cannot be 1"),
        ({"names": ["a"]}, r"--names cannot be \['a'\]"),
        ({"names": ("a", 1)}, r"--names cannot be \('a', 1\)"),
    ],
)
def test_values_are_checked(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        First(**{"path": Path("a"), **changes})


def test_json_and_back() -> None:
    table = First(Path("a/b"), 5, True, ("x", "y"), own="kept apart")
    stored = to_json(table)
    assert stored == {"path": "a/b", "count": 5, "names": ["x", "y"]}  # what concerns one call is not kept
    assert from_json(First, stored, own="given again") == First(Path("a/b"), 5, False, ("x", "y"), "given again")
    assert from_json(First, {**stored, "count": None}).count is None
    for wrong, sentence in (
        ({**stored, "more": 1}, "unknown key 'more'"),
        ({**stored, "loud": True}, "unknown key 'loud'"),
        ({**stored, "own": 1}, "unknown key 'own'"),
        ({"path": "a"}, "missing key 'count'"),
        ({**stored, "path": 5}, "--path cannot be 5"),
    ):
        with pytest.raises(UserError, match=sentence):
            from_json(First, wrong)
