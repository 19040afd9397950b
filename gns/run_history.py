"""What log.jsonl says of a whole run, which may have been stopped and resumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]


def lasting(records: Sequence[Record]) -> list[Record]:
    """The records without those of iterations that a later session went through again."""
    kept: list[Record] = []
    for record in records:
        if "started" in record:
            kept = [earlier for earlier in kept if earlier.get("iteration", 0) <= record.get("iteration", 0)]
        kept.append(record)
    return kept


def total(records: Sequence[Record], clock: str) -> float | None:
    """What a clock of the log, such as "seconds", comes to over all sessions; it starts again in each of them."""
    times = [float(record[clock]) for record in records if clock in record]
    if not times:
        return None
    return sum(now for now, later in zip(times, [*times[1:], 0.0], strict=True) if later < now)
