"""One process at a time in a folder."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gns.errors import UserError
from gns.utils.atomic_files import cannot_write, is_alive, remove_leftovers

LOCK_FILE = ".lock"


class FolderInUse(UserError):
    """Another process is at work in a folder."""


@contextmanager
def locked(folder: Path, *inside: str, flag: str = "-m") -> Iterator[None]:
    """Keep other processes out of `folder`, which is made if need be, until the block ends or this process does.

    Temporary files that a dead process has left there, and in what the patterns `inside` match, are removed. `flag` is
    the option that another folder is chosen with.
    Raises FolderInUse where another process holds the folder, and UserError where nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(folder / LOCK_FILE)
    except BlockingIOError:
        raise FolderInUse(
            f"another process{_holder(folder / LOCK_FILE)} is at work in {folder}: wait for its end, or choose another "
            f"folder with {flag}"
        ) from None
    except OSError as error:
        raise UserError(cannot_write(folder, error)) from error
    try:
        for pattern in ("", *inside):
            for path in folder.glob(pattern) if pattern else (folder,):
                remove_leftovers(path)
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK_FILE).unlink()  # before it is let go: whoever waits for it finds out, and makes a new one
        os.close(descriptor)


def in_use(folder: Path) -> bool:
    """Whether a process is at work in `folder`, as far as its lock file tells: it takes no lock itself."""
    number = _number_in(folder / LOCK_FILE)
    return number is not None and is_alive(number)


def _opened(path: Path) -> int:
    """A descriptor that holds the lock file `path`. The operating system lets go of it when the process ends.

    Raises BlockingIOError where another process holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(descriptor)
            # The one who held it may have removed the file after we opened it: then we hold one that nobody sees.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except FileNotFoundError:
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Take the lock, where the system and the file system have such a thing: some networked ones do not."""
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise


def _holder(path: Path) -> str:
    """The number of the process that holds the lock file, in brackets, as far as it can be read."""
    number = _number_in(path)
    return "" if number is None else f" ({number})"


def _number_in(path: Path) -> int | None:
    """The number of the process that wrote a lock file; None where there is no such file, or nothing to read."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return int(text) if text.isdecimal() else None
