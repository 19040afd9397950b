"""The coordinates that a scene is trained in, where its own are too small or too far away for that.

The renderer's near plane (0.2) and the smallest initial Gaussians are lengths, and float32 has 24 bits: a scene of a
few millimetres in metres would lie before the near plane, and one in map coordinates of seven digits would be rounded
to half a metre. Such a scene is trained in a frame of its own. What leaves the run is in the scene's coordinates again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gns.scene.camera import Camera

SMALLEST_EXTENT = 1.0  # scenes from here on keep their own unit, and so their bits
LOCAL_EXTENT = 4.0  # smaller ones get an extent from here to twice this, which is that of usual reconstructions
# Up to this many extents from the origin a scene stays in place: float32 is then off by less than a 260,000th of the
# extent, and a pixel is about a thousandth of it.
FARTHEST = 64.0
_FLOAT32_ROUNDING = 2.0**-24  # largest relative error


@dataclass(frozen=True)
class LocalFrame:
    """Coordinates related to the world's by world = scale · local + offset; no rotation, so view directions stay."""

    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)  # world units
    scale: float = 1.0  # a power of two: dividing by it loses no bits

    def positions(self, world: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """World positions [..., 3] in this frame; the same array where the frame is the world."""
        if self == WORLD:
            return world
        local: npt.NDArray[np.float64] = (world - np.array(self.offset)) / self.scale
        return local

    def camera(self, world: Camera) -> Camera:
        """The camera that sees in this frame what `world` sees: R (s·x + o) + t = s (R x + (R o + t)/s)."""
        if self == WORLD:
            return world
        pose = world.world_to_camera.copy()
        pose[:3, 3] = (world.rotation @ np.array(self.offset) + world.translation) / self.scale
        return replace(world, world_to_camera=pose)

    @property
    def rounding(self) -> float:
        """By how much float32 may move a position near the offset, in world units."""
        return _FLOAT32_ROUNDING * max(map(abs, self.offset))


WORLD = LocalFrame()


def frame_for(centers: npt.NDArray[np.float64], extent: float) -> LocalFrame:
    """The frame to train in a scene whose cameras stand at `centers` [V, 3] and whose extent is `extent` > 0.

    Scenes of an extent of at least 1 that lie near the origin are trained in the world: the frame is `WORLD`. The
    median of the centres is what counts, which a stray camera does not move.
    """
    # Of a scene in smaller units all lengths are multiplied by a power of two, which changes no digit of them.
    scale = 1.0 if extent >= SMALLEST_EXTENT else 2.0 ** math.floor(math.log2(extent / LOCAL_EXTENT))
    middle = np.median(centers, axis=0)
    if np.abs(middle).max() <= FARTHEST * extent:
        return LocalFrame(scale=scale)
    # A round number is enough, and is exact in every file.
    unit = 2.0 ** math.floor(math.log2(extent))
    x, y, z = (np.round(middle / unit) * unit).tolist()
    return LocalFrame((x, y, z), scale)
