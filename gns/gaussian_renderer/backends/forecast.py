"""How many tile instances a view will make, from how many it made when it was last seen."""

from __future__ import annotations

from collections.abc import Hashable
from math import ceil

SLACK = 1 / 8  # room beyond the last number, as a share of it: Gaussians grow, and split
LEAST_SLACK = 1024
MOST_GROWTH = 1.5  # of instances, between two visits, that is prepared for: room is memory
MOST_VIEWS = 10_000  # remembered at a time; the one that was not seen for longest is forgotten first


class Forecast:
    """Remembers views. What it says may be wrong: whoever asks must be able to do without."""

    def __init__(self) -> None:
        self._last: dict[Hashable, tuple[int, int]] = {}  # Gaussians and instances by view, the last seen last

    def capacity(self, view: Hashable, gaussians: int) -> int | None:
        """Room for the instances of a view, with some to spare; None where the view was never seen."""
        if view not in self._last:
            return None
        before, instances = self._last[view]
        # Fewer Gaussians may be as many instances: those that die are the small and faint.
        growth = min(max(1.0, gaussians / max(1, before)), MOST_GROWTH)
        return ceil((1 + SLACK) * growth * instances) + LEAST_SLACK

    def learn(self, view: Hashable, gaussians: int, instances: int) -> None:
        """Take down what a view made."""
        self._last.pop(view, None)
        self._last[view] = (gaussians, instances)
        if len(self._last) > MOST_VIEWS:
            del self._last[next(iter(self._last))]

    def forget(self) -> None:
        """Begin anew, after a change that makes what was seen worthless."""
        self._last.clear()
