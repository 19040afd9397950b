"""Counts and sizes as people write them: `600k`, `1.2M`, `20MB`."""

from __future__ import annotations

import math
import re

_COUNT = re.compile(r"(\d[\d_]*(?:\.\d+)?)([kM]?)", re.ASCII)
_SIZE = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*([kKMG])(i?)B", re.ASCII)
_LONGEST = 40  # digits, with what stands between and behind them
_COUNT_UNITS = {"": 1, "k": 10**3, "M": 10**6}
_SIZE_EXPONENTS = {"k": 1, "K": 1, "M": 2, "G": 3}


def parse_count(text: str) -> int:
    """`600000`, `600_000`, `600k` or `1.2M` as a whole number; a leading minus is kept.

    Raises ValueError where the text is no whole number.
    """
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    match = _COUNT.fullmatch(digits)
    if match is None:
        raise ValueError(f"{text!r} is not a whole number")
    if len(text) > _LONGEST:
        raise ValueError(f"{text[:_LONGEST]}… is too large")
    value = float(match[1]) * _COUNT_UNITS[match[2]] if "." in match[1] else int(match[1]) * _COUNT_UNITS[match[2]]
    if value != round(value):
        raise ValueError(f"{text!r} is not a whole number")
    return sign * round(value)


def parse_number(text: str) -> float:
    """`0.01` or `5e5` as a finite number. Raises ValueError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a number")
    return value


def parse_size(text: str) -> int | None:
    """`20MB` (10⁶ bytes each) or `20MiB` (2²⁰ bytes each) in bytes; also k and G. None where the text is no size.

    Raises ValueError where it is too large.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    if len(text) > _LONGEST:
        raise ValueError(f"{text[:_LONGEST]}… is too large")
    unit: int = (1024 if match[3] else 1000) ** _SIZE_EXPONENTS[match[2]]
    return int(float(match[1]) * unit)


def format_count(count: int) -> str:
    """The shortest exact way to write a count that `parse_count` reads back: 600000 → `600k`, 1200000 → `1200k`."""
    for unit in ("M", "k"):
        if count and count % _COUNT_UNITS[unit] == 0:
            return f"{count // _COUNT_UNITS[unit]}{unit}"
    return str(count)
