"""Lines on the terminal."""

from __future__ import annotations

from tqdm import tqdm

from gns.utils.streams import writable


def say(text: str, quiet: bool) -> None:
    """Print a line without breaking a progress bar, unless `quiet`."""
    if not quiet:
        tqdm.write(writable(text))
