"""One process at a time in a folder, however the one before it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gns.errors import UserError
from gns.utils.atomic_files import atomic_file, remove_leftovers
from gns.utils.folder_lock import LOCK_FILE, locked

HOLDING = """
import sys, time
from pathlib import Path
from gns.utils.atomic_files import atomic_file
from gns.utils.folder_lock import locked
with locked(Path(sys.argv[1])), atomic_file(Path(sys.argv[1]) / "model" / "half") as file:
    file.write(b"half a model")
    file.flush()
    print("held", flush=True)
    time.sleep(100)
"""


def another_process(folder: Path) -> subprocess.Popen[str]:
    """One that holds the folder and has begun to write a file in `folder`/model."""
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path, number: int) -> None:
    first = another_process(tmp_path)
    sentence = rf"another process \({first.pid}\) is at work in .*: wait for its end"
    with pytest.raises(UserError, match=sentence), locked(tmp_path):
        pass
    first.send_signal(number)
    first.wait()
    assert len(names(tmp_path)) == 2  # the lock and half a model
    with locked(tmp_path, "model"):
        assert names(tmp_path) == [LOCK_FILE]
    assert names(tmp_path) == []


def test_what_a_living_process_is_writing_stays(tmp_path: Path) -> None:
    first = another_process(tmp_path)
    before = names(tmp_path)
    remove_leftovers(tmp_path / "model")
    assert names(tmp_path) == before
    first.kill()
    first.wait()
    remove_leftovers(tmp_path / "model")
    assert names(tmp_path) == [LOCK_FILE]


def test_a_leftover_of_an_earlier_process_with_our_number_goes(tmp_path: Path) -> None:
    """In a container every training may have the same one."""
    (tmp_path / f".gns-{os.getpid()}-3.tmp").write_text("half")
    for name in (".gns-.tmp", "gns-1-1.tmp", ".gns-1-1.tmp.ply", f".gns-{10**30}-1.tmp"):
        (tmp_path / name).write_text("not ours")
    remove_leftovers(tmp_path)
    assert len(names(tmp_path)) == 4
    remove_leftovers(tmp_path / "nowhere")


def test_the_lock_is_let_go_when_the_block_fails(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyError), locked(tmp_path / "new"):
            raise KeyError
    assert names(tmp_path) == []


def test_a_lock_on_a_file_that_was_removed_meanwhile_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder removes the file between our opening and locking it, as it does when it ends."""
    lock = tmp_path / LOCK_FILE
    taken: list[int] = []

    def remove_first(descriptor: int) -> None:
        if not taken:
            lock.unlink()
        taken.append(descriptor)

    monkeypatch.setattr("gns.utils.folder_lock._lock", remove_first)
    with locked(tmp_path):
        assert len(taken) == 2 and lock.exists()


def test_files_with_the_longest_names_can_be_written(tmp_path: Path) -> None:
    with atomic_file(tmp_path / ("n" * 255)) as file:
        file.write(b"whole")
    assert names(tmp_path) == ["n" * 255]


@pytest.mark.parametrize("name", ["a file/below", "n" * 300])
def test_a_folder_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").write_text("")
    sentence = r"cannot write .*(Not a directory|File name too long)\): choose another folder"
    with pytest.raises(UserError, match=sentence), locked(tmp_path / name):
        pass
