"""Three convex solids under an affine map, and rays that meet them.

A `Solid` is the unit ball, cube or cylinder (axis z), scaled by `half`, turned by `rotation` and moved to `center`.
Rays are carried into that unit space, where every intersection is elementary. The ray parameter t is the same in both
spaces, because the map is affine. Vectors are planes, [3, n], so that each component is contiguous; rays are float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Solid:
    """The unit shape under x = center + rotation · (half · q), q in unit space."""

    shape: Literal["ball", "cube", "cylinder"]
    center: Floats  # [3]
    half: Floats  # [3], half sizes along the solid's own axes
    rotation: Floats  # [3, 3], its columns are the solid's own axes in the world

    @property
    def radius(self) -> float:
        """Radius of a bounding sphere about `center`."""
        reach = {"ball": self.half.max(), "cube": np.linalg.norm(self.half)}
        side = max(self.half[0], self.half[1])
        return float(reach.get(self.shape, np.hypot(side, self.half[2])))

    def to_unit(self, points: Floats) -> Floats:
        """World points [3, n] in unit space."""
        return np.asarray((self.rotation.T @ (points - self.center[:, None])) / self.half[:, None], np.float32)

    def to_world(self, unit: Floats) -> Floats:
        """Unit-space points [3, n] in the world."""
        return np.asarray(self.rotation @ (unit * self.half[:, None]) + self.center[:, None], np.float32)

    def normals(self, unit: Floats) -> Floats:
        """Outward unit normals [3, n] in the world at surface points given in unit space."""
        flat = np.zeros_like(unit)
        if self.shape == "ball":
            flat = unit
        elif self.shape == "cube":
            axis = np.abs(unit).argmax(axis=0)
            rays = np.arange(unit.shape[1])
            flat[axis, rays] = np.sign(unit[axis, rays])
        else:
            on_cap = unit[2] ** 2 > unit[0] ** 2 + unit[1] ** 2
            flat[:2] = np.where(on_cap, 0, unit[:2])
            flat[2] = np.where(on_cap, np.sign(unit[2]), 0)
        # Normals transform with the inverse transpose of the map.
        return normalised(self.rotation @ (flat / self.half[:, None]))

    def distances(self, origins: Floats, directions: Floats) -> Floats:
        """Ray parameter t ≥ 0 of the first point inside the solid, inf where there is none, [n].

        It is 0 for a ray that starts inside: the table under a block lies in shadow.
        `origins` is [3, n], or [3, 1] where all rays share it; `directions` is [3, n] of any length.
        """
        start = self.to_unit(origins)
        slope = np.asarray((self.rotation.T @ directions) / self.half[:, None], np.float32)
        near, far = _INTERVALS[self.shape](start, slope)
        hit = (near < far) & (far > 0)
        return np.asarray(np.where(hit, np.maximum(near, 0), np.inf), np.float32)


def normalised(vectors: Floats) -> Floats:
    """Vectors [3, n] at unit length."""
    return np.asarray(vectors / np.sqrt(dot(vectors, vectors)), np.float32)


def dot(a: Floats, b: Floats) -> Floats:
    """Inner products of [3, n] (or [3, 1]) planes, [n]."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2], np.float32)


def first_hits(solids: list[Solid], origins: Floats, directions: Floats) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Distance of the nearest hit, inf where there is none, and the index of its solid, −1 where there is none; [n].

    `directions` must have unit length: rays that pass a solid's bounding sphere are left out before the exact test.
    """
    nearest = np.full(directions.shape[1], np.inf, np.float32)
    index = np.full(directions.shape[1], -1, np.intp)
    for k, solid in enumerate(solids):
        toward = solid.center[:, None] - origins
        along = dot(directions, toward)
        miss = dot(toward, toward) - along * along
        rays = np.flatnonzero(miss < solid.radius**2)
        distance = solid.distances(origins if origins.shape[1] == 1 else origins[:, rays], directions[:, rays])
        closer = distance < nearest[rays]
        nearest[rays[closer]] = distance[closer]
        index[rays[closer]] = k
    return nearest, index


def _slab_interval(start: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """Where |start + t·slope| ≤ 1 on every given axis: start and slope [axes, n] to (near, far), each [n]."""
    # A ray inside a slab's plane never leaves it: a tiny slope stands for infinity without a division by zero.
    inverse = 1 / np.where(np.abs(slope) < 1e-12, np.float32(1e-12), slope)
    low, high = (-1 - start) * inverse, (1 - start) * inverse
    return np.minimum(low, high).max(axis=0), np.maximum(low, high).min(axis=0)


def _round_interval(start: Floats, slope: Floats) -> tuple[Floats, Floats]:
    """Where |start + t·slope|² ≤ 1: a sphere for three axes, an endless cylinder for two; near > far where never."""
    a = np.maximum((slope * slope).sum(axis=0), 1e-12)
    b = (start * slope).sum(axis=0)
    c = (start * start).sum(axis=0) - 1
    discriminant = b * b - a * c
    root = np.sqrt(np.maximum(discriminant, 0))
    near = np.where(discriminant > 0, (-b - root) / a, np.float32(np.inf))
    return near, (-b + root) / a


def _cylinder_interval(start: Floats, slope: Floats) -> tuple[Floats, Floats]:
    near_side, far_side = _round_interval(start[:2], slope[:2])
    near_caps, far_caps = _slab_interval(start[2:], slope[2:])
    return np.maximum(near_side, near_caps), np.minimum(far_side, far_caps)


_INTERVALS = {"ball": _round_interval, "cube": _slab_interval, "cylinder": _cylinder_interval}
