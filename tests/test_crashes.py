"""Runs that are killed while they write are taken up to the same bits; `benchmarks/crash_trials.py` tries many more."""

from __future__ import annotations

import importlib.abc
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from benchmarks import crash_trials
from benchmarks.crash_trials import commands
from gns.run_folder import RunFolder
from gns.testing.crashes import (
    KINDS,
    Ending,
    Kill,
    differences,
    few_descriptors,
    leftovers,
    partial_files,
    run_commands,
    single_threaded,
    small_files,
)
from gns.testing.examples import random_gaussians
from gns.testing.scene_files import small_scene, write_colmap
from gns.testing.tiny import tiny_config

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="trials take place in forked processes")


def whole_run(scene: Path, model: Path) -> list[list[str]]:
    """A short run, its pictures and their scores."""
    return commands(scene, model, iterations=60)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    single_threaded()
    return write_colmap(tmp_path_factory.mktemp("crashes") / "scene", small_scene(count=9, points=60))


@pytest.fixture(scope="module")
def reference(scene: Path) -> Path:
    folder = scene.parent / "reference"
    ending = run_commands(whole_run(scene, folder), count=True)
    assert ending.status == 0 and all(ending.points[kind] for kind in KINDS if kind != "clock"), ending.said
    assert leftovers(folder) == partial_files(folder) == []
    return folder


@pytest.mark.parametrize(
    "kill",
    [
        Kill("half a file", 8),
        Kill("before a rename", 9),  # the model is whole and its record written, but it is not in its place
        Kill("after a rename", 12),
        Kill("half a log line", 2),
        Kill("half a file", 20),  # of the pictures
    ],
    ids=str,
)
def test_a_killed_run_loses_nothing(scene: Path, reference: Path, tmp_path: Path, kill: Kill) -> None:
    folder = tmp_path / "model"
    assert run_commands(whole_run(scene, folder), kill).killed
    assert partial_files(folder) == []
    ending = run_commands(whole_run(scene, folder))
    assert ending.status == 0, ending.said
    assert leftovers(folder) == []
    assert differences(folder, reference) == []


def test_what_the_system_denies_is_said_in_a_sentence(scene: Path, reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for condition in (small_files(9_000), few_descriptors(5)):
        ending = run_commands(whole_run(scene, folder), prepare=[condition])
        assert ending.status == 2 and ending.explained, ending.said
    assert run_commands(whole_run(scene, folder)).status == 0
    assert differences(folder, reference) == []


def no_sources() -> None:
    """From here on no module of ours is read from its file."""

    class Refuses(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.startswith("gns."):
                raise ImportError(f"{name} is read from its file")

    sys.meta_path.insert(0, Refuses())


def test_trials_run_the_code_of_the_reference_though_its_files_are_edited_meanwhile(
    scene: Path, reference: Path, tmp_path: Path
) -> None:
    """A trial once reported other scores than its reference: its sources were being edited, and children read them."""
    ending = run_commands(whole_run(scene, tmp_path / "model"), prepare=[no_sources])
    assert ending.status == 0, ending.said
    assert differences(tmp_path / "model", reference) == []


def test_what_is_lost_would_be_seen(reference: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in reference.rglob("*"):
        if path.is_file():
            copy = folder / path.relative_to(reference)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes().replace(str(reference).encode(), str(folder).encode()))
    assert differences(folder, reference) == []
    picture = next(folder.rglob("renders/*.png"))
    picture.write_bytes(picture.read_bytes()[:-20])
    (folder / ".gns-1-1.tmp").touch()
    assert partial_files(folder) and leftovers(folder) == [".gns-1-1.tmp"]
    assert str(picture.relative_to(folder)) in differences(folder, reference)


def test_a_cut_line_spoils_none_of_the_later_ones(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "model", tiny_config(tmp_path))
    run.log({"iteration": 10})
    with run.log_path.open("ab") as file:
        file.write(b'{"iterat')
    run.log({"iteration": 20})
    run.log({"iteration": 30})
    with run.log_path.open("ab") as file:
        file.write(b"\xff\xfe\n7\n")
    assert [record["iteration"] for record in run.read_log()] == [10, 20, 30]


def test_the_record_of_a_model_is_there_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is there ends its run: nobody would come back to write the record."""
    run = RunFolder.create(tmp_path / "model", tiny_config(tmp_path))
    there: list[bool] = []
    replace = Path.replace

    def renamed(source: Path, target: Path) -> Path:
        there.append(run.model_path(5).exists())
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", renamed)
    run.save_model(random_gaussians(4), 5)
    assert there == [False, False] and run.load_model(5) is not None
    assert run.model_digest(5)


# Mounting takes a right: these write down what they are asked. A disk is empty when it is gone.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
test "$(basename "$0")" = mount || rm -rf "$1"/*
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_trials_that_are_ended_leave_nothing_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    log, begun, work, programs = (tmp_path / name for name in ("log", "begun", "work", "programs"))
    for folder in (work, programs):
        folder.mkdir()
    for name in ("mount", "umount"):
        (programs / name).write_text(STAND_IN.format(log=log))
        (programs / name).chmod(0o755)

    def endless(commands: Sequence[Sequence[str]], *_: Any, count: bool = False, **__: Any) -> Ending:
        if not count:
            return run_commands([], prepare=[begun.touch, lambda: time.sleep(600)])
        model = Path(commands[0][commands[0].index("-m") + 1])
        model.mkdir()
        (model / "file").touch()
        return Ending(False, 0, "", points=dict.fromkeys(KINDS, 9))

    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    monkeypatch.setattr(crash_trials, "run_commands", endless)
    monkeypatch.setattr(sys, "argv", ["crash_trials", "--kills", "0", "--only", "read-only"])
    process = os.fork()
    if process == 0:
        _trials_and_no_more()
    try:
        until = time.monotonic() + 60
        while not begun.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        for _ in range(2):  # as some shells and systems send it
            os.kill(process, number)
        _, how = os.waitpid(process, 0)
        assert os.waitstatus_to_exitcode(how) == 128 + number
        with pytest.raises(ProcessLookupError):  # nor is a child left
            os.killpg(process, 0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
    told = [line.split() for line in log.read_text().splitlines()]
    mounted = [words[-1] for words in told if words[:3] == ["mount", "-t", "tmpfs"]]
    assert [Path(place).name for place in mounted] == ["probe", "disk"]
    assert [words[-1] for words in told if words[0] == "umount"] == mounted
    assert not any(work.iterdir())


def _trials_and_no_more() -> NoReturn:
    """All that a forked process does."""
    status: Any = 70
    try:
        os.setsid()
        status = crash_trials.main()
    except SystemExit as end:
        status = end.code
    finally:
        os._exit(status)
