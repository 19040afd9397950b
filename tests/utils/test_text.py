"""Text and names from other systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from gns.errors import UserError
from gns.utils.text import decode_text, folded, printable, refuse_git_lfs_pointer, spellings

TEXT = "1 PINHOLE 40 30\nÄpfel 图.jpg\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_of_every_kind_is_decoded(encoding: str) -> None:
    assert decode_text(TEXT.encode(encoding)) == TEXT
    assert decode_text(b"\xfe\xff" + TEXT.encode("utf-16-be")) == TEXT
    assert decode_text(b"") == ""


@pytest.mark.parametrize(
    ("encoding", "name"), [("gb18030", "照片 1.jpg"), ("cp1252", "café.jpg"), ("cp949", "사진.jpg")]
)
def test_names_in_other_encodings_are_among_the_spellings(encoding: str, name: str) -> None:
    read = decode_text(f"1 {name}".encode(encoding))[2:]
    assert name in spellings(read)
    assert read in spellings(read)  # the file on disk may be called by the same bytes
    printable(read).encode("utf-8")


def test_right_names_have_one_spelling() -> None:
    assert spellings("a.jpg") == ["a.jpg"] and spellings("照片.jpg") == ["照片.jpg"]
    assert printable("照片.jpg") == "照片.jpg"
    assert printable("\udce9.jpg") == "é.jpg"


def test_folding_joins_case_and_composition() -> None:
    assert folded("IMG_É.JPG") == folded("img_e\u0301.jpg")
    assert folded("a.jpg") != folded("b.jpg")


def test_git_lfs_pointers_are_named(tmp_path: Path) -> None:
    pointer = tmp_path / "cameras.bin"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n")
    with pytest.raises(UserError, match=r"cameras\.bin is a Git LFS pointer .*run git lfs pull"):
        refuse_git_lfs_pointer(pointer)
    pointer.write_bytes(b"version")
    refuse_git_lfs_pointer(pointer)
