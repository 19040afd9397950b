"""`gns inspect` from its arguments to lines, picture and exit status; its lines at the start of a training."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gns import cli
from gns.arguments import parse_inspect
from gns.errors import UserError
from gns.testing.scene_files import SmallScene, small_scene, write_blender, write_colmap, write_nerfstudio

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")


def labels(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line[:1].strip()]


@pytest.mark.parametrize(
    "argv",
    [
        ["scene", "-i", "photos", "-r", "4", "--plot", "a.png"],
        ["-s", "scene", "-i", "photos", "-r", "4", "--plot", "a.png"],
        ["-i", "photos", "-r", "4", "--plot", "a.png", "scene"],
        ["-i", "photos", "--source_path", "scene", "--resolution", "4", "--plot=a.png"],
    ],
)
def test_the_scene_may_stand_alone(argv: list[str]) -> None:
    config = parse_inspect(argv)
    assert (config.source_path, config.images, config.resolution) == (Path("scene"), "photos", 4)
    assert config.plot == Path("a.png")


@pytest.mark.parametrize("argv", [[], ["-r", "4"], ["--plot", "a.png"]])
def test_without_a_scene_that_is_asked_for(argv: list[str]) -> None:
    with pytest.raises(UserError, match=r"^-s \(--source-path\) is missing: folder of the scene"):
        parse_inspect(argv)


@pytest.mark.parametrize("write", [write_colmap, write_blender, write_nerfstudio])
def test_every_format_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], write: object) -> None:
    assert callable(write)
    folder = write(tmp_path / "scene", small_scene(count=18))
    assert cli.main(["inspect", str(folder)]) == 0
    printed = capsys.readouterr()
    told = labels(printed.out)
    assert told[:6] == ["scene", "format", "photos", "cameras", "split", "points"]
    assert told[-1] == "doubts" and "unused" not in told
    assert printed.err == ""
    assert all(len(line) < 200 for line in printed.out.splitlines() if not line.startswith("scene"))


def test_what_is_found_and_not_used_and_what_looks_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = small_scene(count=18)
    images = [image.copy() for image in small.images]
    images[4][:] = 9
    folder = write_colmap(tmp_path / "scene", SmallScene(small.cameras, images, small.points))
    (folder / "images_4").mkdir()
    path = folder / "images/05.png"
    Image.open(path).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-2])
    assert cli.main(["inspect", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "unused    images_4/" in lines
    assert any("05.png lacks the two bytes that end a JPEG" in line for line in lines)
    assert any(line.startswith("doubts    04.png shows a single colour") for line in lines)


def test_a_scene_without_faults_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(write_colmap(tmp_path / "scene", small_scene(count=18, points=300)))]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "doubts    none"
    assert "unused" not in labels(out)


@needs_matplotlib
def test_a_damaged_photo_leaves_what_came_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_colmap(tmp_path / "scene", small_scene(count=18))
    (folder / "images/03.png").write_bytes(b"nothing")
    assert cli.main(["inspect", str(folder), "--plot", str(tmp_path / "a.png")]) == 2
    printed = capsys.readouterr()
    assert labels(printed.out)[:3] == ["scene", "format", "photos"]
    assert "17" not in printed.out.splitlines()[2]  # all are listed, whatever is in them
    assert (tmp_path / "a.png").exists()
    assert printed.err.startswith("error: ") and "03.png cannot be read as an image" in printed.err
    assert len(printed.err.splitlines()) == 1


@needs_matplotlib
def test_the_picture_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_colmap(tmp_path / "scene", small_scene(count=18))
    assert cli.main(["inspect", "--plot", str(tmp_path / "a.png"), str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"drawn in {tmp_path / 'a.png'}"
    assert np.array(Image.open(tmp_path / "a.png")).std() > 10


def test_without_matplotlib_nothing_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    folder = write_colmap(tmp_path / "scene", small_scene(count=18))
    assert cli.main(["inspect", str(folder), "--plot", str(tmp_path / "a.png")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert 'pip install ".[plot]" in the folder of gns' in printed.err
    assert "gns[" not in printed.err


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", str(tmp_path / "nowhere")]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_training_begins_with_the_scene_in_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_colmap(tmp_path / "scene", small_scene(count=9))
    options = ["-s", str(folder), "-m", str(tmp_path / "out"), "--final-budget", "100", "--iterations", "10"]
    assert cli.run(cli.train, options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("7 photos to learn from, 2 held out; 60 points, 100 % seen by the photos at depths of ")
    assert lines[2].startswith("warning: 7 photos are few to learn a scene from")
