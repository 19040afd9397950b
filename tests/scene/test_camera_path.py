"""Paths of a filming camera."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gns.errors import UserError
from gns.scene import Camera
from gns.scene.camera_path import filming, fitted_path, path_through, read_key_cameras
from gns.testing.tiny import cameras_on_an_arc

RING = 24


def ring() -> list[Camera]:
    """Cameras all round the origin, which they look at, off-centre principal points."""
    cameras = cameras_on_an_arc(RING, 40, 30, arc=2 * math.pi * (RING - 1) / RING)
    return [replace(camera, cx=22.5) for camera in cameras]


def outward() -> list[Camera]:
    """The same places, looking outwards."""
    turned = np.diag([-1.0, 1.0, -1.0, 1.0])
    return [replace(camera, world_to_camera=turned @ camera.world_to_camera) for camera in ring()]


@pytest.mark.parametrize("kind", ["ellipse", "spline"])
def test_a_fitted_path_begins_at_a_training_camera(kind: str) -> None:
    first = fitted_path(kind, ring(), 60)[0]
    off = [np.abs(camera.world_to_camera - first.world_to_camera).max() for camera in ring()]
    assert min(off) < 1e-6
    assert (first.cx, first.fx) == (22.5, ring()[0].fx)


def test_an_ellipse_goes_round_the_ring_and_looks_at_its_middle() -> None:
    path = fitted_path("ellipse", ring(), 90)
    centers = np.stack([camera.center for camera in path])
    np.testing.assert_allclose(np.linalg.norm(centers, axis=1), 4.0, rtol=0.01)
    for camera in path:
        pixels, depths, inside = camera.project(np.zeros((1, 3)))
        assert inside[0] and depths[0] > 0 and np.abs(pixels[0] - [camera.cx, camera.cy]).max() < 0.5
    angles = np.unwrap(np.arctan2(centers[:, 2], centers[:, 0]))
    assert abs(angles[-1] - angles[0]) == pytest.approx(2 * math.pi * 89 / 90, rel=0.02)


def test_an_ellipse_over_a_dome_keeps_off_the_subject() -> None:
    """Cameras all over a cap of 60 degrees: the flat ellipse through their middle would come too near."""
    dome = []
    for index in range(60):
        tilt, turn = math.radians(60 * math.sqrt((index + 0.5) / 60)), 2.4 * index
        forward = -np.array([math.sin(tilt) * math.cos(turn), math.sin(tilt) * math.sin(turn), -math.cos(tilt)])
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
        pose[2, 3] = 4.0
        dome.append(replace(ring()[0], world_to_camera=pose))
    distances = [float(np.linalg.norm(camera.center)) for camera in fitted_path("ellipse", dome, 60)]
    assert min(distances) > 3.7 and max(distances) < 4.3


@pytest.mark.parametrize("kind", ["ellipse", "spline"])
def test_a_path_is_smooth_and_of_even_speed(kind: str) -> None:
    path = fitted_path(kind, ring(), 120)
    centers = np.stack([camera.center for camera in path])
    steps = np.linalg.norm(np.diff(centers, axis=0), axis=1)
    assert steps.max() < 1.3 * np.median(steps)
    turns = [np.abs(b.rotation - a.rotation).max() for a, b in pairwise(path)]
    assert max(turns) < 0.15
    for camera in path:
        np.testing.assert_allclose(camera.rotation @ camera.rotation.T, np.eye(3), atol=1e-9)
        assert np.linalg.det(camera.rotation) > 0


def test_a_spline_stays_among_the_cameras_whatever_their_order() -> None:
    shuffled = [ring()[index] for index in np.random.default_rng(3).permutation(RING)]
    path = fitted_path("spline", shuffled, 200)
    centers = np.stack([camera.center for camera in path])
    assert np.linalg.norm(centers, axis=1).min() > 3.4  # through the middle it would be 0
    covered = {int(np.linalg.norm(centers - camera.center, axis=1).argmin()) // 10 for camera in ring()}
    assert len(covered) > 12, "most of the ring should be visited"


def test_an_ellipse_round_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="--path spline"):
        fitted_path("ellipse", outward(), 10)
    assert len(fitted_path("spline", outward(), 10)) == 10


def test_one_camera_is_path_enough() -> None:
    only = ring()[3]
    for camera in (*fitted_path("spline", [only], 4), *path_through([only], 4)):
        np.testing.assert_allclose(camera.world_to_camera, only.world_to_camera, atol=1e-12)


def test_a_path_through_keys_passes_all_of_them() -> None:
    keys = ring()[:5]
    path = path_through(keys, 4 * 10 + 1)
    for key, camera in zip(keys, path[::10], strict=True):
        np.testing.assert_allclose(camera.world_to_camera, key.world_to_camera, atol=1e-9)
    middle = path[5].center
    assert np.linalg.norm(middle) == pytest.approx(4.0, rel=0.01)  # a straight line would cut the corner


def test_keys_are_read_as_3dgs_writes_them(tmp_path: Path) -> None:
    keys = ring()[:3]
    records = [
        {
            "id": index,
            "img_name": camera.name,
            "width": camera.width,
            "height": camera.height,
            "position": camera.center.tolist(),
            "rotation": camera.rotation.T.tolist(),
            "fx": camera.fx,
            "fy": camera.fy,
        }
        for index, camera in enumerate(keys)
    ]
    file = tmp_path / "cameras.json"
    file.write_text(json.dumps(records))
    for read, key in zip(read_key_cameras(file), keys, strict=True):
        np.testing.assert_allclose(read.world_to_camera, key.world_to_camera, atol=1e-12)
        assert (read.width, read.height, read.fx) == (key.width, key.height, key.fx)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "no list of cameras"),
        ("{}", "no list of cameras"),
        ("[{}]", "camera 0"),
        ("[", "no JSON"),
        (
            '[{"width": 4, "height": 4, "fx": 1, "fy": 1, "position": [0, 0, 0], '
            '"rotation": [[2, 0, 0], [0, 1, 0], [0, 0, 1]]}]',
            "its rotation is none",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_key_cameras(tmp_path / "keys.json")
    with pytest.raises(UserError, match="cannot read"):
        read_key_cameras(tmp_path / "none.json")


def test_filming_in_the_photos_proportions_is_the_photo_enlarged() -> None:
    camera = ring()[0]
    film = filming(camera, (400, 300))
    enlarged = camera.resized(400, 300)
    assert (film.fx, film.fy, film.cx, film.cy) == pytest.approx((enlarged.fx, enlarged.fy, enlarged.cx, enlarged.cy))


def test_filming_in_other_proportions_keeps_pixels_square_and_the_area() -> None:
    camera = ring()[0]
    film = filming(camera, (1920, 1080))
    assert film.fx / camera.fx == pytest.approx(film.fy / camera.fy)
    assert 1920 / film.fx * 1080 / film.fy == pytest.approx(40 / camera.fx * 30 / camera.fy)
