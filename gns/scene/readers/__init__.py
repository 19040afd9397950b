"""Reading scenes: one file a format, each with a `Reader` at its foot, and their list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gns.errors import UserError
from gns.scene.checks import check_points, points_within_reach, stray_named
from gns.scene.points import PointCloud
from gns.scene.readers import blender, colmap, nerfstudio
from gns.scene.readers.frames import Capture, Frame, Reader, SceneOptions
from gns.scene.readers.views import load_views
from gns.scene.scene import Scene, scene_extent
from gns.scene.start import starting_points
from gns.scene.view import View

__all__ = ["SceneOptions", "read_scene"]

READERS: list[Reader] = [colmap.READER, blender.READER, nerfstudio.READER]  # the first that matches reads

HOLD_EVERY = 8  # of the photos sorted by name, the first and every 8th after it are held out


def read_scene(source: Path, options: SceneOptions, report: Callable[[str], None] = print) -> Scene:
    """The scene in the folder `source`, whatever its format; `report` is told in a line what was read.

    Alpha channels are composed on the background and give no mask: what was transparent is learned as background.
    Raises UserError where the folder is not recognised, or anything in it is missing, damaged or unsupported.
    """
    if not source.is_dir():
        raise UserError(f"the scene folder {source} does not exist: give the right one with -s")
    reader = next((reader for reader in READERS if reader.matches(source)), None)
    if reader is None:
        wanted = "; ".join(reader.looks_for for reader in READERS)
        raise UserError(f"{source} is not recognised as a scene: it has none of {wanted}")

    capture = reader.read(source, options)
    train_frames, test_frames = _split(capture, options, source)
    views = load_views([*train_frames, *test_frames], options, report)
    train, test = views[: len(train_frames)], views[len(train_frames) :]
    points, extent, doubts = _checked_points(capture.points, train)
    for doubt in doubts:
        report(f"warning: {doubt}")
    if points is None:
        points = starting_points(train, options.seed, report)
        extent = scene_extent(train, points)
    return Scene(
        name=source.resolve().name,
        train=train,
        test=test,
        points=points,
        extent=extent,
        background=(1.0, 1.0, 1.0) if options.white_background else (0.0, 0.0, 0.0),
    )


def _split(capture: Capture, options: SceneOptions, source: Path) -> tuple[list[Frame], list[Frame]]:
    """Training and test frames, each sorted by name."""
    train, test = _sorted(capture.train), _sorted(capture.test or [])
    if not options.eval:
        return _sorted([*train, *test]), []
    if capture.test is None:
        train, test = [frame for i, frame in enumerate(train) if i % HOLD_EVERY], train[::HOLD_EVERY]
    if not train:
        raise UserError(f"{source} has a single photo and --eval holds it out: add photos or switch --eval off")
    return train, test


def _sorted(frames: list[Frame]) -> list[Frame]:
    return sorted(frames, key=lambda frame: frame.name)


def _checked_points(points: PointCloud | None, train: list[View]) -> tuple[PointCloud | None, float, list[str]]:
    """(points to start from, the scene's extent, what looks wrong). Raises UserError where they fit the poses not."""
    doubts = stray_named(train)
    if points is None:
        return None, 0.0, doubts
    extent = scene_extent(train, points)
    doubts += check_points(points, train)
    points, further = points_within_reach(points, train, extent)
    return points, extent, doubts + further
