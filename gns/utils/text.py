"""Text and names that other systems wrote."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from gns.errors import UserError
from gns.utils.regular_files import refuse_special_file

# In which systems without UTF-8 write names: Chinese, western European, Japanese, traditional Chinese, Korean.
_LEGACY_ENCODINGS = ("gb18030", "cp1252", "shift_jis", "big5", "cp949")
_BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_GIT_LFS = b"version https://git-lfs"


def decode_text(data: bytes) -> str:
    """The text of a file in UTF-8 or UTF-16, with or without a byte order mark.

    Bytes that are no UTF-8 stay in it, escaped (PEP 383, as Python keeps file names): see `spellings`. Raises
    ValueError where UTF-16 is cut short.
    """
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    if data[1:2] == b"\0":  # text of these formats begins with a character of ASCII
        return data.decode("utf-16-le")
    return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-8", errors="surrogateescape")


def read_text(path: Path) -> str:
    """The text in a file, as `decode_text` has it. Raises OSError, ValueError, and UserError for a Git LFS pointer."""
    refuse_git_lfs_pointer(path)
    return decode_text(path.read_bytes())


def spellings(name: str) -> list[str]:
    """What a name may be: itself, and where it holds escaped bytes, what they say in other encodings."""
    if name.isascii():
        return [name]
    data = name.encode("utf-8", "surrogateescape")
    if _is_utf8(data):
        return [name]
    found = [name]
    for encoding in _LEGACY_ENCODINGS:
        try:
            found.append(data.decode(encoding))
        except UnicodeDecodeError:
            continue
    return found


def printable(name: str) -> str:
    """The name without escaped bytes, which no terminal or file takes."""
    *_, last = spellings(name)[:2]
    return last.encode("utf-8", "replace").decode("utf-8")


def folded(name: str) -> str:
    """What names have in common that differ in case, or in how accents are composed (as macOS and others do)."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


def by_number(name: str) -> list[tuple[int, str]]:
    """The key that sorts `ours_7000` before `ours_30000`, photo2 before photo10: digits count as numbers."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def refuse_git_lfs_pointer(path: Path) -> None:
    """Raise UserError where the file is the note that git leaves in place of a large file; OSError where it is none.

    And where it is a pipe or a device.
    """
    refuse_special_file(path)
    if path.stat().st_size < 1024:
        with path.open("rb") as file:
            if file.read(len(_GIT_LFS)) == _GIT_LFS:
                raise UserError(f"{path} is a Git LFS pointer in place of the file: run git lfs pull in its repository")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
