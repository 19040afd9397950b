"""Whether poses and points of a scene fit each other: what looks wrong, in sentences.

Files of the right form can hold cameras in one coordinate system and points in another. Such a scene trains without an
error to a bad picture, which nobody sees until the end. The thresholds are from the scenes of docs/LOG.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.camera import Camera
from gns.scene.layout import stray_cameras
from gns.scene.points import PointCloud
from gns.scene.view import View

Floats = npt.NDArray[np.float64]

SAMPLED_VIEWS = 16
SAMPLED_POINTS = 5_000
# What the median photo sees of the points: 69 and 80 % in real captures, less in those that are large.
ALMOST_NONE, ALMOST_NO_POINTS = 0.01, 100  # share and number below which a scene is refused
FEW = 0.05  # share below which it is doubted, or five photos' worth in a capture of many
VISIBLE = 0.3  # share that another reading of the poses must make visible
# Correlation of the grey of points with that of the pixels that show them: 0.27 and 0.64 in real captures, at most 0.11
# with the axes exchanged.
UNLIKE, ALIKE = 0.15, 0.2
LEAST_EVIDENCE = 50  # points; fewer tell nothing
FAR_POINT = 1e6  # extents from the cameras

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # from OpenGL's axes to COLMAP's and back


OTHER_CONVENTION = (
    "the cameras' y and z axes turned round: convert the matrices, which are in the other convention (a camera of "
    "transforms.json looks along −z with y up, one of COLMAP along +z with y down)"
)


def other_convention(pose: Floats) -> Floats:
    """The pose of a camera whose matrix was read with OpenGL's axes and has COLMAP's, or the other way round."""
    return _FLIP @ pose


def _inverse(pose: Floats) -> Floats:
    return np.asarray(np.linalg.inv(pose) @ _FLIP, np.float64)


def _flipped_inverse(pose: Floats) -> Floats:
    return _FLIP @ _inverse(pose)


# How poses are mistaken: how the true one follows from the one that was read, and what to say.
_MISTAKES: tuple[tuple[Callable[[Floats], Floats], str], ...] = (
    (
        other_convention,
        OTHER_CONVENTION,
    ),
    (
        _inverse,
        "the matrices inverted: give camera-to-world in transforms.json, where these are world-to-camera",
    ),
    (
        _flipped_inverse,
        "the matrices inverted and y and z turned round: give camera-to-world in transforms.json, where these are "
        "world-to-camera",
    ),
)


@dataclass(frozen=True, eq=False)
class Sight:
    """What some cameras see of some points."""

    seen: list[npt.NDArray[np.int64]]  # by camera, the points inside its picture
    pixels: list[npt.NDArray[np.int64]]  # by camera, [K, 2] column and row of each
    depths: list[Floats]  # by camera, of all points

    @property
    def median_count(self) -> float:
        """The number of points that the median camera sees."""
        return float(np.median([len(rows) for rows in self.seen]))


def look(cameras: Sequence[Camera], positions: Floats) -> Sight:
    """What `cameras` see of the points at `positions` [P, 3], with nothing hidden by anything."""
    seen, pixels, depths = [], [], []
    for camera in cameras:
        at, depth, inside = camera.project(positions)
        seen.append(np.flatnonzero(inside))
        pixels.append(at[inside].astype(np.int64))
        depths.append(depth)
    return Sight(seen, pixels, depths)


def points_within_reach(points: PointCloud, train: Sequence[View], extent: float) -> tuple[PointCloud, list[str]]:
    """The points that are not absurdly far away, and a sentence where some are."""
    middle = np.median([view.camera.center for view in train], axis=0)
    far = np.abs(points.positions - middle).max(axis=1) > FAR_POINT * extent
    if not far.any():
        return points, []
    return PointCloud(points.positions[~far], points.colors[~far]), [
        f"{far.sum():,} of {len(far):,} points lie more than a million times as far away as the cameras are apart and "
        "are left out: remove them from the reconstruction"
    ]


def check_points(points: PointCloud, train: Sequence[View]) -> list[str]:
    """What looks wrong about where the points are, in sentences. Raises UserError where almost none is seen."""
    if len(points.positions) < LEAST_EVIDENCE:
        return []
    views = [train[index] for index in np.unique(np.linspace(0, len(train) - 1, SAMPLED_VIEWS).round().astype(int))]
    thinning = -(-len(points.positions) // SAMPLED_POINTS)
    sample = PointCloud(points.positions[::thinning], points.colors[::thinning])
    sight = look([view.camera for view in views], sample.positions)
    share, count = sight.median_count / len(sample.positions), thinning * sight.median_count
    seen = f"the median photo sees {count:,.0f} of the {len(points.positions):,} points ({100 * share:.2g} %)"
    alike = _likeness(views, sight, sample)
    if share >= FEW and (alike is None or alike >= UNLIKE):
        return []
    remedy = _remedy(views, sample, alike or 0.0)
    advice = remedy or "look whether poses and points are of one reconstruction, or start without the points"
    if share < FEW and (remedy or (share < ALMOST_NONE and count < ALMOST_NO_POINTS)):
        raise UserError(f"{seen}: {_where(sight, views, sample.positions)}; {advice}")
    if alike is not None and alike < UNLIKE:
        return [f"the points are not coloured like the photos where they are seen (correlation {alike:.2f}): {advice}"]
    if share < min(FEW, 5 / len(train)):
        return [f"{seen}: {_where(sight, views, sample.positions)}; {advice}"]
    return []


def stray_named(train: Sequence[View]) -> list[str]:
    """A sentence for cameras so far from all others that something is wrong with their poses."""
    centers = np.stack([view.camera.center for view in train])
    stray = stray_cameras(centers)
    if not stray.any():
        return []
    middle = np.median(centers, axis=0)
    others = np.linalg.norm(centers[~stray] - middle, axis=1).max()
    index = int(np.flatnonzero(stray)[np.linalg.norm(centers[stray] - middle, axis=1).argmax()])
    more = f" (and {stray.sum() - 1} more)" if stray.sum() > 1 else ""
    return [
        f"the camera of {train[index].camera.name}{more} stands {np.linalg.norm(centers[index] - middle):.4g} from the "
        f"middle and all others within {others:.4g}: it does not count for the size of the scene; remove the photo if "
        "its pose is wrong"
    ]


def _where(sight: Sight, views: Sequence[View], positions: Floats) -> str:
    """Where the points lie, as seen from the cameras."""
    depths = np.concatenate(sight.depths)
    low, middle, high = np.percentile(depths, [5, 50, 95])
    centers = np.stack([view.camera.center for view in views])
    reach = np.linalg.norm(centers - np.median(centers, axis=0), axis=1).max()
    apart = np.linalg.norm(np.median(positions, axis=0) - np.median(centers, axis=0))
    return (
        f"{100 * (depths > 0).mean():.0f} % lie in front of the cameras, at depths of {low:.3g} to {high:.3g} (median "
        f"{middle:.3g}), and their middle {apart:.3g} from that of the cameras, which stand within {reach:.3g} of it"
    )


def _remedy(views: Sequence[View], points: PointCloud, alike: float) -> str | None:
    """The usual mistake that explains what is seen, if one does; `alike` is the likeness without any."""
    needed = max(ALIKE, 3 * alike)
    cameras = [view.camera for view in views]
    for corrected, sentence in _MISTAKES:
        sight = look(
            [replace(camera, world_to_camera=corrected(camera.world_to_camera)) for camera in cameras], points.positions
        )
        visible, likeness = sight.median_count / len(points.positions), _likeness(views, sight, points)
        if visible > VISIBLE and (likeness is None or likeness >= needed):
            return f"{100 * visible:.0f} % are seen with {sentence}"
    axes = None
    for order in permutations(range(3)):
        for signs in product((1.0, -1.0), repeat=3):
            turned = points.positions[:, order] * signs
            likeness = _likeness(views, look(cameras, turned), points)
            if likeness is not None and likeness >= needed:
                needed = likeness
                axes = ", ".join(
                    ("" if sign > 0 else "−") + "xyz"[axis] for axis, sign in zip(order, signs, strict=True)
                )
    return axes and f"exchange their axes, ({axes}) in place of (x, y, z), with which the colours agree"


def _likeness(views: Sequence[View], sight: Sight, points: PointCloud) -> float | None:
    """Correlation of the points' grey with the photos', of the median view; None where too few show anything."""
    found = []
    for view, rows, pixels in zip(views, sight.seen, sight.pixels, strict=True):
        if len(rows) < LEAST_EVIDENCE:
            continue
        photo = view.image.numpy()[pixels[:, 1], pixels[:, 0]].mean(axis=1)
        cloud = points.colors[rows].mean(axis=1)
        if photo.std() > 5 and cloud.std() > 5:
            found.append(float(np.corrcoef(photo, cloud)[0, 1]))
    return float(np.median(found)) if 2 * len(found) > len(views) else None
