"""Scenes of strangers: nothing outside is read, nothing hangs, nothing is taken on that cannot fit."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gns.errors import UserError
from gns.scene import Scene
from gns.scene.ply import load_ply
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.readers import views as reading
from gns.testing.scene_files import small_scene, write_colmap, write_nerfstudio


def read(folder: Path, **options: object) -> Scene:
    return read_scene(folder, SceneOptions(eval=False, **options), lambda line: None)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_colmap(tmp_path / "scene", small_scene(count=3))


def moved_out(path: Path) -> Path:
    """Move `path` out of the scene, and leave a link."""
    outside = path.parents[2] / "outside"
    outside.mkdir(exist_ok=True)
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)
    return outside


def test_a_photo_that_is_a_link_out_of_the_scene_is_told_or_refused(folder: Path) -> None:
    outside = moved_out(folder / "images" / "01.png")
    told = rf"01\.png is a link to {outside}/01\.png, outside the scene"
    with pytest.raises(UserError, match=rf"{told}.*--follow-links"):
        read(folder)
    said: list[str] = []
    assert len(read_scene(folder, SceneOptions(eval=False, follow_links=True), said.append).train) == 3
    assert re.search(rf"warning: .*{told}", "\n".join(said))


def test_a_mask_that_is_a_link_out_of_the_scene_is_refused(folder: Path) -> None:
    (folder / "masks").mkdir()
    (folder / "masks" / "00.png").write_bytes((folder / "images" / "00.png").read_bytes())
    moved_out(folder / "masks" / "00.png")
    with pytest.raises(UserError, match=r"masks/00\.png is a link to"):
        read(folder)


def test_a_folder_of_photos_elsewhere_may_be_named(folder: Path, tmp_path: Path) -> None:
    (folder / "images").rename(tmp_path / "photos")
    (folder / "images").symlink_to(tmp_path / "photos", target_is_directory=True)
    with pytest.raises(UserError, match="is a link to"):
        read(folder)
    assert len(read(folder, images=str(tmp_path / "photos")).train) == 3
    (folder / "linked").symlink_to(tmp_path / "photos", target_is_directory=True)
    assert len(read(folder, images="linked").train) == 3


def test_links_inside_and_to_the_scene_are_nothing_special(folder: Path, tmp_path: Path) -> None:
    (folder / "images" / "01.png").unlink()
    (folder / "images" / "01.png").symlink_to("02.png")
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert len(read(tmp_path / "link").train) == 3


@pytest.mark.parametrize("name", ["sparse/0/images.bin", "sparse/0/points3D.bin", "sparse/0/cameras.bin"])
def test_a_pipe_in_place_of_a_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)  # reading it would wait for ever
    with pytest.raises(UserError, match="is no ordinary file"):
        read(folder)


def test_a_device_in_place_of_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "point_cloud.ply").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is no ordinary file"):
        load_ply(tmp_path / "point_cloud.ply")


def test_a_pipe_named_in_transforms_is_no_points(tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, small_scene(count=3))
    (folder / "points.ply").unlink()
    os.mkfifo(folder / "points.ply")
    with pytest.raises(UserError, match="do not exist in the scene"):
        read(folder)


def refuse_to_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "read_image", lambda *_: pytest.fail("a photo was decoded"))


def test_more_memory_for_photos_than_there_is_is_refused_before_one_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 3 * 40 * 30 * 4
    monkeypatch.setattr(reading, "main_memory", lambda: needed - 1)
    refuse_to_decode(monkeypatch)
    sentence = r"3 photos at this size take .* GB, --image-memory allows .* and this machine has .*: give --image"
    with pytest.raises(UserError, match=sentence):
        read(folder, image_memory=needed)


def test_memory_for_less_than_two_photos_is_refused_before_one_is_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_to_decode(monkeypatch)
    with pytest.raises(UserError, match=r"0\d\.png takes 0 MB and photos may take 0: give --image-memory at least 1MB"):
        read(folder, image_memory=2 * 40 * 30 * 4 - 1)


def test_photos_that_fit_at_the_size_they_are_used_at_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "main_memory", lambda: 3 * 20 * 15 * 4)
    assert len(read(folder, resolution=2).train) == 3
