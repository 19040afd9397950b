"""What is told of a scene is true of it, and each doubt is raised by what it names and by nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from gns.scene import Camera, PointCloud, Scene, View
from gns.scene.inspection import (
    as_lines,
    describe_capture,
    describe_scene,
    doubts,
    photo_sizes,
    sight,
    summary,
    unused_entries,
)
from gns.scene.readers import SceneOptions, find_reader, read_scene, split_frames
from gns.testing.scene_files import SmallScene, small_scene, write_blender, write_colmap, write_nerfstudio


def a_scene(
    count: int = 18,
    cameras: Sequence[Camera] | None = None,
    points: PointCloud | None = None,
    masks: Sequence[npt.NDArray[np.bool_] | None] | None = None,
) -> Scene:
    """An ordinary scene of 18 photos, of which three are held out."""
    small = small_scene(count=count, width=48, height=36, points=300)
    return Scene.from_arrays(
        cameras or small.cameras, small.images, points or small.points, masks, held_out=range(0, count, 8)
    )


def rows_of(folder: Path, options: SceneOptions | None = None) -> dict[str, list[str]]:
    """The rows of the whole report by label."""
    options = options or SceneOptions()
    reader = find_reader(folder)
    capture = reader.read(folder, options)
    train, test = split_frames(capture, options, folder)
    rows = describe_capture(folder, reader.looks_for, capture, train, test, photo_sizes([*train, *test]))
    scene = read_scene(folder, options, report=lambda line: None)
    rows += describe_scene(scene, own_points=capture.points is not None)
    return {label: [text for other, text in rows if other == label] for label, _ in rows}


# What is seen


def test_sight_counts_by_hand() -> None:
    pose = np.eye(4)
    ahead = Camera(10, 10, 5.0, 5.0, 5.0, 5.0, pose, "ahead")
    turned = np.diag([-1.0, 1.0, -1.0, 1.0])
    behind = Camera(10, 10, 5.0, 5.0, 5.0, 5.0, turned, "behind")
    positions = np.array([[0, 0, 2.0], [0, 0, -3.0], [2.1, 0, 2.0], [1.9, 0, 2.0], [0, 0, 0]])
    seen = sight([ahead, behind, ahead], positions)
    assert seen.counts.tolist() == [2, 1, 2]
    assert seen.times.tolist() == [2, 1, 0, 2, 0]
    assert sorted(seen.depths.tolist()) == [2, 2, 2, 2, 3]


def test_a_summary_in_one_line() -> None:
    scene = a_scene()
    line = summary(scene)
    assert line.startswith("15 photos to learn from, 3 held out; 300 points, 100 % seen by the photos at depths of ")
    assert line.endswith(f"; extent {scene.extent:.3g}")
    everything = replace(scene, train=[*scene.train, *scene.test], test=[])
    assert summary(everything).startswith("18 photos to learn from, none held out; ")


def on_axis(camera: Camera, *depths: float) -> PointCloud:
    positions = np.array([camera.center + depth * camera.rotation[2] for depth in depths])
    return PointCloud(positions, np.zeros((len(depths), 3), np.uint8))


def test_depths_are_those_of_the_points_that_are_seen() -> None:
    scene = a_scene()
    only = replace(scene, train=scene.train[:1])
    camera = only.train[0].camera
    both = replace(only, points=on_axis(camera, 3.0, 5.0, -40.0))
    assert "3 points, 66.7 % seen by the photos at depths of 3.02 to 4.98; extent" in summary(both)
    assert "1 points, 0 % seen by the photos; extent" in summary(replace(only, points=on_axis(camera, -1.0)))


# Rows


def test_rows_of_a_colmap_scene(tmp_path: Path) -> None:
    small = small_scene(count=9, width=48, height=36)
    folder = write_colmap(tmp_path, small, model="SIMPLE_RADIAL", coefficients=[-0.2])
    rows = rows_of(folder)
    assert rows["scene"] == [str(folder)]
    assert rows["format"] == ["sparse/0 or sparse (COLMAP)"]
    assert rows["photos"] == ["9 in images/, 48 × 36 pixels"]
    # 48 pixels at a focal length of 1.2 · 48, all cameras with the same numbers
    assert rows["cameras"] == ["1 SIMPLE_RADIAL for 9 photos, 45° wide, 35° high; their distortion is taken out"]
    assert rows["split"] == ["7 to learn from, 2 held out, every 8th by name: 00.png, 08.png"]
    assert rows["points"][0].startswith("60, most of them in a box of 1.")
    assert rows["masks"] == ["none"]
    assert "hidden" not in rows


def test_rows_of_photos_reduced_since_their_calibration(tmp_path: Path) -> None:
    small = small_scene(count=9, width=48, height=36)
    folder = write_colmap(tmp_path, small)
    for path in (folder / "images").iterdir():
        Image.open(path).resize((24, 18)).save(path)
    rows = rows_of(folder, SceneOptions(resolution=2))
    assert rows["photos"] == ["9 in images/, 24 × 18 pixels"]
    assert rows["cameras"] == ["1 PINHOLE for 9 photos, 45° wide, 35° high, calibrated for photos of 48 × 36 pixels"]
    assert rows["used as"] == ["12 × 9 pixels"]


def test_rows_of_other_formats(tmp_path: Path) -> None:
    rows = rows_of(write_blender(tmp_path / "blender", small_scene(count=9)))
    assert rows["format"] == ["transforms_train.json (Blender)"]
    assert rows["photos"] == ["6 in train/, 3 in test/, 40 × 30 pixels"]
    assert rows["split"][0].startswith("6 to learn from, 3 held out, as the scene has it: test/")
    assert rows["points"] == ["none: training makes its own"]
    assert "seen" not in rows  # of points that are inside the photos' views by construction
    rows = rows_of(write_nerfstudio(tmp_path / "nerfstudio", small_scene(count=9)), SceneOptions(eval=False))
    assert rows["format"] == ["transforms.json (Nerfstudio, instant-ngp)"]
    assert rows["split"] == ["all 9 to learn from, none held out"]


def test_rows_of_masks(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(count=9))
    (folder / "masks").mkdir()
    for index, hidden in enumerate((10, 20)):
        mask = np.full((30, 40), 255, np.uint8)
        mask[:, :hidden] = 0
        Image.fromarray(mask).save(folder / f"masks/0{index}.png")
    rows = rows_of(folder)
    assert rows["masks"] == ["of 2 of 9 photos"]
    assert rows["hidden"] == ["25 to 50 % of a photo by its mask, on average 38 %"]


def test_rows_of_photos_of_many_sizes_and_folders(tmp_path: Path) -> None:
    small = small_scene(count=9)
    cameras, images = [], []
    for index, camera in enumerate(small.cameras):
        width = 40 + 4 * (index % 5)
        other = small_scene(count=9, width=width, height=30)
        cameras.append(replace(other.cameras[index], name=f"{index % 5}/{camera.name}"))
        images.append(other.images[index])
    rows = rows_of(write_colmap(tmp_path, SmallScene(cameras, images, small.points)))
    folders = "2 in images/0/, 2 in images/1/, 2 in images/2/ and in 2 more folders"
    assert rows["photos"] == [f"{folders}, 40 × 30, 44 × 30, 48 × 30 and 2 more pixels"]


def test_labels_stand_in_a_column_once() -> None:
    assert as_lines([("a", "x"), ("a", "y"), ("b", "z"), ("a", "w")]) == [
        "a         x",
        "          y",
        "b         z",
        "a         w",
    ]


def test_a_photo_that_cannot_be_read_ends_no_report(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(count=9))
    (folder / "images/03.png").write_bytes(b"nothing")
    capture = find_reader(folder).read(folder, SceneOptions())
    assert photo_sizes(capture.train) == {(40, 30): 8}


def test_what_is_not_used_is_listed(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(count=9))
    for name in ("images_2", "masks", "depths", ".cache"):
        (folder / name).mkdir()
    for name in ("database.db", "transforms.json", "transforms_val.json"):
        (folder / name).touch()
    Image.new("L", (40, 30), 255).save(folder / "masks/00.png")
    frames = find_reader(folder).read(folder, SceneOptions()).train
    lists = ["transforms.json", "transforms_val.json"]
    assert unused_entries(folder, frames, [folder / "sparse"]) == ["depths/", "images_2/", *lists]
    assert unused_entries(folder, frames, folder.glob("transforms*.json")) == ["depths/", "images_2/", "sparse/"]
    assert unused_entries(folder / "sparse", frames, []) == ["0/"]


# Doubts


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, 1e7])
def test_an_ordinary_scene_raises_no_doubt_wherever_it_is(factor: float, shift: float) -> None:
    small = small_scene(count=18, width=48, height=36, points=300)
    cameras = []
    for camera in small.cameras:
        pose = camera.world_to_camera.copy()
        pose[:3, 3] = -pose[:3, :3] @ (factor * (camera.center + shift))
        cameras.append(replace(camera, world_to_camera=pose))
    points = PointCloud(factor * (small.points.positions + shift), small.points.colors)
    assert doubts(a_scene(cameras=cameras, points=points)) == []


def test_points_elsewhere_raise_one_doubt() -> None:
    """What else could be said would lead astray."""
    small = small_scene(count=18, points=300)
    elsewhere = PointCloud(small.points.positions + 1e7, small.points.colors)
    assert doubts(a_scene(points=elsewhere)) == [
        "no point is in any photo: look whether poses and points are of one reconstruction"
    ]


def test_a_photo_of_few_points_among_many_raises_no_doubt() -> None:
    """A sample of the points would miss those that it sees."""
    cameras = small_scene(count=18, width=48, height=36).cameras
    cameras[5] = turned_away(cameras[5])
    near, few = small_scene(points=60_001).points, on_axis(cameras[5], 2.0, 3.0, 4.0)
    assert len(doubts(a_scene(cameras=cameras, points=near))) == 1
    both = PointCloud(
        np.concatenate([near.positions[:1], few.positions, near.positions[1:]]),
        np.concatenate([near.colors[:1], few.colors, near.colors[1:]]),
    )
    assert doubts(a_scene(cameras=cameras, points=both)) == []


def changed(change: Callable[[Camera], Camera], index: int = 5) -> Scene:
    cameras = small_scene(count=18, width=48, height=36, points=300).cameras
    cameras[index] = change(cameras[index])
    return a_scene(cameras=cameras)


def turned_away(camera: Camera) -> Camera:
    pose = np.diag([-1.0, 1.0, -1.0, 1.0]) @ camera.world_to_camera
    return replace(camera, world_to_camera=pose)


def one_colour(scene: Scene) -> Scene:
    train = list(scene.train)
    train[2] = View(train[2].camera, torch.full_like(train[2].image, 77))
    return replace(scene, train=train)


def masked(hidden: slice) -> Scene:
    mask = np.ones((36, 48), bool)
    mask[:, hidden] = False
    return a_scene(masks=[mask if index == 3 else None for index in range(18)])


def same_place() -> Scene:
    cameras = small_scene(count=18, width=48, height=36, points=300).cameras
    moved = []
    for camera in cameras:
        pose = camera.world_to_camera.copy()
        pose[:3, 3] = 0  # at the origin, amid the points
        moved.append(replace(camera, world_to_camera=pose))
    return a_scene(cameras=moved)


CLOUD = small_scene(count=18, points=300).points
CAMERAS = small_scene(count=18, width=48, height=36).cameras
CASES: dict[str, tuple[Callable[[], Scene], str]] = {
    "few photos": (lambda: a_scene(count=9), "7 photos are few to learn a scene from"),
    "one colour": (lambda: one_colour(a_scene()), r"03\.png shows a single colour: remove it"),
    "inverted mask": (lambda: masked(slice(2, None)), r"the masks of 03\.png hide more than 90 % .* invert them"),
    "empty mask": (lambda: masked(slice(0, 0)), "the masks hide nothing"),
    "long focal length": (
        lambda: changed(lambda camera: replace(camera, fx=6 * camera.fx, fy=6 * camera.fy)),
        r"the camera of 05\.png sees 7\.94° from side to side",
    ),
    "short focal length": (
        lambda: changed(lambda camera: replace(camera, fx=2.0, fy=2.0)),
        r"the camera of 05\.png sees 170° from side to side",
    ),
    "principal point": (
        lambda: changed(lambda camera: replace(camera, cx=2.0)),
        r"the principal point of 05\.png is \(2, 16\.92\) in 48 × 36 pixels",
    ),
    "one place": (same_place, "all photos are taken from one place"),
    "the same pose": (
        lambda: changed(lambda camera: replace(camera, world_to_camera=CAMERAS[9].world_to_camera.copy())),
        r"05\.png and 09\.png have the same pose",
    ),
    "looking away": (lambda: changed(turned_away), r"no point is in 05\.png: its pose is wrong"),
    "grey points": (
        lambda: a_scene(points=PointCloud(CLOUD.positions, np.full((300, 3), 128, np.uint8))),
        r"all points have the colour \(128, 128, 128\)",
    ),
}


@pytest.mark.parametrize(("scene", "sentence"), CASES.values(), ids=CASES.keys())
def test_each_doubt_has_its_cause(scene: Callable[[], Scene], sentence: str) -> None:
    found = doubts(scene())
    assert any(re.search(sentence, line) for line in found), found
    assert len(found) == 1
