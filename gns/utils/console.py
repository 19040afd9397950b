"""Lines on the terminal."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TextIO

from tqdm import tqdm

from gns.utils.streams import writable


def is_terminal(stream: TextIO) -> bool:
    """Whether a person watches: bars that rewrite their line are for terminals alone."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # no stream at all, or a closed one
        return False


def say(text: str, quiet: bool) -> None:
    """Print a line without breaking a progress bar, unless `quiet`."""
    if not quiet:
        with suppress(OSError):  # a terminal that was closed, a pipe that nobody reads any more: no reason to end a run
            tqdm.write(writable(text))


def warn(text: str) -> None:
    """Print a line to stderr, whether or not the command is quiet."""
    with suppress(OSError):
        tqdm.write(text, sys.stderr)
