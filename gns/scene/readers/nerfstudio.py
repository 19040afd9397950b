"""Nerfstudio and instant-ngp scenes: one `transforms.json`.

`applied_transform` is what a converter did to COLMAP's world before it wrote the file. Poses and `ply_file_path` both
have it applied already and agree, so it is not undone: the model lives in the file's own world. `aabb_scale` and the
like bound a field of another kind and are not needed.
"""

from __future__ import annotations

from pathlib import Path

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.scene.readers.frames import Capture, Reader, SceneOptions, check_points
from gns.scene.readers.ply_points import read_ply_points
from gns.scene.readers.transforms import load_json, read_frames


def matches(path: Path) -> bool:
    """Whether the folder holds such a scene."""
    return (path / "transforms.json").is_file()


def read(path: Path, options: SceneOptions) -> Capture:
    """Frames, and points where `ply_file_path` names some.

    Raises UserError where a file is missing, damaged or not supported.
    """
    listing = path / "transforms.json"
    return Capture(read_frames(listing, options), points=_read_points(listing))


def _read_points(listing: Path) -> PointCloud | None:
    relative = load_json(listing).get("ply_file_path")
    if relative is None:
        return None
    if not isinstance(relative, str) or not (listing.parent / relative).is_file():
        raise UserError(
            f"the points {relative}, listed in {listing}, do not exist: restore them or remove ply_file_path"
        )
    path = listing.parent / relative
    return check_points(read_ply_points(path), path)


READER = Reader("transforms.json (Nerfstudio, instant-ngp)", matches, read)
