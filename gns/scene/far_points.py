"""Points far away, to start from where photos show what no point explains: sky, mostly.

Structure from motion finds no points in a sky, and few on a smooth wall. A model then has to fill it with descendants
of what lies near, which cost Gaussians. Points on a distant sphere are a better start, by what docs/LOG.md measures.
(Kerbl et al. 2024, "A Hierarchical 3D Gaussian Representation", put a sphere of 100,000 behind a scene; here there are
some only where photos leave room, and selection takes those that nothing needs.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from gns.scene.camera import Camera
from gns.scene.layout import stray_cameras
from gns.scene.points import PointCloud
from gns.scene.view import View

# Over the whole sphere: 2.3 degrees from one to the next. Three times as many were no better (docs/LOG.md).
DIRECTIONS = 8_000
DISTANCE = 10.0  # of the sphere, in scene extents, at least
BEYOND = 1.5  # times the distance that a hundredth of the points exceed, at least
FARTHEST = 100.0  # in scene extents: those points may be wrong
PHOTOS = 100  # to look at, evenly from all
FEWEST_PHOTOS = 2  # that show a direction
FREE_SHARE = 0.25  # of those, at least, with nothing near it
REACH = 1 / 32  # of the picture's longer side: how far around it a point says what is there
_MAP_SIDE = 128  # pixels on which this is told


def with_far_points(points: PointCloud, views: Sequence[View], extent: float, most: int | None = None) -> PointCloud:
    """The `points` and, behind them, far ones in directions where photos show what no point explains.

    In such a direction two photos or more look, and a quarter of them or more have no point within a thirty-second of
    the picture. What a mask hides is not looked at, and what is transparent is explained: it is the background. A far
    point has the median colour of these photos there.

    Args:
        points: what is known, in the coordinates of `views`.
        views: photos to learn from, their pixels on the CPU.
        extent: of the scene, in the same units.
        most: of the far points; evenly fewer where there would be more. None: as many as there are.

    Returns:
        `points` itself where there is nothing to add. The same arguments give the same result.
    """
    centers = np.stack([view.camera.center for view in views])
    stray = stray_cameras(centers)  # their photos show something else
    centre = centers[~stray].mean(axis=0)
    views = [view for view, is_stray in zip(views, stray, strict=True) if not is_stray]
    distances = np.linalg.norm(points.positions - centre, axis=1)
    reached = float(np.quantile(distances, 0.99)) if len(distances) else 0.0
    radius = min(max(DISTANCE * extent, BEYOND * reached), FARTHEST * extent)
    sphere = centre + radius * _directions(DIRECTIONS)
    looked, free = np.zeros(DIRECTIONS, np.int64), np.zeros(DIRECTIONS, np.int64)
    rows, colors = [], []
    for view in views[:: math.ceil(len(views) / PHOTOS)]:
        shown, unexplained, seen = _look(view.decoded(), points, sphere)
        looked[shown] += 1
        free[unexplained] += 1
        rows.append(unexplained)
        colors.append(seen)
    kept = np.flatnonzero((looked >= FEWEST_PHOTOS) & (free >= FREE_SHARE * looked))
    if most is not None and len(kept) > most:
        kept = kept[np.linspace(0, len(kept) - 1, most).astype(np.int64)]
    if not len(kept):
        return points
    return PointCloud(
        np.concatenate([points.positions, sphere[kept]]),
        np.concatenate([points.colors, _medians(kept, np.concatenate(rows), np.concatenate(colors))]),
    )


def _directions(count: int) -> npt.NDArray[np.float64]:
    """Unit vectors evenly over the sphere, [count, 3]: a Fibonacci lattice."""
    index = np.arange(count) + 0.5
    turn, z = math.pi * (1 + math.sqrt(5)) * index, 1 - 2 * index / count
    ring = np.sqrt(1 - z * z)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), z], axis=1)


def _look(
    view: View, points: PointCloud, sphere: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """The rows of `sphere` that the photo shows, those of them that no point explains [K], and their colours [K, 3]."""
    camera = view.camera
    explained = _explained(camera, points)
    height, width = explained.shape
    pixels, _, inside = camera.project(sphere)
    rows = np.flatnonzero(inside)
    columns, lines = pixels[rows].astype(np.int64).T
    if view.mask is not None:
        counts = view.mask.numpy()[lines, columns]
        rows, columns, lines = rows[counts], columns[counts], lines[counts]
    x, y = columns * width // camera.width, lines * height // camera.height
    is_free = ~explained[y, x]
    if view.alpha is not None:
        is_free &= view.alpha.numpy()[lines, columns] > 0
    photo = cv2.resize(view.image.numpy(), (width, height), interpolation=cv2.INTER_AREA)
    return rows, rows[is_free], photo[y, x][is_free]


def _explained(camera: Camera, points: PointCloud) -> npt.NDArray[np.bool_]:
    """Where a point is near in the picture, on a map of it whose longer side has _MAP_SIDE pixels at most."""
    shrink = min(1.0, _MAP_SIDE / max(camera.width, camera.height))
    width, height = max(1, round(shrink * camera.width)), max(1, round(shrink * camera.height))
    pixels, _, inside = camera.project(points.positions)
    columns, lines = pixels[inside].astype(np.int64).T
    hit = np.zeros((height, width), np.uint8)
    hit[lines * height // camera.height, columns * width // camera.width] = 1
    reach = max(1, round(REACH * max(width, height)))
    return cv2.dilate(hit, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)) > 0


def _medians(
    kept: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], colors: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """For each of the `kept` rows the median, by channel, of the `colors` [K, 3] that belong to it by `rows` [K]."""
    order = np.argsort(rows, kind="stable")
    rows, colors = rows[order], colors[order]
    first, last = np.searchsorted(rows, kept, side="left"), np.searchsorted(rows, kept, side="right")
    medians = [np.median(colors[start:end], axis=0) for start, end in zip(first, last, strict=True)]
    return np.asarray(np.round(medians), np.uint8)
