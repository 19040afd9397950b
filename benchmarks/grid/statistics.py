"""Means with their spread, and differences with their error."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

K = TypeVar("K")

# Student's t, both sides, 95 %: with so few seeds two standard errors would promise too much.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)  # 1 to 10 degrees of freedom
_T95_BEYOND = 2.228  # an upper bound


@dataclass(frozen=True)
class Figure:
    """A mean over `n` runs; `spread` is the standard deviation of one run, None where there is only one."""

    mean: float
    spread: float | None
    n: int

    @property
    def error(self) -> float | None:
        """The standard error of the mean."""
        return None if self.spread is None else self.spread / math.sqrt(self.n)

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean; None where nothing tells how it scatters."""
        if self.error is None:
            return None
        reach = (_T95[self.n - 2] if self.n - 2 < len(_T95) else _T95_BEYOND) * self.error
        return self.mean - reach, self.mean + reach

    def spread_text(self, digits: int) -> str:
        """`30.66 ± 0.10`, the spread of single runs behind the sign."""
        return _text(self.mean, self.spread, digits, sign="")

    def error_text(self, digits: int) -> str:
        """`+0.21 ± 0.04`, the standard error behind the sign."""
        return _text(self.mean, self.error, digits, sign="+")


def figure(values: Sequence[float]) -> Figure:
    """The mean of at least one value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return Figure(statistics.fmean(values), spread, len(values))


def differences(first: Mapping[K, float], second: Mapping[K, float]) -> list[float]:
    """`first` − `second` wherever both have a value, in the order of `first`."""
    return [value - second[key] for key, value in first.items() if key in second]


def paired(first: Mapping[int, float], second: Mapping[int, float]) -> Figure | None:
    """`first` − `second`, seed by seed; None where they have no seed in common."""
    found = differences(first, second)
    return figure(found) if found else None


def _text(mean: float, error: float | None, digits: int, *, sign: str) -> str:
    shown = f"{mean:{sign}.{digits}f}"
    return shown if error is None else f"{shown} ± {error:.{digits}f}"
