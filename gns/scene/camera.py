"""A pinhole camera: geometry only, no pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gns.errors import UserError

FARTHEST = 1e15  # from the origin: its square, and sums of such, still fit float32


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera in COLMAP's axes: x right, y down, z forward.

    A world point X is seen at u = fx·x/z + cx, v = fy·y/z + cy, where (x, y, z) = R X + t. Pixel (column i, row j) is
    sampled at its centre (i + 0.5, j + 0.5).
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    world_to_camera: npt.NDArray[np.float64]  # [4, 4], rigid
    name: str

    def __post_init__(self) -> None:
        """Raise UserError where a number is none, or the camera stands where float32 cannot compute."""
        intrinsics = (self.fx, self.fy, self.cx, self.cy)
        if not (np.isfinite(intrinsics).all() and np.isfinite(self.world_to_camera).all()):
            raise UserError(f"the camera of the photo {self.name} has values that are not finite: correct them")
        if not (self.fx > 0 and self.fy > 0):
            raise UserError(f"the camera of the photo {self.name} has a focal length of {self.fx:g} × {self.fy:g}")
        if (np.abs(self.translation) > FARTHEST).any():
            raise UserError(
                f"the camera of the photo {self.name} is {np.abs(self.translation).max():.3g} away from the origin: "
                f"correct its pose, {FARTHEST:g} is the most"
            )

    @property
    def rotation(self) -> npt.NDArray[np.float64]:
        """R of x = R X + t, [3, 3]."""
        return self.world_to_camera[:3, :3]

    @property
    def translation(self) -> npt.NDArray[np.float64]:
        """t of x = R X + t, [3]."""
        return self.world_to_camera[:3, 3]

    @property
    def center(self) -> npt.NDArray[np.float64]:
        """Position in the world, [3]."""
        center: npt.NDArray[np.float64] = -self.rotation.T @ self.translation
        return center

    def project(
        self, positions: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Where the camera sees the points at `positions` [P, 3]: pixels [P, 2], depths [P], inside the picture [P].

        Nothing hides anything. Pixels of points that are not in front mean nothing.
        """
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # points may be at absurd distances
            local = positions @ self.rotation.T + self.translation
            x, y, z = local.T
            u, v = self.fx * x / z + self.cx, self.fy * y / z + self.cy
            inside = (z > 0) & (u >= 0) & (u < self.width) & (v >= 0) & (v < self.height)
        return np.stack([u, v], axis=1), z, inside

    def resized(self, width: int, height: int) -> Camera:
        """The same camera for an image resampled to `width` × `height`; intrinsics scale per axis."""
        sx, sy = width / self.width, height / self.height
        return replace(
            self,
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx=self.cx * sx,
            cy=self.cy * sy,
        )
