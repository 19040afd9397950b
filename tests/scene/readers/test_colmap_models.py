"""Where COLMAP models lie, which one is read, and what other programs write into their files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gns.errors import UserError
from gns.scene import Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import (
    SmallScene,
    small_scene,
    write_blender,
    write_colmap,
    write_nerfstudio,
    write_ply_points,
)
from gns.utils.undistortion import MODELS


def read(folder: Path, images: str = "images") -> tuple[Scene, list[str]]:
    lines: list[str] = []
    return read_scene(folder, SceneOptions(images=images, eval=False), lines.append), lines


def names(scene: Scene) -> list[str]:
    return [view.camera.name for view in scene.train]


def part(small: SmallScene, start: int, stop: int) -> SmallScene:
    return SmallScene(small.cameras[start:stop], small.images[start:stop], small.points)


# --- which model ---


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize("largest", ["sparse/0", "sparse/1", "sparse/10", "sparse/aligned", "sparse"])
def test_the_model_with_most_photos_is_read(tmp_path: Path, binary: bool, largest: str) -> None:
    small = small_scene(count=12)
    for sparse in {"sparse/0", "sparse/1", largest}:
        chosen = part(small, 2, 12) if sparse == largest else part(small, 0, 2)
        write_colmap(tmp_path, chosen, binary=binary, sparse=sparse, photos=small)
    scene, lines = read(tmp_path)
    assert names(scene) == [f"{index:02}.png" for index in range(2, 12)]
    for view, camera in zip(scene.train, small.cameras[2:], strict=True):
        np.testing.assert_allclose(view.camera.world_to_camera, camera.world_to_camera, atol=1e-12)
    assert lines[0].startswith(f"model {largest} with 10 photos, the largest of ") and "has 2" in lines[0]
    assert lines[1].startswith("2 of 12 photos in ") and lines[1].endswith("are not used (00.png, 01.png)")


def test_of_equal_models_the_first_is_read(tmp_path: Path) -> None:
    small = small_scene(count=4)
    for sparse, start in (("sparse/1", 2), ("sparse/0", 0)):
        write_colmap(tmp_path, part(small, start, start + 2), sparse=sparse, photos=small)
    assert names(read(tmp_path)[0]) == ["00.png", "01.png"]


def test_a_damaged_model_is_passed_over_with_a_warning(tmp_path: Path) -> None:
    small = small_scene(count=4)
    write_colmap(tmp_path, small, sparse="sparse/0")
    write_colmap(tmp_path, small, sparse="sparse/1")
    (tmp_path / "sparse/0/images.bin").write_bytes(b"\xff" * 8)
    scene, lines = read(tmp_path)
    assert len(scene.train) == 4
    assert lines[0] == "model sparse/1 with 4 photos, the largest of 2 (sparse/0 has 0)"
    assert (
        lines[1].startswith("warning: this model is passed over: ") and "sparse/0/images.bin is cut short" in lines[1]
    )


PLACES = ["sparse", "sparse/0", "sparse/1", "colmap/sparse/0", "colmap/sparse", "dense/sparse", "dense/sparse/0"]
PLACES += ["distorted/sparse/0", "dense/0/sparse", "colmap", "."]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("beside", [None, "sparse", "sparse/0"])
def test_places_of_models(tmp_path: Path, place: str, beside: str | None) -> None:
    """`beside` is an empty folder that looks like the usual place."""
    folder = write_colmap(tmp_path, small_scene(count=3), sparse=place)
    if beside:
        (folder / beside).mkdir(parents=True, exist_ok=True)
    scene, lines = read(folder)
    assert names(scene) == ["00.png", "01.png", "02.png"]
    assert len(scene.points.positions) == 60
    assert lines[0] == f"model {place}" or place in ("sparse", "sparse/0")


@pytest.mark.parametrize(
    ("place", "images"),
    [("dense/sparse", "dense/images"), ("distorted/sparse/0", "input"), ("colmap/sparse/0", "images")],
)
def test_photos_of_models_in_sub_folders(tmp_path: Path, place: str, images: str) -> None:
    """`images/` has other photos of the same names and size: undistorted ones, say."""
    small, other = small_scene(count=3), small_scene(count=3, seed=1)
    write_colmap(tmp_path, small, sparse=place, photos=other)
    folder = write_colmap(tmp_path, small, sparse=place, images=images)
    scene, _ = read(folder)
    for view, image in zip(scene.train, small.images, strict=True):
        assert (view.image.numpy() == image).all()


def test_transforms_come_before_models_elsewhere(tmp_path: Path) -> None:
    write_colmap(tmp_path, small_scene(count=3), sparse="colmap/sparse/0")
    write_nerfstudio(tmp_path, small_scene(count=3))
    assert names(read(tmp_path)[0]) == ["images/00.png", "images/01.png", "images/02.png"]
    (tmp_path / "sparse").mkdir()
    assert names(read(tmp_path)[0]) == ["images/00.png", "images/01.png", "images/02.png"]


# --- folders that are no scene ---


@pytest.mark.parametrize("write", [write_colmap, write_nerfstudio, write_blender])
@pytest.mark.parametrize("inner", ["garden", "a/garden", "a/b/garden"])
def test_a_scene_in_a_sub_folder_is_named(
    tmp_path: Path, write: Callable[[Path, SmallScene], Path], inner: str
) -> None:
    (tmp_path / inner).mkdir(parents=True)
    write(tmp_path / inner, small_scene(count=4))
    with pytest.raises(UserError, match=rf"{tmp_path} is no scene, but {tmp_path}/{inner} is one: give that with -s"):
        read(tmp_path)


@pytest.mark.parametrize("write", [write_colmap, write_nerfstudio])
def test_the_scene_that_a_folder_is_in_is_named(tmp_path: Path, write: Callable[[Path, SmallScene], Path]) -> None:
    folder = write(tmp_path, small_scene(count=4))
    with pytest.raises(UserError, match=rf"images is no scene, but {tmp_path} is one: give that with -s"):
        read(folder / "images")


def test_a_model_alone_is_told_from_a_scene(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(count=4), sparse="colmap_text")
    with pytest.raises(UserError, match=r"colmap_text holds a COLMAP model, .*: move it to .*sparse/0"):
        read(folder)
    shutil.copytree(folder / "colmap_text", folder / "sparse/0")
    with pytest.raises(
        UserError, match=rf"sparse/0/images does not exist: the scene may be {tmp_path}: give it with -s"
    ):
        read(folder / "sparse/0")


def test_a_file_is_no_scene(tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, small_scene(count=4))
    with pytest.raises(UserError, match=r"transforms\.json is a file: give the folder that it is in with -s"):
        read(folder / "transforms.json")


# --- what is in the files ---


@pytest.mark.parametrize("rename", [str.capitalize, str.upper, str.swapcase])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_file_names_in_other_case(tmp_path: Path, rename: Callable[[str], str], binary: bool) -> None:
    folder = write_colmap(tmp_path, small_scene(count=3), binary=binary)
    for path in (folder / "sparse/0").iterdir():
        path.rename(path.with_name(rename(path.name)))
    scene, _ = read(folder)
    assert names(scene) == ["00.png", "01.png", "02.png"] and len(scene.points.positions) == 60


@pytest.mark.parametrize("observations", ["", "1.0 2.0 -1", "1 2 3 4 5 6 7 8 9", "1e2 2 3 " * 5, None])
@pytest.mark.parametrize("name", ["{}", "a photo {}", "12 {}", "12 13 {}", "0x {}"])
def test_images_with_and_without_a_line_of_observations(tmp_path: Path, observations: str | None, name: str) -> None:
    """None: one line a photo, as some programs write; every second photo would be taken for observations."""
    small = small_scene(count=5)
    cameras = [replace(camera, name=name.format(camera.name)) for camera in small.cameras]
    folder = write_colmap(tmp_path, replace(small, cameras=cameras), binary=False)
    path = folder / "sparse/0/images.txt"
    photos = [line for line in path.read_text().splitlines() if line.endswith(".png")]
    between = [] if observations is None else [observations]
    lines = ["# Image list", *(line for photo in photos for line in [photo, *between])]
    for text in ("\n".join(lines), "\n".join(lines) + "\n", "\n".join([lines[0], "", *lines[1:], "", "# end"])):
        path.write_text(text)
        scene, _ = read(folder)
        assert names(scene) == [name.format(f"0{index}.png") for index in range(5)]
        for view, camera in zip(scene.train, small.cameras, strict=True):
            np.testing.assert_allclose(view.camera.world_to_camera, camera.world_to_camera, atol=1e-12)


def test_numbers_for_names_in_one_line_a_photo(tmp_path: Path) -> None:
    small = small_scene(count=5)
    folder = write_colmap(tmp_path, small, binary=False)
    path = folder / "sparse/0/images.txt"
    photos = [line.removesuffix(".png") for line in path.read_text().splitlines() if line.endswith(".png")]
    path.write_text("\n".join(photos))
    assert names(read(folder)[0]) == [camera.name for camera in small.cameras]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("change", [-2, -1, 1])
def test_a_wrong_number_of_parameters_is_told(tmp_path: Path, model: str, change: int) -> None:
    needed = MODELS[model].names
    parameters = " ".join(["48", "48", "20", "15", *["0"] * 20][: len(needed) + change])
    folder = write_colmap(tmp_path, small_scene(count=2), binary=False)
    (folder / "sparse/0/cameras.txt").write_text(f"7 {model} 40 30 {parameters}\n")
    sentence = (
        rf"cameras\.txt: camera 7 has {len(needed) + change} parameters, and a {model} camera needs {len(needed)} "
        rf"\({' '.join(needed)}\): export"
    )
    with pytest.raises(UserError, match=sentence):
        read(folder)


@pytest.mark.parametrize("name", ["points3D.ply", "points3d.ply", "Points3D.PLY"])
@pytest.mark.parametrize("empty", [True, False])
def test_points_in_a_ply_file_alone(tmp_path: Path, name: str, empty: bool) -> None:
    small = small_scene(count=3)
    folder = write_colmap(tmp_path, small)
    (folder / "sparse/0/points3D.bin").unlink()
    if empty:
        (folder / "sparse/0/points3D.txt").write_text("# none\n")
    write_ply_points(folder / "sparse/0" / name, small.points, ascii_format=False)
    scene, lines = read(folder)
    np.testing.assert_allclose(scene.points.positions, small.points.positions, atol=1e-6)
    np.testing.assert_array_equal(scene.points.colors, small.points.colors)
    assert lines[0] == f"points of {folder / 'sparse/0' / name}"
