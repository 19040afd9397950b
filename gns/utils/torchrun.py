"""What torchrun tells each of the processes that it starts; read without torch, which is slow to import."""

from __future__ import annotations

import os
from dataclasses import dataclass

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


@dataclass(frozen=True)
class Place:
    """One process among those of a run."""

    rank: int = 0  # among all processes
    size: int = 1  # number of all processes
    local_rank: int = 0  # among those of this machine
    local_size: int = 1  # number of those of this machine


def place() -> Place:
    """The place of this process; rank 0 of 1 where torchrun did not start it."""
    if any(name not in os.environ for name in _VARIABLES):
        return Place()
    return Place(*(int(os.environ[name]) for name in _VARIABLES))
