"""Scenes of the original NeRF release, rendered with Blender: `transforms_train.json` and `transforms_test.json`."""

from __future__ import annotations

from pathlib import Path

from gns.scene.readers.frames import Capture, Reader, SceneOptions, check_frames
from gns.scene.readers.transforms import read_frames


def matches(path: Path) -> bool:
    """Whether the folder holds such a scene."""
    return (path / "transforms_train.json").is_file()


def read(path: Path, options: SceneOptions) -> Capture:
    """Training frames, and test frames where the folder has them; this format has no 3D points.

    Raises UserError where a file is missing, damaged or not supported.
    """
    train = read_frames(path / "transforms_train.json", options)
    test_file = path / "transforms_test.json"
    if not test_file.is_file():
        return Capture(train)
    test = read_frames(test_file, options)
    check_frames([*train, *test], path)
    return Capture(train, test)


READER = Reader("transforms_train.json (Blender)", matches, read)
