"""The job around the fuzzer: that it can start itself again, keeps what it found, and adds up what it tried."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import fuzz_readers
from benchmarks.fuzz_readers import KINDS, Effort, add_to_record, as_table, by_kind, read_record, write_launcher
from gns.testing.fuzzing import targets


def test_the_launcher_is_a_program_that_hands_on_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libFuzzer starts its first word again: that was a file nobody may run, and every corpus came out empty."""
    told = [sys.executable, "-c", "import sys; print(sys.argv[1:])"]
    monkeypatch.setattr(fuzz_readers, "child_command", lambda name, folder: [*told, name, str(folder)])
    launcher = tmp_path / "again"
    write_launcher(launcher, "colmap images.bin", tmp_path)
    done = subprocess.run(f"{launcher} -merge=1 'a b'", shell=True, capture_output=True, text=True, check=True)
    assert done.stdout == f"{['colmap images.bin', str(tmp_path), '-merge=1', 'a b']}\n"


def test_what_was_tried_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "new" / "record.json"
    assert read_record(path) == {}
    add_to_record(path, "b", Effort(30.04, 1000, 0))
    add_to_record(path, "a", Effort(60.0, 7, 1))
    add_to_record(path, "b", Effort(29.96, 500, 0))
    assert read_record(path) == {"a": Effort(60.0, 7, 1), "b": Effort(60.0, 1500, 0)}
    assert as_table(read_record(path)).splitlines()[2:] == ["| a | 1.0 | 7 | 1 |", "| b | 1.0 | 1,500 | 0 |"]


def test_every_reader_is_of_one_kind() -> None:
    assert sorted(name for names in KINDS.values() for name in names) == sorted(targets())
    tried = by_kind(
        {"model.ply": Effort(60.0, 7, 1), "points.ply": Effort(30.0, 2, 0), "checkpoint": Effort(1.0, 1, 0)}
    )
    assert tried["PLY"] == Effort(90.0, 9, 1) and tried["checkpoint"].files == 1 and tried["pictures"] == Effort()
