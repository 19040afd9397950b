from __future__ import annotations

import math

import pytest

from gns.utils.untrusted_json import parse_json


def test_numbers_that_cannot_be_computed_with() -> None:
    text = f"[{'9' * 400}, -{'9' * 5000}, 5e-324, -1e-200, 1e999, 7, {2**62}, 0.1, 1e-9, 0]"
    assert parse_json(text) == [math.inf, -math.inf, 0, 0, math.inf, 7, 2**62, 0.1, 1e-9, 0]
    assert isinstance(parse_json("7"), int)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "[1,]"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested too deeply|char \d"):
        parse_json(text)
