"""So much of something that threads share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Allowance:
    """An amount of which threads take parts for a while, such as memory.

    Who wants more than is left waits; who wants more than there is at all waits until nobody else has any.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, amount: int) -> Iterator[None]:
        """`amount` of it for the length of a block."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()
