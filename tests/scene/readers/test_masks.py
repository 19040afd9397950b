"""Each mask is found under all its usual names, serves one photo, and none is passed over in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gns.errors import UserError
from gns.scene import Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import SmallScene, small_scene, write_colmap, write_nerfstudio


def read(folder: Path, images: str = "images") -> tuple[Scene, list[str]]:
    lines: list[str] = []
    return read_scene(folder, SceneOptions(images=images, eval=False), lines.append), lines


def named(small: SmallScene, *names: str) -> SmallScene:
    cameras = [replace(camera, name=name) for camera, name in zip(small.cameras, names, strict=True)]
    return replace(small, cameras=cameras)


def write_mask(path: Path, hidden_columns: int) -> npt.NDArray[np.bool_]:
    """A mask that hides the first columns; a picture that shows which one was taken."""
    counts = np.ones((30, 40), bool)
    counts[:, :hidden_columns] = False
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(counts, 255, 0).astype(np.uint8)).save(path, quality=100)
    return counts


def hidden_columns(scene: Scene) -> dict[str, int | None]:
    """By photo."""
    return {
        view.camera.name: None if view.mask is None else int((~view.mask.numpy()).all(axis=0).sum())
        for view in scene.train
    }


NAMES = [
    ("a.jpg", "masks/a.jpg.png"),
    ("a.jpg", "masks/a.png"),
    ("a.jpg", "masks/a.jpg"),
    ("a.jpg", "masks/a.jpg.mask.png"),
    ("a.jpg", "masks/a.mask.png"),
    ("a.jpg", "masks/a_mask.png"),
    ("a.jpg", "masks/a.jpg_mask.png"),
    ("a.jpg", "masks/A.PNG"),
    ("a.jpg", "masks/a.JPG.PNG"),
    ("a.jpg", "masks/a.bmp"),
    ("a.jpg", "mask/a.png"),
    ("a.jpg", "Masks/a.jpg.png"),
    ("a.jpg", "MASK/a.png"),
    ("left/a.jpg", "masks/left/a.jpg.png"),
    ("left/a.jpg", "masks/left/a.png"),
    ("left/a.jpg", "masks/a.jpg.png"),
    ("left/a.jpg", "masks/a.png"),
    ("left/a.jpg", "masks/a.mask.png"),
    ("left/a.jpg", "masks/images/left/a.png"),
]


@pytest.mark.parametrize(("photo", "mask"), NAMES)
@pytest.mark.parametrize("write", [write_colmap, write_nerfstudio])
def test_usual_names(tmp_path: Path, photo: str, mask: str, write: Callable[[Path, SmallScene], Path]) -> None:
    folder = write(tmp_path, named(small_scene(count=2), photo, "b.jpg"))
    write_mask(folder / mask, 7)
    scene, lines = read(folder)
    first, second = ("images/" * (write is write_nerfstudio) + name for name in (photo, "b.jpg"))
    assert hidden_columns(scene) == {first: 7, second: None}
    assert lines[0] == f"1 of 2 photos have no mask ({second}): all their pixels count"
    assert not any("warning" in line for line in lines)


@pytest.mark.parametrize("listed", ["{folder}/images/{name}", "../images/{name}", "/elsewhere/images/{name}", "{name}"])
@pytest.mark.parametrize("write", [write_colmap, write_nerfstudio])
@pytest.mark.parametrize("masked", [True, False])
def test_no_photo_is_its_own_mask(tmp_path: Path, listed: str, write: Callable[..., Path], masked: bool) -> None:
    """Folder / "/absolute/a.png" is the photo itself, and so was masks/../images/a.png."""
    small = small_scene(count=3)
    names = [listed.format(folder=tmp_path, name=camera.name) for camera in small.cameras]
    (tmp_path / "masks").mkdir()
    extra = {"prefix": ""} if write is write_nerfstudio else {}
    write(tmp_path, named(small, *names), photos=small, **extra)
    if masked:
        write_mask(tmp_path / "masks/01.png", 9)
    scene, _ = read(tmp_path)
    assert list(hidden_columns(scene).values()) == [None, 9 if masked else None, None]
    for view, image in zip(scene.train, small.images, strict=True):
        assert (view.image.numpy() == image).all()


@pytest.mark.parametrize("images", ["images", "masks"])
def test_photos_that_lie_among_the_masks(tmp_path: Path, images: str) -> None:
    folder = write_colmap(tmp_path, small_scene(count=3), images="masks")
    if images == "images":
        (folder / "images").symlink_to(folder / "masks", target_is_directory=True)
    write_mask(folder / "masks/01.png.png", 5)
    assert hidden_columns(read(folder, images)[0]) == {"00.png": None, "01.png": 5, "02.png": None}


def test_a_mask_path_that_is_the_photo_is_refused(tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, small_scene(count=2), {"mask_path": "images/01.png"})
    with pytest.raises(UserError, match=r"gives the photo images/01\.png itself as its mask: remove that mask_path"):
        read(folder)


@pytest.mark.parametrize("path", ["own/1.png", ".\\own\\1.png", "/home/me/scene/own/1.png", "../own/1.png"])
@pytest.mark.parametrize("place", ["", "masks"])
def test_a_mask_path_is_sought_inside_the_scene(tmp_path: Path, path: str, place: str) -> None:
    folder = write_nerfstudio(tmp_path / "scene", small_scene(count=2), {"mask_path": path})
    with pytest.raises(UserError, match=r"the mask .* of the photo images/00\.png, listed in .* does not exist"):
        read(folder)
    write_mask(tmp_path / "own/1.png", 9)
    with pytest.raises(UserError, match="does not exist"):
        read(folder)
    write_mask(folder / place / "own/1.png", 6)
    assert hidden_columns(read(folder)[0]) == {"images/00.png": 6, "images/01.png": 6}


def test_masks_that_a_frame_names_are_no_strays(tmp_path: Path) -> None:
    folder = write_nerfstudio(tmp_path, small_scene(count=2), {"mask_path": "masks/everywhere.png"})
    write_mask(folder / "masks/everywhere.png", 6)
    scene, lines = read(folder)
    assert set(hidden_columns(scene).values()) == {6} and not any("warning" in line for line in lines)


def test_a_mask_serves_one_photo(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, named(small_scene(count=2), "a.jpg", "a.png"))
    write_mask(folder / "masks/a.png", 3)
    assert hidden_columns(read(folder)[0]) == {"a.jpg": None, "a.png": 3}
    write_mask(folder / "masks/a.jpg.png", 4)
    assert hidden_columns(read(folder)[0]) == {"a.jpg": 4, "a.png": 3}


def test_a_mask_of_several_photos_is_nobodys(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "suffixes", named(small_scene(count=2), "a.jpg", "a.jpeg"))
    write_mask(folder / "masks/a.png", 3)
    scene, lines = read(folder)
    assert hidden_columns(scene) == {"a.jpg": None, "a.jpeg": None}
    assert (
        "warning: 1 of 1 masks (masks/a.png) are not used, they may belong to several photos: call the mask" in lines[1]
    )
    folder = write_colmap(tmp_path / "folders", named(small_scene(count=2), "left/a.jpg", "right/a.jpg"))
    write_mask(folder / "masks/a.png", 3)
    write_mask(folder / "masks/right/a.png", 4)
    scene, lines = read(folder)
    assert hidden_columns(scene) == {"left/a.jpg": None, "right/a.jpg": 4}
    assert "1 of 2 masks (masks/a.png) are not used, they may belong to several photos" in lines[1]


def test_folders_of_photos_in_front_of_masks_may_be_missing(tmp_path: Path) -> None:
    """Whatever the folder of the photos is called."""
    folder = write_nerfstudio(tmp_path, named(small_scene(count=3), "left/a.jpg", "right/a.jpg", "a.jpg"))
    (folder / "images").rename(folder / "frames")
    for columns, name in enumerate(["left/a.png", "right/a.jpg.png", "a.png"], start=1):
        write_mask(folder / "masks" / name, columns)
    assert hidden_columns(read(folder, "frames")[0]) == {
        "frames/left/a.jpg": 1,
        "frames/right/a.jpg": 2,
        "frames/a.jpg": 3,
    }


def test_strays_and_second_masks_are_told_of(tmp_path: Path) -> None:
    small = small_scene(count=4)
    part = SmallScene(small.cameras[:3], small.images[:3], small.points)
    folder = write_colmap(tmp_path, part, photos=small)
    for column, name in enumerate(["00.png", "00.png.png", "03.png", "x.png", "y_mask.png"], start=1):
        write_mask(folder / "masks" / name, column)
    scene, lines = read(folder)
    assert hidden_columns(scene) == {"00.png": 2, "01.png": None, "02.png": None}
    warnings = [line for line in lines if line.startswith("warning")]
    assert warnings == [
        "warning: 2 of 5 masks (masks/x.png, masks/y_mask.png) are not used, they belong to no photo: call the mask of "
        "a.jpg masks/a.jpg.png",
        "warning: 1 of 5 masks (masks/00.png) are not used, they are of photos that have another mask: keep one for "
        "each photo",
    ]
    assert "2 of 3 photos have no mask (01.png, 02.png): all their pixels count" in lines


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.jpg", "a_mask.png"])
def test_which_of_two_masks(tmp_path: Path, name: str) -> None:
    folder = write_colmap(tmp_path, named(small_scene(count=1), "a.jpg"))
    write_mask(folder / "masks/a.jpg.png", 4)
    write_mask(folder / "masks" / name, 8)
    assert hidden_columns(read(folder)[0]) == {"a.jpg": 4}
    (folder / "masks/a.jpg.png").unlink()
    write_mask(folder / "masks/a.png", 5)
    assert hidden_columns(read(folder)[0]) == {"a.jpg": 5}


def test_masks_of_a_model_in_a_sub_folder_lie_beside_its_photos(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(count=2), sparse="dense/sparse", images="dense/images")
    write_mask(folder / "dense/masks/00.png", 4)
    assert hidden_columns(read(folder)[0]) == {"00.png": 4, "01.png": None}
