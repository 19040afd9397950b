"""Paths for a camera that films a model: fitted to the cameras of its photos, or given as key views in a file.

A fitted path begins at one of the training cameras, and stays where photos were taken: what lies elsewhere nobody has
seen, and it looks like fog.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.camera import Camera
from gns.scene.layout import stray_cameras, subject_of
from gns.utils.untrusted_json import parse_json

Floats = npt.NDArray[np.float64]

PATHS = ("ellipse", "spline")

_LEAD = 0.12  # share of a fitted path that it takes to leave the first camera, and of a closed one to come back to it
_DENSE = 400  # points by which a path's speed is evened out
_NEAR_BY = 0.05  # by so much the cosine of the angle to a camera falls until it counts for a third: some 18 degrees
_SMOOTHING = 24  # a spline averages cameras over about one in so many of its length


def fitted_path(kind: str, cameras: Sequence[Camera], frames: int) -> list[Camera]:
    """`frames` cameras with the lens of the first along the path `kind`, one of `PATHS`.

    `ellipse`: once round, through the middle of where the cameras stand, looking at what they look at, and back to the
    start. `spline`: past all cameras, each in its direction, along a short way that visits one after the other.

    Raises UserError where an ellipse is asked for and the cameras look at no common subject.
    """
    sane = _without_strays(cameras)
    start = sane[_most_central(sane)]
    if kind == "ellipse":
        positions, rotations = _ellipse(sane, start)
    else:
        positions, rotations = _tour(sane, start)
    positions, rotations = _at_even_speed(positions, rotations, frames, closed=kind == "ellipse")
    return [_placed(start, *pose, index) for index, pose in enumerate(zip(positions, rotations, strict=True))]


def path_through(keys: Sequence[Camera], frames: int) -> list[Camera]:
    """`frames` cameras from the first of the `keys` to the last, smoothly through all of them, and their lenses."""
    if len(keys) == 1 or frames == 1:
        return [replace(keys[0], name=f"{index:05d}") for index in range(frames)]
    centers = np.stack([key.center for key in keys])
    path = []
    for index, at in enumerate(np.linspace(0, len(keys) - 1, frames)):
        left = min(int(at), len(keys) - 2)
        share = float(at - left)
        position = _catmull_rom(centers, left, share)
        rotation = _between(keys[left].rotation, keys[left + 1].rotation, share)
        path.append(_placed(_mixed_lens(keys[left], keys[left + 1], share), position, rotation, index))
    return path


def read_key_cameras(path: Path) -> list[Camera]:
    """The cameras of a `cameras.json` as 3DGS writes it: width, height, fx, fy, position and rotation of each.

    Raises UserError where the file is missing or holds something else.
    """
    try:
        entries = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}): give the cameras.json of a run, or part of it") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path} holds no list of cameras: give the cameras.json of a run, or part of it")
    return [_key_camera(entry, index, path) for index, entry in enumerate(entries)]


def filming(camera: Camera, size: tuple[int, int]) -> Camera:
    """The camera with a picture of `size` (width, height), which shows as much as its own.

    Where the proportions differ it loses at two sides what it gains at the others: the same area in all.
    """
    width, height = size
    scale = math.sqrt(width * height / (camera.width * camera.height))
    middle_x, middle_y = camera.cx - camera.width / 2, camera.cy - camera.height / 2
    return replace(
        camera,
        width=width,
        height=height,
        fx=camera.fx * scale,
        fy=camera.fy * scale,
        cx=width / 2 + middle_x * scale,
        cy=height / 2 + middle_y * scale,
    )


# ---- the two kinds ---------------------------------------------------------------------------------------------------


def _ellipse(cameras: Sequence[Camera], start: Camera) -> tuple[Floats, Floats]:
    """Positions and rotations round the ellipse that has mean and covariance of the cameras' centres, densely.

    Cameras all over a dome have an ellipse inside it: it is pushed out to as far from the subject as those near by are.
    """
    subject = subject_of(cameras)
    if subject is None:
        raise UserError("the cameras look at no common subject, so there is no ellipse round one: give --path spline")
    centers = np.stack([camera.center for camera in cameras])
    middle = centers.mean(axis=0)
    _, lengths, axes = np.linalg.svd(centers - middle, full_matrices=False)
    # A ring of radius r has a variance of r²/2 both ways.
    radii = math.sqrt(2) * lengths[:2] / math.sqrt(len(cameras))
    along = (start.center - middle) @ axes[:2].T / np.maximum(radii, 1e-12)
    phase = math.atan2(along[1], along[0])
    angles = phase + np.linspace(0, 2 * math.pi, _DENSE + 1)
    ring = middle + (np.cos(angles)[:, None] * radii[0] * axes[0]) + (np.sin(angles)[:, None] * radii[1] * axes[1])
    ring = subject + (ring - subject) * (_distances_near(ring - subject, centers - subject) / _lengths(ring - subject))
    share = _nearness_to_start(_DENSE + 1, closed=True)
    positions = ring + share[:, None] * (start.center - ring[0])
    up = -np.stack([camera.rotation[1] for camera in cameras]).mean(axis=0)
    towards = np.stack([_looking_at(position, subject, up) for position in positions])
    return positions, _turned_from(start, towards, share)


def _distances_near(directions: Floats, cameras: Floats) -> Floats:
    """How far cameras [V, 3] in about the directions [P, 3] are from the subject, the origin of both: [P, 1]."""
    cosines = (directions / _lengths(directions)) @ (cameras / _lengths(cameras)).T
    weights = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / _NEAR_BY)
    distances: Floats = weights @ _lengths(cameras) / weights.sum(axis=1, keepdims=True)
    return distances


def _lengths(vectors: Floats) -> Floats:
    lengths: Floats = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return lengths


def _tour(cameras: Sequence[Camera], start: Camera) -> tuple[Floats, Floats]:
    """Positions and rotations past all cameras, densely: an average of those near by, so that none makes it jerk."""
    order = _short_tour(cameras, cameras.index(start))
    centers = np.stack([cameras[index].center for index in order])
    rotations = np.stack([cameras[index].rotation for index in order])
    if len(order) == 1:
        return np.repeat(centers, _DENSE + 1, axis=0), np.repeat(rotations, _DENSE + 1, axis=0)
    steps = _pose_distances(centers, rotations, _reach(centers))
    at = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-9))])
    width = max(at[-1] / _SMOOTHING, float(np.median(steps)))
    places = np.linspace(0, at[-1], _DENSE + 1)
    weights = np.exp(-0.5 * ((places[:, None] - at) / width) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    mean_rotations = np.stack([_orthogonal(mean) for mean in np.einsum("pn,nij->pij", weights, rotations)])
    share = _nearness_to_start(_DENSE + 1, closed=False)
    positions = weights @ centers
    positions = positions + share[:, None] * (start.center - positions[0])
    return positions, _turned_from(start, mean_rotations, share)


def _short_tour(cameras: Sequence[Camera], first: int) -> list[int]:
    """All cameras, each once, on a short way from `first`: to the nearest next, then improved by turning stretches."""
    centers = np.stack([camera.center for camera in cameras])
    forward = np.stack([camera.rotation[2] for camera in cameras]) * _reach(centers)
    places = np.concatenate([centers, forward], axis=1)
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    order, left = [first], set(range(len(cameras))) - {first}
    while left:
        order.append(min(left, key=lambda index: (distances[order[-1], index], index)))
        left.remove(order[-1])
    improved = True
    while improved:
        improved = False
        for i in range(1, len(order) - 1):
            for j in range(i + 1, len(order)):
                before = distances[order[i - 1], order[i]]
                after = distances[order[i - 1], order[j]]
                if j + 1 < len(order):
                    before += distances[order[j], order[j + 1]]
                    after += distances[order[i], order[j + 1]]
                if after < before - 1e-9:
                    order[i : j + 1] = order[i : j + 1][::-1]
                    improved = True
    return order


# ---- poses -----------------------------------------------------------------------------------------------------------


def _without_strays(cameras: Sequence[Camera]) -> list[Camera]:
    stray = stray_cameras(np.stack([camera.center for camera in cameras]))
    return [camera for camera, left_out in zip(cameras, stray, strict=True) if not left_out]


def _most_central(cameras: Sequence[Camera]) -> int:
    """The camera nearest to the middle of all, in place and direction."""
    centers = np.stack([camera.center for camera in cameras])
    forward = np.stack([camera.rotation[2] for camera in cameras]) * _reach(centers)
    places = np.concatenate([centers, forward], axis=1)
    return int(np.linalg.norm(places - places.mean(axis=0), axis=1).argmin())


def _reach(centers: Floats) -> float:
    """How far a turn by one radian counts: typical distance of the centres from their middle."""
    return float(np.linalg.norm(centers - centers.mean(axis=0), axis=1).mean()) or 1.0


def _pose_distances(positions: Floats, rotations: Floats, reach: float) -> Floats:
    """How far it is from each pose to the next, turns included."""
    turns = np.linalg.norm(np.diff(rotations[:, 2], axis=0), axis=1) * reach
    distances: Floats = np.hypot(np.linalg.norm(np.diff(positions, axis=0), axis=1), turns)
    return distances


def _nearness_to_start(count: int, *, closed: bool) -> Floats:
    """1 where a path begins (and where a closed one ends), 0 a little later, smoothly between: [count]."""
    at = np.linspace(0, 1, count)
    distance = np.minimum(at, 1 - at) if closed else at
    share = np.clip(1 - distance / _LEAD, 0, 1)
    smooth: Floats = share * share * (3 - 2 * share)
    return smooth


def _turned_from(start: Camera, rotations: Floats, share: Floats) -> Floats:
    """`rotations` [P, 3, 3], each turned by its `share` [P] of what the first lacks to be that of `start`."""
    still, missing = np.eye(3), start.rotation @ rotations[0].T
    turned = [_between(still, missing, float(part)) @ turn for turn, part in zip(rotations, share, strict=True)]
    return np.stack(turned)


def _looking_at(position: Floats, subject: Floats, up: Floats) -> Floats:
    """World to camera, rows right, down, forward."""
    forward = subject - position
    forward = forward / max(float(np.linalg.norm(forward)), 1e-12)
    right = np.cross(forward, up)
    right = right / max(float(np.linalg.norm(right)), 1e-12)
    return np.stack([right, np.cross(forward, right), forward])


def _orthogonal(matrix: Floats) -> Floats:
    """The rotation nearest to a mean of rotations."""
    u, _, v = np.linalg.svd(matrix)
    u[:, -1] *= np.sign(np.linalg.det(u @ v))
    nearest: Floats = u @ v
    return nearest


def _between(first: Floats, second: Floats, share: float) -> Floats:
    """The rotation that lies at `share` of the shortest turn from one to the other."""
    turn = second @ first.T
    cosine = min(1.0, max(-1.0, (float(np.trace(turn)) - 1) / 2))
    angle = math.acos(cosine)
    axis = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    length = float(np.linalg.norm(axis))
    if length < 1e-9:  # the same, or half a turn, whose axis these numbers do not hold
        return first if share < 0.5 or angle < 1 else second
    x, y, z = axis / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    part = share * angle
    rotation: Floats = (np.eye(3) + math.sin(part) * cross + (1 - math.cos(part)) * cross @ cross) @ first
    return rotation


def _at_even_speed(positions: Floats, rotations: Floats, frames: int, *, closed: bool) -> tuple[Floats, Floats]:
    """`frames` poses along dense ones, as far from each other; the last of a closed path is one before the first."""
    steps = _pose_distances(positions, rotations, _reach(positions))
    at = np.concatenate([[0.0], np.cumsum(steps)])
    at = at / at[-1] if at[-1] > 0 else np.linspace(0, 1, len(at))
    wanted = np.linspace(0, 1, frames + 1)[:frames] if closed else np.linspace(0, 1, frames)
    places = np.interp(wanted, at, np.arange(len(at)))
    left = np.minimum(places.astype(int), len(at) - 2)
    share = places - left
    between = [_between(rotations[i], rotations[i + 1], float(part)) for i, part in zip(left, share, strict=True)]
    return positions[left] + share[:, None] * (positions[left + 1] - positions[left]), np.stack(between)


def _catmull_rom(points: Floats, left: int, share: float) -> Floats:
    """The curve through the points [K, 3] between number `left` and the next."""
    before, after = points[max(left - 1, 0)], points[min(left + 2, len(points) - 1)]
    first, second = points[left], points[left + 1]
    out, into = (second - before) / 2, (after - first) / 2
    t, tt, ttt = share, share**2, share**3
    curve: Floats = (
        (2 * ttt - 3 * tt + 1) * first + (ttt - 2 * tt + t) * out + (3 * tt - 2 * ttt) * second + (ttt - tt) * into
    )
    return curve


def _mixed_lens(first: Camera, second: Camera, share: float) -> Camera:
    """The first camera with a lens between both; one of another size is brought to that of the first."""
    other = second.resized(first.width, first.height)
    mixed = {
        name: (1 - share) * getattr(first, name) + share * getattr(other, name) for name in ("fx", "fy", "cx", "cy")
    }
    return replace(first, **mixed)


def _placed(camera: Camera, position: Floats, rotation: Floats, index: int) -> Camera:
    """The lens of `camera` at another place; named by its number."""
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ position
    return replace(camera, world_to_camera=pose, name=f"{index:05d}")


def _key_camera(entry: Any, index: int, path: Path) -> Camera:
    try:
        rotation = np.array(entry["rotation"], np.float64).T
        position = np.array(entry["position"], np.float64)
        width, height = int(entry["width"]), int(entry["height"])
        fx, fy = float(entry["fx"]), float(entry["fy"])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ position
        if min(width, height) < 1 or min(fx, fy) <= 0 or not np.isfinite([*pose.ravel(), fx, fy]).all():
            raise ValueError("a size or a focal length is not positive, or a number not finite")
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
            raise ValueError("its rotation is none")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"camera {index} in {path} cannot be used ({error}): it needs width, height, fx, fy, position and "
            "rotation, as the cameras.json of a run has them"
        ) from None
    return Camera(width, height, fx, fy, width / 2, height / 2, pose, name=f"{index:05d}")
