"""Files that are either whole or not there."""

from pathlib import Path

import pytest

from gns.errors import UserError
from gns.utils.atomic_files import atomic_file, write_bytes, write_text


def test_parents_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file", "größer")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == "größer".encode()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["file"]


def test_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old content")
    with path.open("rb") as reader:
        assert reader.read(3) == b"old"
        write_bytes(path, b"new")
        assert reader.read() == b" content"  # the old file lives on until its last reader is done
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failing_block_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with pytest.raises(error), atomic_file(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*file \(Is a directory\)"):
        write_bytes(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
