"""How much main memory there is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def main_memory() -> int:
    """Bytes that this process could have at most: the machine's, or what its container may use of them."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CONTAINER:
        with suppress(OSError, ValueError):  # no container, no limit ("max"), or a system without such files
            limits.append(int(path.read_text()))
    return min(limits)
