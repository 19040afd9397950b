"""One process at a time in a folder."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gns.errors import UserError
from gns.utils.atomic_files import cannot_write, remove_leftovers

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path, *inside: str, flag: str = "-m") -> Iterator[None]:
    """Keep other processes out of `folder`, which is made if need be, until the block ends or this process does.

    Temporary files that a dead process has left there, and in what the patterns `inside` match, are removed. `flag` is
    the option that another folder is chosen with.
    Raises UserError where another process holds the folder, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(folder / LOCK_FILE)
    except BlockingIOError:
        raise UserError(
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
    try:
        number = path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
    return f" ({number})" if number.isdecimal() else ""
