"""Lines on the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress

from tqdm import tqdm

from gns.utils.streams import writable


def say(text: str, quiet: bool) -> None:
    """Print a line without breaking a progress bar, unless `quiet`."""
    if not quiet:
        with suppress(OSError):  # a terminal that was closed, a pipe that nobody reads any more: no reason to end a run
            tqdm.write(writable(text))


def warn(text: str) -> None:
    """Print a line to stderr, whether or not the command is quiet."""
    with suppress(OSError):
        tqdm.write(text, sys.stderr)
