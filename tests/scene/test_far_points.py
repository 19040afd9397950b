"""Points far away are put where photos show what no point explains, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gns.scene import Camera, PointCloud, View
from gns.scene.far_points import with_far_points
from gns.testing.tiny import cameras_on_an_arc

WIDTH, HEIGHT, EXTENT = 64, 48, 1.5
SKY, GROUND = (40, 90, 200), (90, 80, 70)


def grey(positions: np.ndarray) -> PointCloud:
    return PointCloud(positions, np.full((len(positions), 3), 128, np.uint8))


def in_a_box(low: tuple[float, float, float], high: tuple[float, float, float], count: int = 10_000) -> np.ndarray:
    return np.random.default_rng(0).uniform(low, high, (count, 3))


def outdoors(camera: Camera, sky: tuple[int, int, int] = SKY) -> View:
    """Sky in the upper half of the photo."""
    image = torch.empty(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    image[: HEIGHT // 2], image[HEIGHT // 2 :] = torch.tensor(sky), torch.tensor(GROUND)
    return View(camera, image)


@pytest.fixture(scope="module")
def views() -> list[View]:
    return [outdoors(camera) for camera in cameras_on_an_arc(5, WIDTH, HEIGHT)]


@pytest.fixture(scope="module")
def ground() -> PointCloud:
    """Fills the lower half of each photo."""
    return grey(in_a_box((-4, 0, -1), (4, 3, 1)))


def far_ones(found: PointCloud, known: PointCloud) -> PointCloud:
    """Those behind the `known` ones, which must be as they were."""
    count = len(known.positions)
    np.testing.assert_array_equal(found.positions[:count], known.positions)
    np.testing.assert_array_equal(found.colors[:count], known.colors)
    return PointCloud(found.positions[count:], found.colors[count:])


def middle(views: list[View]) -> np.ndarray:
    centre: np.ndarray = np.mean([view.camera.center for view in views], axis=0)
    return centre


def test_they_fill_the_sky_with_its_colour(views: list[View], ground: PointCloud) -> None:
    far = far_ones(with_far_points(ground, views, EXTENT), ground)
    assert (far.colors == SKY).all()
    np.testing.assert_allclose(np.linalg.norm(far.positions - middle(views), axis=1), 10 * EXTENT)
    for view in views:
        pixels, _, inside = view.camera.project(far.positions)
        assert (pixels[inside, 1] < HEIGHT / 2).all(), "the ground has points"
    pixels, _, inside = views[2].camera.project(far.positions)  # others look where no second photo does
    assert np.diff(np.sort(pixels[inside, 0]), prepend=0, append=WIDTH).max() < 5, "from one side to the other"
    # Its sky, without what lies next to the ground, is 53 × 19 degrees, in which lattice points are 2.3 apart.
    assert 150 < inside.sum() < 210


@pytest.mark.parametrize(("farthest", "radius"), [(5.0, 10.0), (40.0, 60.0), (1e6, 100.0)])
def test_they_lie_behind_what_is_known_within_reason(
    views: list[View], ground: PointCloud, farthest: float, radius: float
) -> None:
    """One point in fifty is at `farthest` extents; where one cannot be that far, the sphere does not follow it."""
    strays = middle(views) + farthest * EXTENT * np.tile([[0.0, 1.0, 0.0]], (len(ground.positions) // 49, 1))
    known = grey(np.concatenate([ground.positions, strays]))
    far = far_ones(with_far_points(known, views, EXTENT), known)
    assert len(far.positions)
    np.testing.assert_allclose(np.linalg.norm(far.positions - middle(views), axis=1), radius * EXTENT)


def test_there_are_none_where_points_are_everywhere(views: list[View]) -> None:
    points = grey(in_a_box((-4, -3, -1), (4, 3, 1)))
    assert with_far_points(points, views, EXTENT) is points


def test_what_is_masked_or_transparent_asks_for_none(views: list[View], ground: PointCloud) -> None:
    lower = torch.arange(HEIGHT)[:, None].expand(HEIGHT, WIDTH) >= HEIGHT // 2
    masked = [replace(view, mask=lower) for view in views]
    transparent = [replace(view, alpha=255 * lower.to(torch.uint8)) for view in views]
    assert with_far_points(ground, masked, EXTENT) is with_far_points(ground, transparent, EXTENT) is ground
    plain = with_far_points(ground, views, EXTENT).positions
    everywhere = torch.ones_like(lower)
    for mask, alpha in ((everywhere, None), (None, 255 * everywhere.to(torch.uint8))):
        same = with_far_points(ground, [replace(view, mask=mask, alpha=alpha) for view in views], EXTENT)
        np.testing.assert_array_equal(same.positions, plain)


def test_a_camera_with_a_wrong_pose_changes_nothing(ground: PointCloud) -> None:
    views = [outdoors(camera) for camera in cameras_on_an_arc(11, WIDTH, HEIGHT)]
    pose = np.eye(4)
    pose[:3, 3] = 0.0, 0.0, 1e5
    lost = outdoors(replace(views[0].camera, world_to_camera=pose), (0, 0, 0))
    with_it, without = (with_far_points(ground, all_of_them, EXTENT) for all_of_them in ([*views, lost], views))
    np.testing.assert_array_equal(with_it.positions, without.positions)
    np.testing.assert_array_equal(with_it.colors, without.colors)


def test_one_photo_is_not_enough(views: list[View], ground: PointCloud) -> None:
    assert with_far_points(ground, views[:1], EXTENT) is ground
    assert len(with_far_points(ground, views[:1] * 2, EXTENT).positions) > len(ground.positions)


@pytest.mark.parametrize(("hidden", "found"), [(0, True), (6, True), (7, False), (8, False)])
def test_a_quarter_of_the_photos_has_to_see_past_all_points(hidden: int, found: bool) -> None:
    """Eight cameras side by side look one way, and a wall of points stands before some of them."""
    views = []
    for index in range(8):
        pose = np.eye(4)
        pose[0, 3] = -100.0 * index
        views.append(outdoors(Camera(WIDTH, HEIGHT, WIDTH, WIDTH, WIDTH / 2, HEIGHT / 2, pose, f"{index}.png")))
    walls = [in_a_box((100.0 * index - 2, -2, 2), (100.0 * index + 2, 2, 2.5)) for index in range(hidden)]
    points = grey(np.concatenate([[[0.0, 0.0, -1.0]], *walls]))  # the first is behind all of them
    # So far away that all of them look at the same directions.
    assert (with_far_points(points, views, 1e7) is not points) == found


def test_a_colour_is_the_median_of_the_photos(ground: PointCloud) -> None:
    camera = cameras_on_an_arc(1, WIDTH, HEIGHT)[0]
    views = [outdoors(camera, (level, 2 * level, 100)) for level in (10, 70, 20)]
    far = far_ones(with_far_points(ground, views, EXTENT), ground)
    assert len(far.colors) and (far.colors == (20, 40, 100)).all()


def test_not_more_than_asked_for_and_these_all_over_the_sky(views: list[View], ground: PointCloud) -> None:
    far = far_ones(with_far_points(ground, views, EXTENT, most=20), ground)
    assert len(far.positions) == 20
    spread = far.positions.std(axis=0) / with_far_points(ground, views, EXTENT).positions[10_000:].std(axis=0)
    assert (spread > 0.7).all()
    assert with_far_points(ground, views, EXTENT, most=0) is ground
    many = far_ones(with_far_points(ground, views, EXTENT, most=10**6), ground)
    np.testing.assert_array_equal(many.positions, far_ones(with_far_points(ground, views, EXTENT), ground).positions)


def test_of_many_photos_some_are_looked_at_from_first_to_last(ground: PointCloud) -> None:
    """From one camera, whose sky gets darker: the median is that of all photos."""
    camera = cameras_on_an_arc(1, WIDTH, HEIGHT)[0]
    views = [outdoors(camera, (200 - index // 2, 90, 40)) for index in range(301)]
    far = far_ones(with_far_points(ground, views, EXTENT), ground)
    assert len(far.colors) and np.abs(far.colors[:, 0].astype(int) - 125).max() <= 1
