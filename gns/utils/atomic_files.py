"""Files that are either whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gns.errors import UserError


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to; it takes the place of `path` when the block ends, and vanishes if the block fails.

    Missing parent folders are made. Raises UserError where the folder cannot be written or the disk is full.
    """
    # The same folder, because a rename is atomic within one file system only; the process id keeps two runs apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(cannot_write(path, error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # after a success it is gone from here already


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file atomically. Raises UserError as `atomic_file` does."""
    with atomic_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically. Raises UserError as `atomic_file` does."""
    write_bytes(path, text.encode())


def cannot_write(path: Path, error: OSError) -> str:
    """The sentence for a failed write."""
    return f"cannot write {path} ({error.strerror or error}): free some space there, or choose another folder with -m"
