"""Splits that a scene gives itself are honoured, whatever its format."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gns.errors import UserError
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import SmallScene, opengl_pose, small_scene, write_blender, write_colmap, write_nerfstudio


def split(folder: Path, *, hold_out: bool = True) -> tuple[list[int], list[int], list[str]]:
    """Numbers of the photos that train, of those held out, and what was reported."""
    lines: list[str] = []
    scene = read_scene(folder, SceneOptions(eval=hold_out), lines.append)
    numbers = [[int(Path(view.camera.name).stem[-2:]) for view in part] for part in (scene.train, scene.test)]
    return numbers[0], numbers[1], lines


def paths(*numbers: int) -> list[str]:
    return [f"images/{number:02}.png" for number in numbers]


# --- transforms.json ---

LISTS: list[tuple[dict[str, Any], list[int], list[int]]] = [
    ({"train_filenames": paths(0, 1, 2), "test_filenames": paths(3, 5)}, [0, 1, 2], [3, 5]),
    ({"test_filenames": paths(3, 5)}, [0, 1, 2, 4], [3, 5]),
    ({"train_filenames": paths(0, 2), "test_filenames": []}, [0, 2], [1, 3, 4, 5]),
    ({"train_filenames": paths(0, 1), "val_filenames": paths(4)}, [0, 1], [4]),
    ({"train_filenames": paths(0), "val_filenames": paths(4), "test_filenames": paths(5)}, [0], [5]),
    ({"test_filenames": ["./images/03", "C:\\scene\\images\\05.png", "04.PNG"]}, [0, 1, 2], [3, 4, 5]),
    ({"train_filenames": paths(*range(6)), "test_filenames": []}, [1, 2, 3, 4, 5], [0]),
    ({"train_filenames": paths(*range(6)), "test_filenames": paths(*range(6))}, [1, 2, 3, 4, 5], [0]),
    ({"train_filenames": None, "test_filenames": None}, [1, 2, 3, 4, 5], [0]),
]


@pytest.mark.parametrize(("lists", "train", "test"), LISTS)
def test_nerfstudio_lists(tmp_path: Path, lists: dict[str, Any], train: list[int], test: list[int]) -> None:
    folder = write_nerfstudio(tmp_path, small_scene(count=6), lists)
    assert split(folder)[:2] == (train, test)
    assert split(folder, hold_out=False)[:2] == (
        sorted([*train, *test]),
        [],
    )


def test_photos_in_no_list_are_told_of(tmp_path: Path) -> None:
    lists = {"train_filenames": paths(0, 1, 9), "val_filenames": paths(2), "test_filenames": paths(3, 5)}
    _, _, lines = split(write_nerfstudio(tmp_path, small_scene(count=6), lists))
    assert lines[0] == "2 photos are in neither part of the split and not used (images/02.png, images/04.png)"
    assert lines[1] == "split of transforms.json (train_filenames) and test_filenames: 2 photos to train on, 2 held out"
    assert lines[2] == (
        "warning: transforms.json (train_filenames) names 1 photos that the scene does not have (images/09.png)"
    )


def test_a_photo_in_two_lists_is_refused(tmp_path: Path) -> None:
    lists = {"train_filenames": paths(0, 1, 2), "test_filenames": paths(2, 5)}
    sentence = (
        r"1 of the photos \(images/02\.png\) are listed both in transforms\.json \(train_filenames\) and in test_f"
    )
    with pytest.raises(UserError, match=sentence):
        split(write_nerfstudio(tmp_path, small_scene(count=6), lists))


def test_lists_that_are_no_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"transforms\.json has test_filenames that are no list of names"):
        split(write_nerfstudio(tmp_path, small_scene(count=6), {"test_filenames": [3]}))


def test_all_photos_held_out_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test_filenames holds out all 6 photos"):
        split(write_nerfstudio(tmp_path, small_scene(count=6), {"test_filenames": paths(*range(6))}))


def move_to_test_frames(folder: Path, first: int, kept: int = 0) -> Path:
    listing = folder / "transforms.json"
    content = json.loads(listing.read_text())
    content["test_frames"] = content["frames"][first:]
    content["frames"] = content["frames"][: first + kept]
    listing.write_text(json.dumps(content))
    return folder


def test_test_frames(tmp_path: Path) -> None:
    folder = move_to_test_frames(write_nerfstudio(tmp_path, small_scene(count=6)), 4)
    train, test, lines = split(folder)
    assert (train, test) == ([0, 1, 2, 3], [4, 5])
    assert lines[0] == "split of test_frames: 4 photos to train on, 2 held out"
    assert split(folder, hold_out=False)[0] == [0, 1, 2, 3, 4, 5]


def test_test_frames_that_train_too_are_refused(tmp_path: Path) -> None:
    folder = move_to_test_frames(write_nerfstudio(tmp_path, small_scene(count=6)), 4, kept=1)
    with pytest.raises(
        UserError, match=r"1 of the photos \(images/04\.png\) are listed both in .* its test_frames: rem"
    ):
        split(folder)


# --- lists of names ---

FILES: list[tuple[dict[str, str], list[int], list[int]]] = [
    ({"test_list.txt": "03.png\n05.png\n"}, [0, 1, 2, 4], [3, 5]),
    ({"train_list.txt": "00.png\n01.png\n", "test_list.txt": "03.png\n05.png\n"}, [0, 1], [3, 5]),
    ({"train_list.txt": "00.png\n01.png\n"}, [0, 1], [2, 3, 4, 5]),
    ({"test.txt": "03.png\n\n05.png"}, [0, 1, 2, 4], [3, 5]),
    ({"sparse/0/test.txt": "03.png\r\n05.png\r\n"}, [0, 1, 2, 4], [3, 5]),
    ({"sparse/0/test.txt": "\ufeffimages/03\n# the door\n/data/scene/images/05.PNG"}, [0, 1, 2, 4], [3, 5]),
    ({"test.txt": ""}, [1, 2, 3, 4, 5], [0]),
    ({"test.txt": "shopping: milk, eggs\n"}, [1, 2, 3, 4, 5], [0]),
]


@pytest.mark.parametrize(("files", "train", "test"), FILES)
@pytest.mark.parametrize("write", [write_colmap, write_nerfstudio])
def test_lists_of_names(
    tmp_path: Path, files: dict[str, str], train: list[int], test: list[int], write: Callable[[Path, SmallScene], Path]
) -> None:
    folder = write(tmp_path, small_scene(count=6))
    for name, content in files.items():
        path = folder / (name if write is write_colmap else Path(name).name)
        path.write_text(content, encoding="utf-8")
    found_train, found_test, lines = split(folder)
    assert (found_train, found_test) == (train, test)
    assert any("split of " in line for line in lines) == (test != [0])
    assert any(line.startswith("warning: ") for line in lines) == any("shopping" in text for text in files.values())


def test_photos_in_sub_folders_are_held_out_by_their_whole_names(tmp_path: Path) -> None:
    small = small_scene(count=4)
    names = ["left/00.png", "left/01.png", "right/02.png", "right/03.png"]
    cameras = [replace(camera, name=name) for camera, name in zip(small.cameras, names, strict=True)]
    folder = write_colmap(tmp_path, replace(small, cameras=cameras))
    (folder / "test_list.txt").write_text("right/02.png\n01.png\nleft/03.png\n")
    train, test, lines = split(folder)
    assert (train, test) == ([0, 3], [1, 2])
    assert any("names 1 photos that the scene does not have (left/03.png)" in line for line in lines)


# --- transforms_train.json and its companions ---


def transforms(small: SmallScene, chosen: range, folder: str, **common: Any) -> str:
    """A transforms file of some of the cameras, with photos in `folder`."""
    camera = small.cameras[0]
    intrinsics = {"w": camera.width, "h": camera.height, "fl_x": camera.fx, "cx": camera.cx, "cy": camera.cy}
    frames = [
        {"file_path": f"{folder}/{small.cameras[index].name}", "transform_matrix": opengl_pose(small.cameras[index])}
        for index in chosen
    ]
    return json.dumps({**intrinsics, **common, "frames": frames})


def write_parts(tmp_path: Path, small: SmallScene, **parts: range) -> Path:
    """A scene of transforms_PART.json files beside the transforms.json of all photos, with points."""
    folder = write_nerfstudio(tmp_path, small)
    for part, chosen in parts.items():
        (folder / f"transforms_{part}.json").write_text(transforms(small, chosen, "images"))
    return folder


def test_a_larger_transforms_file_is_read_with_the_split_of_the_others(tmp_path: Path) -> None:
    small = small_scene(count=10)
    folder = write_parts(tmp_path, small, train=range(8))
    lines: list[str] = []
    scene = read_scene(folder, SceneOptions(), lines.append)
    assert [view.camera.name for view in scene.train] == paths(*range(8))
    assert [view.camera.name for view in scene.test] == paths(8, 9)
    assert len(scene.points.positions) == len(small.points.positions)
    assert lines[0] == (
        "transforms.json is read, which lists 10 photos and points, against 8 and none of the files of the split"
    )


@pytest.mark.parametrize(
    ("parts", "train", "test"),
    [
        ({"train": range(8), "test": range(8, 10)}, range(8), range(8, 10)),
        ({"train": range(7), "test": range(8, 10)}, range(7), range(8, 10)),
        ({"train": range(7), "val": range(7, 10)}, range(7), range(7, 10)),
        ({"train": range(7), "val": range(7, 8), "test": range(8, 10)}, range(7), range(8, 10)),
        ({"train": range(10)}, range(1, 10), range(1)),
    ],
)
def test_points_of_a_transforms_file_beside(tmp_path: Path, parts: dict[str, range], train: range, test: range) -> None:
    small = small_scene(count=10)
    folder = write_parts(tmp_path, small, **parts)
    scene = read_scene(folder, SceneOptions(), lambda line: None)
    held_out = [0, 8] if parts == {"train": range(10)} else list(test)
    assert [view.camera.name for view in scene.test] == paths(*held_out)
    assert [view.camera.name for view in scene.train] == paths(*(i for i in train if i not in held_out))
    assert (scene.points.colors == small.points.colors).all()


@pytest.mark.parametrize(("count", "is_read"), [(8, True), (10, False)])
def test_a_transforms_file_without_points_is_read_for_more_photos(tmp_path: Path, count: int, is_read: bool) -> None:
    folder = write_nerfstudio(tmp_path, small_scene(count=10), points=None)
    (folder / "transforms_train.json").write_text(transforms(small_scene(count=10), range(count), "images"))
    train, test, lines = split(folder)
    assert (train, test) == ((list(range(8)), [8, 9]) if is_read else ([1, 2, 3, 4, 5, 6, 7, 9], [0, 8]))
    assert lines[0].startswith("transforms.json is read, which lists 10 photos and no points") == is_read


def test_a_transforms_file_of_other_photos_is_told_of(tmp_path: Path) -> None:
    small = small_scene(count=10)
    folder = write_parts(tmp_path, small, train=range(6))
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"] = content["frames"][3:]
    (folder / "transforms.json").write_text(json.dumps(content))
    train, test, lines = split(folder)
    assert (train, test) == ([1, 2, 3, 4, 5], [0])
    assert lines[0] == "transforms.json lists 4 other photos, which are not used: it lacks some of these"
    (folder / "transforms.json").write_text("{")
    train, test, lines = split(folder)
    assert (train, test) == ([1, 2, 3, 4, 5], [0])
    assert lines[0].startswith("warning: transforms.json beside transforms_train.json is not used: ")


@pytest.mark.parametrize("content", ["empty", "copy"])
def test_a_test_file_of_nothing_new(tmp_path: Path, content: str) -> None:
    folder = write_blender(tmp_path, small_scene(count=12), test_count=2)
    copied = (folder / "transforms_train.json").read_text()
    (folder / "transforms_test.json").write_text(copied if content == "copy" else '{"frames": []}')
    train, test, lines = split(folder)
    assert (train, test) == ([1, 2, 3, 4, 5, 6, 7, 9], [0, 8])
    expected = {"empty": "lists no photos", "copy": "lists the same photos as transforms_train.json and is not used"}
    assert lines[0] == f"transforms_test.json {expected[content]}"


def test_the_validation_set_stands_in_for_a_missing_test_set(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, small_scene(count=6), test_count=2)
    (folder / "transforms_test.json").rename(folder / "transforms_val.json")
    assert split(folder)[:2] == ([0, 1, 2, 3], [4, 5])
    (folder / "transforms_test.json").write_text('{"frames": []}')
    assert split(folder)[:2] == ([0, 1, 2, 3], [4, 5])


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_test_file_beside_a_transforms_file(tmp_path: Path, part: str) -> None:
    folder = write_parts(tmp_path, small_scene(count=6), **{part: range(3, 5)})
    assert split(folder)[:2] == ([0, 1, 2, 5], [3, 4])


def test_a_validation_set_beside_a_test_set_is_told_of(tmp_path: Path) -> None:
    folder = write_blender(tmp_path, small_scene(count=6), test_count=2)
    content = json.loads((folder / "transforms_test.json").read_text())
    content["frames"][0]["file_path"] = "./val/nowhere"
    (folder / "transforms_val.json").write_text(json.dumps(content))
    train, test, lines = split(folder)
    assert (train, test) == ([0, 1, 2, 3], [4, 5])
    assert lines[0] == "transforms_val.json lists 2 photos, which neither train nor are scored"
