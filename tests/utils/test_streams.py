"""Names that a terminal cannot show never end a command."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gns.testing.scene_files import small_scene, write_colmap
from gns.utils.console import say
from gns.utils.streams import escape_what_cannot_be_written, writable

REPOSITORY = Path(__file__).resolve().parents[2]

# A run takes seconds: each name and each encoding once. (A byte that is no text fails in every encoding.)
EACH_NAME_AND_ENCODING = pytest.mark.parametrize(
    ("name", "encoding"),
    [
        pytest.param("für-狐", "ascii", id="umlaut and Chinese in ASCII"),
        pytest.param("🦊", "latin-1", id="emoji in Latin-1"),
        pytest.param(os.fsdecode(b"caf\xe9"), "utf-8", id="no text at all in UTF-8"),  # Latin-1 in a UTF-8 file system
    ],
)


def gns(*arguments: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        [sys.executable, "-m", "gns.cli", *arguments], env=environment, capture_output=True, timeout=300
    )


@EACH_NAME_AND_ENCODING
def test_a_whole_run_ends_well(tmp_path: Path, name: str, encoding: str) -> None:
    try:
        scene = write_colmap(tmp_path / name, small_scene(count=9))
    except OSError:
        pytest.skip("this file system has no such names")
    model = str(tmp_path / f"{name}-out")
    commands = [
        ["train", "-s", str(scene), "-m", model, "--final-budget", "100", "--iterations", "10", "--threads", "1"],
        ["render", "-m", model],
        ["metrics", "-m", model],
    ]
    for command in commands:
        done = gns(*command, encoding=encoding)
        assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert (Path(model) / "point_cloud/iteration_10/point_cloud.ply").exists()


@EACH_NAME_AND_ENCODING
def test_errors_are_still_one_sentence(name: str, encoding: str) -> None:
    done = gns("render", "-m", f"nowhere-{name}", encoding=encoding)
    expected = f"nowhere-{name}".encode(encoding, "backslashreplace").decode(encoding)
    assert done.returncode == 2
    assert done.stderr.decode(encoding).splitlines() == [
        f"error: {expected} is no output folder of a training: it has neither config.json nor cfg_args"
    ]


def test_what_can_be_written_stays() -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="latin-1")
    text = "12 × 7 für 狐"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert writable(text) == r"12 × 7 für \u72d0"
        say(text, quiet=False)  # from a notebook: the stream is nobody's to change
        assert stream.errors == "strict"
        escape_what_cannot_be_written()
        print(text)
        stream.flush()
    assert written.getvalue().decode("latin-1").splitlines() == [r"12 × 7 für \u72d0"] * 2
