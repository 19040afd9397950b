"""Dates of a run as data: frozen dataclasses that stretch to any length.

A date is an iteration, counted from 1. Every field of a `Calendar` that holds dates is annotated with how it scales:

    Date       an iteration                        rounded
    Instant    a point of a curve between dates    not rounded
    Interval   a number of iterations              rounded, at least 1
    Fixed      an iteration of every run           as it is
    Dates      a range or a tuple of iterations    its members rounded, the last one included

Published code only truncates a shorter run, so that what is late in the calendar never happens there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, TypeVar, get_type_hints

C = TypeVar("C", bound="Calendar")


def every(interval: int, first: int, last: int) -> range:
    """The iterations first, first + interval, … that do not exceed `last`."""
    return range(first, last + 1, interval)


def _scaled_date(date: int, factor: float, shift: float) -> int:
    return round(date * factor + shift)


def _scaled_instant(instant: float, factor: float, shift: float) -> float:
    return instant * factor + shift


def _fixed_date(date: int, factor: float, shift: float) -> int:
    return date


def _scaled_interval(interval: int, factor: float, shift: float) -> int:
    return max(1, round(interval * factor))


def _scaled_dates(dates: range | tuple[int, ...], factor: float, shift: float) -> range | tuple[int, ...]:
    if isinstance(dates, tuple):
        return tuple(_scaled_date(date, factor, shift) for date in dates)
    # The last member is scaled, not `stop`: rounding must not drop the final event of a calendar that includes its end.
    first, last = (_scaled_date(date, factor, shift) for date in (dates[0], dates[-1]))
    return every(_scaled_interval(dates.step, factor, shift), first, last)


Date = Annotated[int, _scaled_date]
Fixed = Annotated[int, _fixed_date]
Instant = Annotated[float, _scaled_instant]
Interval = Annotated[int, _scaled_interval]
Dates = Annotated[range, _scaled_dates]
SomeDates = Annotated[tuple[int, ...], _scaled_dates]


@dataclass(frozen=True)
class Calendar:
    """Base of all calendars: how the dates of its fields scale is written in their annotations, and nowhere else."""

    def scaled(self: C, factor: float, shift: float = 0.0) -> C:
        """The same with every date and interval multiplied by `factor`, calendars inside it included.

        Dates are then put off by `shift` iterations.
        """
        changes: dict[str, Any] = {
            name: scale(getattr(self, name), factor, shift) for name, scale in _scales(type(self))
        }
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Calendar):
                changes[field.name] = value.scaled(factor, shift)
            if isinstance(value, tuple) and value and all(isinstance(part, Calendar) for part in value):
                changes[field.name] = tuple(part.scaled(factor, shift) for part in value)
        return replace(self, **changes)


def _scales(calendar: type) -> list[tuple[str, Callable[[Any, float, float], Any]]]:
    """The fields that hold dates, each with the function that scales it."""
    hints = get_type_hints(calendar, include_extras=True)
    return [(name, hint.__metadata__[0]) for name, hint in hints.items() if hasattr(hint, "__metadata__")]
