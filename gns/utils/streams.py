"""Standard streams whose encoding lacks some letters."""

from __future__ import annotations

import io
import sys

_ESCAPES = "backslashreplace"  # as Python itself does on stderr: nothing is lost, and names can be told apart


def escape_what_cannot_be_written() -> None:
    """Let stdout and stderr write an escape, such as \\xfc, for what they cannot encode: for a program's own streams.

    Raises nothing; streams that others have put in place of the standard ones stay as they are.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ESCAPES)


def writable(text: str) -> str:
    """`text` as stdout can write it, with the same escapes: for libraries, which leave streams alone."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, _ESCAPES).decode(encoding)
