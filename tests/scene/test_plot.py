"""The picture of a scene: which way is up, what is in it, and what it says where it cannot be drawn."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gns.errors import UserError
from gns.scene import Camera, PointCloud
from gns.scene.plot import check_plot, draw_scene, shown_box, viewing_axes
from gns.testing.scene_files import small_scene

Floats = npt.NDArray[np.float64]

needs_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib")


def moved(cameras: list[Camera], turn: Floats, shift: Floats) -> list[Camera]:
    """The cameras in a world that is turned and shifted: X' = turn X + shift."""
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = turn, shift
    return [replace(camera, world_to_camera=camera.world_to_camera @ np.linalg.inv(world)) for camera in cameras]


def turn(seed: int) -> Floats:
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return np.asarray(rotation * np.linalg.det(rotation))


@pytest.mark.parametrize("seed", range(4))
def test_up_is_that_of_the_cameras_whatever_the_axes(seed: int) -> None:
    """On an arc round the origin, seen a little from above, with y downwards."""
    cameras = small_scene().cameras
    rotation = turn(seed)
    axes = viewing_axes(moved(cameras, rotation, np.array([5.0, -3, 70])))
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1)
    up, right = axes[2] @ rotation, axes[0] @ rotation  # back in the scene's own axes
    assert up @ [0, -1, 0] > 0.97
    assert abs(right[0]) > 0.99  # the arc is spread along x


@pytest.mark.parametrize("seed", range(4))
def test_aerial_photos_are_seen_from_above(seed: int) -> None:
    """Straight down, each turned otherwise: their own up axes have nothing in common."""
    cameras = []
    for index in range(30):
        angle = 2 * math.pi * index / 30
        pose = np.eye(4)
        cosine, sine = math.cos(angle), math.sin(angle)
        pose[:3, :3] = np.array([[cosine, sine, 0.0], [sine, -cosine, 0.0], [0.0, 0.0, -1.0]])
        center = np.array([index % 6, 2.0 * (index // 6), 50 + 0.1 * (index % 3)])
        pose[:3, 3] = -pose[:3, :3] @ center
        cameras.append(replace(small_scene().cameras[0], world_to_camera=pose))
    rotation = turn(seed)
    axes = viewing_axes(moved(cameras, rotation, np.zeros(3)))
    assert axes[2] @ rotation @ [0, 0, 1] > 0.99


@pytest.mark.parametrize("count", [1, 2])
def test_few_cameras_have_axes_too(count: int) -> None:
    cameras = small_scene().cameras[:1] * count
    axes = viewing_axes(cameras)
    assert np.allclose(axes @ axes.T, np.eye(3), atol=1e-9)


def test_the_part_to_show_holds_all_cameras_and_most_points() -> None:
    centers = np.array([[0.0, 0, 0], [1, 0, 0], [0, 40, 0]])
    positions = np.random.default_rng(0).uniform(-2, 2, (1000, 3))
    positions[:20] = 1e6
    low, high = shown_box(centers, positions)
    assert (low < centers.min(axis=0)).all() and (high > centers.max(axis=0)).all()
    assert (np.abs(low) < 6).all() and (high < 50).all()
    inside = ((positions > low) & (positions < high)).all(axis=1)
    assert 0.9 < inside.mean() <= 0.98
    low, high = shown_box(centers[:1], np.empty((0, 3)))
    assert (high > low).all()


@needs_matplotlib
@pytest.mark.parametrize("points", [True, False])
def test_cameras_and_points_are_in_the_picture(tmp_path: Path, points: bool) -> None:
    small = small_scene()
    red = PointCloud(small.points.positions, np.tile(np.array([255, 0, 0], np.uint8), (60, 1)))
    path = tmp_path / "new folder/a.png"
    draw_scene("a scene", small.cameras[1:], small.cameras[:1], red if points else None, path)
    picture: Any = np.array(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape[1] == 1540
    halves = [picture[:, :770], picture[:, 770:]]
    for half in halves:
        colours = {tuple(colour) for colour in half.reshape(-1, 3).tolist()}
        assert ((255, 0, 0) in colours) == points
        assert any(blue > red + 60 for red, _, blue in colours)  # to learn from
        assert any(red > blue + 100 and green > 80 for red, green, blue in colours)  # held out


@needs_matplotlib
@pytest.mark.parametrize("name", ["a.svg", "a.pdf", "a.PNG", "a.jpg"])
def test_the_ending_decides_the_format(tmp_path: Path, name: str) -> None:
    small = small_scene()
    draw_scene("a scene", small.cameras, [], small.points, tmp_path / name)
    start = (tmp_path / name).read_bytes()[:5]
    assert (
        start == {"a.svg": b"<?xml", "a.pdf": b"%PDF-", "a.PNG": b"\x89PNG\r", "a.jpg": b"\xff\xd8\xff\xe0\x00"}[name]
    )


@needs_matplotlib
@pytest.mark.parametrize("name", ["a", "a.gns", "a.txt"])
def test_an_ending_of_no_picture_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"--plot .*{name} has no ending of a picture: call it a\.png"):
        check_plot(tmp_path / name)


def test_without_matplotlib_a_sentence_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name))
    with pytest.raises(UserError, match=r'^--plot needs the package matplotlib: run pip install "\.\[plot\]" in the'):
        check_plot(Path("a.png"))
