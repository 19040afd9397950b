"""How cameras stand to each other and to what they look at, without a look at the photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gns.scene.camera import Camera

STRAY_SHARE = 20  # at most one camera in so many is a stray, but one in any case
STRAY_DISTANCE = 10.0  # × the distance of the farthest other camera

# Share of the cameras that have the subject before them: 1.00 in captures of something, 0.59 and 0.54 in two of a room
# or court seen outwards, whose optical axes meet among the cameras.
LOOKS_AT_SUBJECT = 0.9


def stray_cameras(centers: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mask [V] of the few cameras that stand far away from all others, at `centers` [V, 3].

    They are farther from the median of all centres than STRAY_DISTANCE × the farthest of those that remain when one in
    STRAY_SHARE is left out. On captures of every kind that ratio was at most 1.3; a larger group far away is no
    mistake, and fewer than five cameras tell nothing.
    """
    distances = np.linalg.norm(centers - np.median(centers, axis=0), axis=1)
    if len(centers) < 5:
        return np.zeros(len(centers), bool)
    left_out = max(1, len(centers) // STRAY_SHARE)
    reach = np.sort(distances)[-1 - left_out]
    stray: npt.NDArray[np.bool_] = (distances > STRAY_DISTANCE * reach) & (reach > 0)
    return stray


def depth_range(cameras: Sequence[Camera]) -> tuple[float, float]:
    """The depths between which what the cameras look at is to be expected, in world units; positive.

    Half to twice the distance of the subject, where they look at one; else a tenth of to ten times three camera radii.
    """
    centers = np.stack([camera.center for camera in cameras])
    stray = stray_cameras(centers)
    distance = subject_distance([camera for camera, left_out in zip(cameras, stray, strict=True) if not left_out])
    if distance is not None:
        return distance / 2, 2 * distance
    radius = float(np.linalg.norm(centers[~stray] - centers[~stray].mean(axis=0), axis=1).max())
    typical = 3 * radius if radius > 0 else 1.0
    return typical / 10, 10 * typical


def subject_distance(cameras: Sequence[Camera]) -> float | None:
    """Typical distance from the cameras to what they all look at, in world units; None where there is no such thing.

    The subject is the point nearest to all optical axes in the least-squares sense, the distance the median depth at
    which the cameras see it. Axes that are parallel have none, nor have cameras of which more than a few have it
    behind them: they look outwards.
    """
    subject = subject_of(cameras)
    if subject is None:
        return None
    offsets = subject - np.stack([camera.center for camera in cameras])
    return float(np.median(np.einsum("ni,ni->n", offsets, np.stack([camera.rotation[2] for camera in cameras]))))


def subject_of(cameras: Sequence[Camera]) -> npt.NDArray[np.float64] | None:
    """The point [3] that all cameras look at, as `subject_distance` finds it; None where there is no such thing."""
    centers = np.stack([camera.center for camera in cameras])
    axes = np.stack([camera.rotation[2] for camera in cameras])
    across = np.eye(3) - axes[:, :, None] * axes[:, None, :]  # projects onto the plane across each axis
    normal = across.mean(axis=0)
    if np.linalg.eigvalsh(normal)[0] <= 1e-3:
        return None
    subject: npt.NDArray[np.float64] = np.linalg.solve(normal, np.einsum("nij,nj->i", across, centers) / len(cameras))
    depths = np.einsum("ni,ni->n", subject - centers, axes)
    return subject if (depths > 0).mean() >= LOOKS_AT_SUBJECT else None
