"""Nearest neighbours of points."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

_FARTHEST = 1e18  # × the typical distance from the middle: squares of more overflow in float32


def nearest_squared_distances(points: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Squared distances of each point [P, 3] to its `count` nearest others, ascending, [P, min(count, P − 1)].

    Exact: OpenCV's single k-d tree (FLANN algorithm 4), every leaf visited that may matter; about two seconds for a
    million points. Neighbours are found in float32, hence relative to the points' middle and in a unit of their own,
    and measured in float64. Points that are finite but so far away that float32 has no squares for them are compared
    with all others, which is meant for a few.
    """
    neighbours = min(count, len(points) - 1)
    if neighbours < 1:
        return np.zeros((len(points), 0))
    centred = points - np.median(points, axis=0)
    unit = np.median(np.abs(centred).max(axis=1))
    if unit > 0:
        centred /= 2.0 ** np.round(np.log2(unit))  # a power of two leaves the digits as they are
    far = np.abs(centred).max(axis=1) > _FARTHEST
    if (~far).sum() <= neighbours:
        far[:] = True
    distances = np.empty((len(points), neighbours))
    distances[~far] = _by_tree(centred, ~far, neighbours, points)
    distances[far] = _by_comparison(points, far, neighbours)
    return distances


def _by_tree(
    centred: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_], neighbours: int, points: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Squared distances [K, neighbours] of the K `chosen` points to each other; `centred` is what float32 can hold."""
    if not chosen.any():
        return np.empty((0, neighbours))
    chosen_points, small = points[chosen], centred[chosen].astype(np.float32)
    tree = cv2.flann.Index(small, {"algorithm": 4, "leaf_max_size": 10})
    indices, _ = tree.knnSearch(small, neighbours + 1, params={})
    distances = np.square(chosen_points[indices] - chosen_points[:, None]).sum(axis=2)
    return np.sort(distances, axis=1)[:, 1:]  # the nearest is the point itself, at 0


def _by_comparison(
    points: npt.NDArray[np.float64], chosen: npt.NDArray[np.bool_], neighbours: int
) -> npt.NDArray[np.float64]:
    """Squared distances [K, neighbours] of the K `chosen` points to all others, one after the other."""
    rows = [np.square(points - points[index]).sum(axis=1) for index in np.flatnonzero(chosen)]
    return np.array([np.sort(np.partition(row, neighbours)[: neighbours + 1])[1:] for row in rows]).reshape(
        -1, neighbours
    )
