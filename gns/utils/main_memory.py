"""How much main memory there is, and how much of it is free."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CONTAINER_USE = Path("/sys/fs/cgroup/memory.current"), Path("/sys/fs/cgroup/memory.stat")
_FILES_NOT_IN_USE = re.compile(r"^inactive_file (\d+)$", re.MULTILINE)
_MACHINE = Path("/proc/meminfo")
_AVAILABLE = re.compile(r"^MemAvailable: *(\d+) kB$", re.MULTILINE)


def main_memory() -> int:
    """Bytes that this process could have at most: the machine's, or what its container may use of them."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CONTAINER:
        with suppress(OSError, ValueError):  # no container, no limit ("max"), or a system without such files
            limits.append(int(path.read_text()))
    return min(limits)


def available_memory() -> int:
    """Bytes that nobody uses at the moment, files that the system could read again included.

    All of `main_memory()` where the system does not say.
    """
    free = [main_memory()]
    with suppress(OSError):
        free += [1024 * int(kilobytes) for kilobytes in _AVAILABLE.findall(_MACHINE.read_text())]
    with suppress(OSError, ValueError):
        used, statistics = (path.read_text() for path in _CONTAINER_USE)
        reclaimable = sum(map(int, _FILES_NOT_IN_USE.findall(statistics)))
        free.append(main_memory() - int(used) + reclaimable)
    return max(0, min(free))
