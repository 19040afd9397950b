"""What a reader knows of a photo before it is decoded, and the checks that all readers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.utils.text import printable
from gns.utils.undistortion import Lens


@dataclass(frozen=True)
class SceneOptions:
    """How the user wants a scene read."""

    images: str = "images"  # the folder of the photos, inside the scene's
    resolution: int = -1  # see gns.utils.images.target_size
    eval: bool = True  # hold out test photos
    white_background: bool = False  # else black; alpha channels are composed on it
    follow_links: bool = False  # also out of the scene's folder
    seed: int = 0  # of the initial points of a scene that has none
    image_memory: int | None = None  # bytes for decoded photos; None: half of what is free
    depths: str = ""  # the folder of depth maps, inside the scene's or anywhere; none are read where it is empty

    @property
    def background_level(self) -> int:
        """The background's grey level, 0 or 255."""
        return 255 if self.white_background else 0


@dataclass(frozen=True)
class DepthMap:
    """A picture of inverse depth on disk, and how its values become those of the scene (`depth_maps.py`)."""

    path: Path
    scale: float
    offset: float


@dataclass(frozen=True, eq=False)
class Frame:
    """A photo on disk and the camera that took it."""

    name: str  # unique in the scene; '/' separates sub-folders
    image_path: Path
    mask_path: Path | None
    lens: Lens
    world_to_camera: npt.NDArray[np.float64]  # [4, 4], rigid, COLMAP's axes
    depth: DepthMap | None = None


@dataclass(frozen=True, eq=False)
class Capture:
    """What a reader returns."""

    train: list[Frame]
    test: list[Frame] | None = None  # None: the format has no split of its own
    points: PointCloud | None = None  # None: the format has no 3D points, or not one
    notes: list[str] = field(default_factory=list)  # facts worth a line: what was chosen, found, and not used
    warnings: list[str] = field(default_factory=list)  # what looks wrong, and what to do


@dataclass(frozen=True)
class Reader:
    """A format of scenes."""

    looks_for: str  # what is in the folder of such a scene, for the sentence where nothing is
    matches: Callable[[Path], bool]  # whether a folder holds such a scene
    read: Callable[[Path, SceneOptions], Capture]  # raises UserError


def check_frames(frames: Sequence[Frame], source: Path) -> None:
    """Refuse no frames at all, two of one name, a pose that is not finite, a photo that is not there.

    `source` is the file or folder that lists them. Raises UserError.
    """
    if not frames:
        raise UserError(f"{source} lists no photos: nothing to learn from")
    name, times = Counter(frame.name for frame in frames).most_common(1)[0]
    if times > 1:
        raise UserError(f"{source} lists the photo {name} {times} times: keep one of them")
    for frame in frames:
        if not np.isfinite(frame.world_to_camera).all():
            raise UserError(
                f"{source} gives the photo {frame.name} a pose that is not finite: remove it or register it again"
            )
    missing = [frame.image_path for frame in frames if not frame.image_path.is_file()]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(
            f"the photo {missing[0]}{others}, listed in {source}, does not exist: restore it or remove its entry"
        )


def check_points(points: PointCloud, source: Path) -> PointCloud | None:
    """`points`, or None where there are none. Raises UserError where a position is not finite."""
    if len(points.positions) == 0:
        return None
    bad = int((~np.isfinite(points.positions)).any(axis=1).sum())
    if bad:
        raise UserError(f"{source} holds {bad} points that are not finite: remove them or reconstruct again")
    return points


def some_of(names: Sequence[str], count: int = 3) -> str:
    """The first names, for a sentence."""
    shown = ", ".join(printable(name) for name in names[:count])
    return f"{shown}, …" if len(names) > count else shown
