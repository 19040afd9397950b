"""Points from the photos alone: features matched between neighbouring photos, triangulated with the known poses.

What structure from motion does, without its hard half. SIFT features (Lowe, 2004) are matched only where the epipolar
geometry allows it, matches are joined to tracks, and each track becomes the point nearest to its rays.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from gns.scene.camera import Camera
from gns.scene.points import PointCloud
from gns.scene.view import View
from gns.utils.images import resize

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

WIDEST = 1_000  # pixels; larger photos are reduced before features are looked for
MOST_FEATURES = 2_000  # of a photo, the strongest
PARTNERS = (0, 1, 2, 4, 7, 11)  # ranks, by distance, of the photos that a photo is matched with: near and less near
LARGEST_TURN = 40.0  # degrees between the optical axes of two photos that are matched
EPIPOLAR = 2.0  # pixels from the epipolar line
LARGEST_DISTANCE = 300.0  # between matched descriptors, whose length is 512
RATIO = 0.8  # of the distances of the best and the second-best match (Lowe)
LEAST_VIEWS = 3  # of a track: two rays nearly meet for a wrong match too, as the epipolar line demands it
REPROJECTION = 2.0  # pixels
LEAST_ANGLE = 1.5  # degrees between the rays of a point


@dataclass(frozen=True, eq=False)
class Features:
    """What was found in a photo, and the camera of the photo at the size it was looked at."""

    camera: Camera
    pixels: Floats  # [K, 2]
    descriptors: npt.NDArray[np.uint8]  # [K, 128]
    colors: npt.NDArray[np.uint8]  # [K, 3]


def find_features(views: Sequence[View]) -> list[Features]:
    """The features of each photo; those that a mask hides are left out."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_find_features, views))


def triangulated_points(features: Sequence[Features]) -> PointCloud:
    """The points that the features of the photos give, perhaps none. The same photos give the same points.

    On one core a photo takes about 50 ms to find features, and as much to match them with those of others.
    """
    pairs = _pairs([found.camera for found in features])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        matches = list(pool.map(lambda pair: _match(features[pair[0]], features[pair[1]]), pairs))
    starts = np.cumsum([0, *(len(found.pixels) for found in features)])
    edges = [starts[list(pair)] + match for pair, match in zip(pairs, matches, strict=True)]
    return _triangulate(features, _tracks(np.concatenate([np.empty((0, 2), np.int64), *edges]), int(starts[-1])))


def _find_features(view: View) -> Features:
    """The strongest features of one photo."""
    view = view.decoded()
    image, camera = view.image.numpy(), view.camera
    if camera.width > WIDEST:
        camera = camera.resized(WIDEST, max(1, round(camera.height * WIDEST / camera.width)))
        image = resize(image, (camera.width, camera.height))
    mask = None
    if view.mask is not None:
        mask = resize(255 * view.mask.numpy().astype(np.uint8), (camera.width, camera.height)) // 128 * 255
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    found, descriptors = cv2.SIFT.create(nfeatures=MOST_FEATURES).detectAndCompute(grey, mask)
    if descriptors is None:
        return Features(camera, np.empty((0, 2)), np.empty((0, 128), np.uint8), np.empty((0, 3), np.uint8))
    pixels = np.array([feature.pt for feature in found], np.float64).reshape(-1, 2)
    columns, rows = pixels.round().astype(np.int64).T
    colors = image[rows.clip(0, camera.height - 1), columns.clip(0, camera.width - 1)]
    pixels += 0.5  # OpenCV's pixel centres are whole numbers
    return Features(camera, pixels, descriptors.astype(np.uint8), colors)


def _pairs(cameras: Sequence[Camera]) -> list[tuple[int, int]]:
    """The pairs of photos to match, smaller index first: neighbours that look about the same way."""
    centers = np.stack([camera.center for camera in cameras])
    axes = np.stack([camera.rotation[2] for camera in cameras])
    pairs = set[tuple[int, int]]()
    for index in range(len(cameras)):
        alike = np.flatnonzero(axes @ axes[index] > np.cos(np.radians(LARGEST_TURN)))
        alike = alike[alike != index]
        order = alike[np.argsort(np.linalg.norm(centers[alike] - centers[index], axis=1), kind="stable")]
        pairs |= {
            (min(index, other), max(index, other)) for other in order[[r for r in PARTNERS if r < len(order)]].tolist()
        }
    return sorted(pairs)


def _match(first: Features, second: Features) -> Integers:
    """Matching features [M, 2]: of those near its epipolar line each is the other's best, and clearly better than all.

    The same for the same photos, on any number of threads.
    """
    if len(first.pixels) < 2 or len(second.pixels) < 2:
        return np.empty((0, 2), np.int64)
    rows, columns = np.nonzero(_epipolar_distances(first, second) <= EPIPOLAR)
    if not len(rows):
        return np.empty((0, 2), np.int64)
    apart = first.descriptors[rows].astype(np.float32)
    apart -= second.descriptors[columns]
    distances = np.einsum("ij,ij->i", apart, apart)  # of whole numbers below 256: exact, in whatever order it is summed
    by_row = np.lexsort((distances, rows))
    starts = np.flatnonzero(np.diff(rows[by_row], prepend=-1))
    best = by_row[starts]
    of_column = np.full(len(second.pixels), np.inf)
    np.minimum.at(of_column, columns, distances)
    runner_up = np.full(len(best), np.inf)
    several = np.diff(starts, append=len(by_row)) > 1
    runner_up[several] = distances[by_row[starts[several] + 1]]
    nearest = distances[best]
    good = (nearest == of_column[columns[best]]) & (nearest < LARGEST_DISTANCE**2) & (nearest < RATIO**2 * runner_up)
    return np.stack([rows[best[good]], columns[best[good]]], axis=1)


def _epipolar_distances(first: Features, second: Features) -> npt.NDArray[np.float32]:
    """Distance in pixels of each feature of `second` from the epipolar line of each of `first`, [K, L]."""
    relative = second.camera.rotation @ first.camera.rotation.T
    x, y, z = second.camera.translation - relative @ first.camera.translation
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ relative
    inverse = [np.linalg.inv(_intrinsics(found.camera)) for found in (first, second)]
    lines = _homogeneous(first.pixels) @ (inverse[1].T @ essential @ inverse[0]).T
    lines /= np.maximum(np.linalg.norm(lines[:, :2], axis=1, keepdims=True), 1e-300)
    # Not a matrix product, which is slow for three columns.
    along, across, rest = lines.astype(np.float32).T[:, :, None]
    u, v = second.pixels.astype(np.float32).T
    distances: npt.NDArray[np.float32] = along * u
    distances += across * v
    distances += rest
    return np.abs(distances, out=distances)


def _intrinsics(camera: Camera) -> Floats:
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])


def _homogeneous(pixels: Floats) -> Floats:
    return np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)


def _tracks(edges: Integers, count: int) -> Integers:
    """The track of each of `count` features: the smallest index of a feature that matches [M, 2] connect it with."""
    label = np.arange(count)
    while True:
        lower = np.minimum(label[edges[:, 0]], label[edges[:, 1]])
        before = label.copy()
        np.minimum.at(label, edges[:, 0], lower)
        np.minimum.at(label, edges[:, 1], lower)
        label = label[label]
        if (label == before).all():
            return label


def _triangulate(features: Sequence[Features], tracks: Integers) -> PointCloud:
    """A point for each track that its photos agree on; `tracks` numbers the features of all photos."""
    views = np.repeat(np.arange(len(features)), [len(found.pixels) for found in features])
    pixels = np.concatenate([found.pixels for found in features])
    colors = np.concatenate([found.colors for found in features])
    kept = _observations_of_tracks(tracks, views)
    tracks, views, pixels, colors = tracks[kept], views[kept], pixels[kept], colors[kept]

    cameras = [found.camera for found in features]
    centers = np.stack([camera.center for camera in cameras])[views]
    rays = _rays(cameras, views, pixels)
    weights = np.ones(len(tracks))
    for _ in range(3):  # the errors count in pixels, not in units of length: nearer cameras weigh more
        _, tracks = np.unique(tracks, return_inverse=True)
        positions = _nearest_to_rays(centers, rays, weights, tracks)
        towards = positions[tracks] - centers
        depths, errors = _reprojection(cameras, views, pixels, positions[tracks])
        weights = 1 / np.maximum(np.square(towards).sum(axis=1), 1e-300)
        good = (depths > 0) & (errors < REPROJECTION)
        good &= (np.bincount(tracks, good, len(positions)) >= LEAST_VIEWS)[tracks]
        tracks, views, pixels, colors = tracks[good], views[good], pixels[good], colors[good]
        centers, rays, weights = centers[good], rays[good], weights[good]
    if not len(tracks):
        return PointCloud(np.empty((0, 3)), np.empty((0, 3), np.uint8))
    numbers, tracks = np.unique(tracks, return_inverse=True)
    positions = _nearest_to_rays(centers, rays, weights, tracks)
    wide = _widest_angles(rays, tracks, len(numbers)) > np.radians(LEAST_ANGLE)
    sums = np.stack([np.bincount(tracks, colors[:, channel], len(numbers)) for channel in range(3)], axis=1)
    means = (sums / np.bincount(tracks)[:, None]).round().astype(np.uint8)
    return PointCloud(positions[wide], means[wide])


def _observations_of_tracks(tracks: Integers, views: Integers) -> npt.NDArray[np.bool_]:
    """Which features belong to a track of enough photos; a track that meets a photo twice is left out whole."""
    pairs, times = np.unique(np.stack([tracks, views]), axis=1, return_counts=True)
    lengths = np.bincount(tracks, minlength=len(tracks))
    doubled = np.zeros(len(tracks), bool)
    doubled[pairs[0, times > 1]] = True
    kept: npt.NDArray[np.bool_] = (lengths[tracks] >= LEAST_VIEWS) & ~doubled[tracks]
    return kept


def _rays(cameras: Sequence[Camera], views: Integers, pixels: Floats) -> Floats:
    """Unit directions in the world, [O, 3], of pixels [O, 2] of the cameras `views` [O]."""
    intrinsics = np.array([[camera.fx, camera.fy, camera.cx, camera.cy] for camera in cameras])[views]
    local = np.concatenate([(pixels - intrinsics[:, 2:]) / intrinsics[:, :2], np.ones((len(pixels), 1))], axis=1)
    rotations = np.stack([camera.rotation for camera in cameras])[views]
    rays = np.einsum("oji,oj->oi", rotations, local)
    unit: Floats = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return unit


def _nearest_to_rays(centers: Floats, rays: Floats, weights: Floats, tracks: Integers) -> Floats:
    """The point of each track with the least weighted sum of squared distances to its rays, [T, 3].

    Σ w (I − r rᵀ)(x − c) = 0. Rays that are parallel have no such point, and get one that the tests refuse.
    """
    across = weights[:, None, None] * (np.eye(3) - rays[:, :, None] * rays[:, None, :])
    count = int(tracks.max(initial=-1)) + 1
    origin = centers.mean(axis=0) if len(centers) else np.zeros(3)
    normal, target = np.zeros((count, 3, 3)), np.zeros((count, 3))
    np.add.at(normal, tracks, across)
    np.add.at(target, tracks, np.einsum("oij,oj->oi", across, centers - origin))
    scale = np.trace(normal, axis1=1, axis2=2)[:, None, None]
    solution: Floats = np.linalg.solve(normal / scale + 1e-12 * np.eye(3), target[:, :, None] / scale)[:, :, 0]
    return solution + origin


def _reprojection(
    cameras: Sequence[Camera], views: Integers, pixels: Floats, positions: Floats
) -> tuple[Floats, Floats]:
    """(depth, error in pixels) of each observation, [O] each."""
    poses = np.stack([camera.world_to_camera[:3] for camera in cameras])[views]
    local = np.einsum("oij,oj->oi", poses[:, :, :3], positions) + poses[:, :, 3]
    intrinsics = np.array([[camera.fx, camera.fy, camera.cx, camera.cy] for camera in cameras])[views]
    depths = local[:, 2]
    safe = np.where(depths > 0, depths, 1.0)
    projected = local[:, :2] / safe[:, None] * intrinsics[:, :2] + intrinsics[:, 2:]
    errors: Floats = np.linalg.norm(projected - pixels, axis=1)
    return depths, errors


def _widest_angles(rays: Floats, tracks: Integers, count: int) -> Floats:
    """About the largest angle between two rays of each track, [T]: twice the largest to their mean direction."""
    means = np.zeros((count, 3))
    np.add.at(means, tracks, rays)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    apart = np.arccos(np.einsum("oi,oi->o", means[tracks], rays).clip(-1, 1))
    widest = np.zeros(count)
    np.maximum.at(widest, tracks, apart)
    return 2 * widest
