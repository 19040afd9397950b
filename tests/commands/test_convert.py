"""gns convert from photos or a video to a scene; what takes COLMAP is skipped where pycolmap is absent."""

from __future__ import annotations

import importlib.util
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gns import cli
from gns.commands.convert import is_ready
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.readers.colmap import matches
from gns.utils.undistortion import MODELS
from tests.sfm.room import FOCAL, PHOTOS, centre_errors, room_cameras, room_photo, write_room
from tests.sfm.test_video import write_video

needs_colmap = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason='structure from motion needs pycolmap: pip install ".[sfm]"'
)


def convert(*words: str | Path) -> int:
    return cli.run(cli.convert, [*map(str, words), "--threads", "2"])


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of the room, one of them in a format that becomes PNG, and a mask for one."""
    folder = tmp_path_factory.mktemp("room")
    write_room(folder / "photos")
    Image.open(folder / "photos" / "004.jpg").save(folder / "photos" / "004.webp", lossless=True)
    (folder / "photos" / "004.jpg").unlink()
    mask = np.full((192, 256), 255, np.uint8)
    mask[:, :64] = 0
    (folder / "photos" / "masks").mkdir()
    Image.fromarray(mask).save(folder / "photos" / "masks" / "002.jpg.png")
    return folder / "photos"


@pytest.fixture(scope="module")
def scene(room: Path) -> Path:
    """What is made of it."""
    assert convert(room, "-o", room.parent / "scene", "--quiet") == 0
    return room.parent / "scene"


@needs_colmap
def test_all_photos_find_the_place_they_were_taken_from(scene: Path) -> None:
    read = read_scene(scene, SceneOptions(eval=False), lambda _: None)
    names = [f"{number:03d}.{'png' if number == 4 else 'jpg'}" for number in range(PHOTOS)]
    assert [view.camera.name for view in read.train] == names
    centres = {view.camera.name.replace("png", "jpg"): view.camera.center for view in read.train}
    assert centre_errors(centres, room_cameras()).max() < 0.02  # of 3.2 to the corner of the room
    assert abs(read.train[0].camera.fx / FOCAL - 1) < 0.01
    assert len(read.points.positions) > 1000
    assert " PINHOLE" in read_colmap_cameras(scene / "sparse" / "0")


@needs_colmap
def test_masks_come_along_and_hide_features(scene: Path) -> None:
    read = read_scene(scene, SceneOptions(eval=False), lambda _: None)
    masks = {view.camera.name: view.mask for view in read.train if view.mask is not None}
    assert set(masks) == {"002.jpg"}
    assert 0.7 < masks["002.jpg"].float().mean() < 0.8 and not masks["002.jpg"][:, :60].any()
    leftmost = {name: features(scene / "sparse" / "0", name)[:, 0].min() for name in ("002.jpg", "003.jpg")}
    assert leftmost["002.jpg"] > 60 > leftmost["003.jpg"]


@needs_colmap
def test_a_finished_scene_is_left_alone(scene: Path, room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (scene / "sparse" / "0" / "images.bin").stat().st_mtime_ns
    assert convert(room, "-o", scene, "--json") == 0
    printed = capsys.readouterr()
    record = json.loads(printed.out)
    assert (record["photos"], record["registered"], record["not_registered"]) == (PHOTOS, PHOTOS, [])
    assert "is finished: 9 of 9 photos found their place" in printed.err
    assert (scene / "sparse" / "0" / "images.bin").stat().st_mtime_ns == before
    assert convert(room, "-o", scene, "--camera", "PINHOLE") == 2
    assert "holds a finished scene of other photos or options" in capsys.readouterr().err
    assert convert(scene) == 2
    assert f"is a scene already: train on it with -s {scene}" in capsys.readouterr().err


@needs_colmap
def test_it_goes_on_where_it_was_stopped(scene: Path, room: Path, tmp_path: Path) -> None:
    """With features and matches there, and the reconstruction not: they are not computed again."""
    stopped = tmp_path / "scene"
    shutil.copytree(scene / "distorted", stopped / "distorted", symlinks=True)
    for made in ("sparse", "undistorted"):
        shutil.rmtree(stopped / "distorted" / made, ignore_errors=True)
    log = stopped / "distorted" / "colmap.log"
    log.unlink()
    assert convert(room, "-o", stopped, "--quiet", "--no-undistort", "--resize") == 0
    assert "Processed file" not in log.read_text() and "Registering image" in log.read_text()
    assert matches(stopped) and is_ready(stopped)
    assert (stopped / "images" / "001.jpg").read_bytes() == (room / "001.jpg").read_bytes()
    assert "SIMPLE_RADIAL" in read_colmap_cameras(stopped / "sparse" / "0")
    assert Image.open(stopped / "images_4" / "001.jpg").size == (64, 48)


@needs_colmap
def test_other_options_start_from_the_beginning(scene: Path, room: Path, tmp_path: Path) -> None:
    """And a reconstruction that is there serves --skip-matching, as in 3DGS."""
    begun = tmp_path / "scene"
    shutil.copytree(scene / "distorted", begun / "distorted", symlinks=True)
    assert convert(room, "-o", begun, "--quiet", "--skip_matching", "--no_gpu") == 0
    assert (begun / "sparse" / "0" / "points3D.bin").read_bytes() == (scene / "sparse/0/points3D.bin").read_bytes()


@needs_colmap
def test_photos_that_show_nothing_in_common_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        noise = np.random.default_rng(number).uniform(0, 255, (24, 32, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((128, 96), Image.Resampling.BICUBIC).save(tmp_path / "photos" / f"{number}.jpg")
    for _ in range(2):  # the second time from what the first one found out
        assert convert(tmp_path / "photos", "-o", tmp_path / "scene", "--quiet") == 2
        error = capsys.readouterr().err
        assert "only 0 of 4 photos found their place: take more photos in between" in error
        assert not matches(tmp_path / "scene")


@needs_colmap
def test_a_video_becomes_a_scene(tmp_path: Path) -> None:
    frames = [room_photo(camera) for camera in room_cameras(17)]
    video = write_video(tmp_path / "video.mp4", frames)
    assert convert(video, "-o", tmp_path / "scene", "--frames", "8", "--quiet") == 0
    read = read_scene(tmp_path / "scene", SceneOptions(eval=False), lambda _: None)
    assert 6 <= len(read.train) <= 8
    numbers = [int(view.camera.name[6:11]) for view in read.train]
    truth = {f"{index:03d}.jpg": camera for index, camera in enumerate(room_cameras(17))}
    centres = {f"{number:03d}.jpg": view.camera.center for number, view in zip(numbers, read.train, strict=True)}
    assert centre_errors(centres, list(truth.values())).max() < 0.1


def test_without_pycolmap_a_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_room(tmp_path / "photos", 3)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert convert(tmp_path / "photos", "-o", tmp_path / "scene") == 2
    assert 'needs pycolmap: run pip install ".[sfm]" in the folder of gns' in capsys.readouterr().err


def test_two_photos_are_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_room(tmp_path / "photos", 2)
    assert convert(tmp_path / "photos", "-o", tmp_path / "scene") == 2
    assert "has 2 photos: a scene needs 3 at the very least" in capsys.readouterr().err


def test_a_scene_of_another_program_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_room(tmp_path / "photos", 3)
    (tmp_path / "scene" / "sparse" / "0").mkdir(parents=True)
    (tmp_path / "scene" / "sparse" / "0" / "images.txt").write_text("")
    assert convert(tmp_path / "photos", "-o", tmp_path / "scene") == 2
    assert "holds a scene that was not made here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["photos", "photos/video.mp4"])
def test_train_names_the_way_from_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_room(tmp_path / "photos", 2)
    (tmp_path / "photos" / "video.mp4").write_bytes(b"")
    assert cli.run(cli.train, ["-s", str(tmp_path / name), "-m", str(tmp_path / "m"), "--final-budget", "1k"]) == 2
    assert f"gns make {tmp_path / name} --final-budget 20MB" in capsys.readouterr().err


def read_colmap_cameras(model: Path) -> str:
    """The names of the camera models in a COLMAP model, each with a blank in front."""
    content = (model / "cameras.bin").read_bytes()
    numbers = {found.number: name for name, found in MODELS.items()}
    return " " + numbers[struct.unpack_from("<i", content, 12)[0]]


def features(model: Path, name: str) -> Any:
    """The places [N, 2] of a photo's features in images.bin."""
    content = (model / "images.bin").read_bytes()
    start = content.index(name.encode() + b"\0") + len(name) + 1
    (count,) = np.frombuffer(content[start : start + 8], "<u8")
    rows = np.frombuffer(content[start + 8 : start + 8 + 24 * int(count)], np.dtype([("xy", "<f8", 2), ("id", "<i8")]))
    return rows["xy"]
