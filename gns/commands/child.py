"""Running a command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gns
from gns.errors import UserError


def call(command: str, arguments: Sequence[str], *, to_stderr: bool = False) -> None:
    """Run `gns COMMAND ARGUMENTS` in a process of its own, so that even a crash of it leaves this one alone.

    What it prints goes where this process prints, or all of it to stderr. Raises KeyboardInterrupt where it was stopped
    by Ctrl-C, UserError where it fails.
    """
    # The child imports the very package that runs here, from whichever folder the user calls.
    package = str(Path(gns.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        [sys.executable, "-m", "gns.cli", command, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=sys.stderr if to_stderr else None,
    )
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()  # Ctrl-C reached it too: it is saving its checkpoint
        raise
    if status == 130:
        raise KeyboardInterrupt
    if status != 0:
        raise UserError(f"{command} ended with status {status}: see its message above")
