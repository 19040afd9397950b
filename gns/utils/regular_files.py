"""Files that can be read to an end."""

from __future__ import annotations

import stat
from pathlib import Path

from gns.errors import UserError


def refuse_special_file(path: Path) -> None:
    """Raise UserError where `path` is a pipe or a device: reading one may never end. OSError where it is nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise UserError(f"{path} is no ordinary file: put the file itself in its place")
