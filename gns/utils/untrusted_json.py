"""JSON that strangers wrote."""

from __future__ import annotations

import json
from typing import Any

_SMALLEST = 1e-100  # a length that is smaller, or its inverse, is no number to compute with
_DIGITS = 300  # of an integer, so that it fits a float


def parse_json(text: str) -> Any:
    """The value of a JSON text. Integers beyond a float become infinite, and numbers near 0 become 0.

    So whoever asks for a finite number, or one above 0, has asked enough. Raises ValueError where the text is no JSON
    or is nested too deeply.
    """
    try:
        return json.loads(text, parse_int=_integer, parse_float=_real)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _DIGITS else float(digits)


def _real(digits: str) -> float:
    value = float(digits)
    return value if abs(value) >= _SMALLEST else 0.0
