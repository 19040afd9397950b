"""Files that are either whole or not there: written beside their place and moved into it."""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gns.errors import UserError

# A name of its own, because that of the file may be as long as names can be; the process id tells who has left it.
_TEMPORARY = re.compile(r"\.gns-(\d+)-\d+\.tmp")
_numbers = itertools.count()

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_file(path: Path, before: Callable[[Path], object] = lambda whole: None) -> Iterator[BinaryIO]:
    """A file to write to; it takes the place of `path` when the block ends, and vanishes if the block fails.

    `before` is called in between, with where the whole file lies until then. Missing parent folders are made. Raises
    UserError where the folder cannot be written or the disk is full.
    """
    # The same folder, because a rename is atomic within one file system only.
    temporary = path.with_name(f".gns-{os.getpid()}-{next(_numbers)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        before(temporary)
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


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files in `folder` of processes that were killed while they wrote there.

    Call it before this process writes there: what bears its own number is of an earlier one that had the same.
    """
    with suppress(OSError):  # what cannot be removed, or is no folder, stays
        for path in folder.iterdir():
            found = _TEMPORARY.fullmatch(path.name)
            if found and (int(found[1]) == os.getpid() or not is_alive(int(found[1]))):
                path.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def cannot_write(path: Path, error: OSError) -> str:
    """The sentence for a failed write."""
    advice = "free some space there, or choose" if error.errno in _FULL else "choose"
    return f"cannot write {path} ({error.strerror or error}): {advice} another folder with -m"
