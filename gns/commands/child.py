"""Running a command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import gns
from gns.errors import UserError


def importable_here() -> str:
    """A PYTHONPATH by which a process imports the very package that runs here, from whichever folder it is started."""
    package = str(Path(gns.__file__).parents[1])
    return os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))


def call(
    command: str,
    arguments: Sequence[str],
    *,
    to_stderr: bool = False,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run `gns COMMAND ARGUMENTS` in a process of its own, so that even a crash of it leaves this one alone.

    What it prints goes where this process prints, or all of it to stderr, or behind what the file `log` has;
    `environment` is added to this process's own. Raises KeyboardInterrupt where it was stopped by Ctrl-C, UserError
    where it fails.
    """
    with nullcontext() if log is None else log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "gns.cli", command, *arguments],
            env={**os.environ, "PYTHONPATH": importable_here(), **(environment or {})},
            stdout=file or (sys.stderr if to_stderr else None),
            stderr=file,
        )
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.wait()  # Ctrl-C reached it too: it is saving its checkpoint
            raise
    if status == 130:
        raise KeyboardInterrupt
    if status != 0:
        where = "above" if log is None else f"in {log}"
        raise UserError(f"{command} ended with status {status}: see its message {where}")
