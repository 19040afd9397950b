"""Reading scenes: one file a format, each with a `Reader` at its foot, and their list."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from gns.errors import UserError
from gns.scene.checks import check_points, points_within_reach, stray_named
from gns.scene.points import PointCloud
from gns.scene.readers import blender, colmap, nerfstudio
from gns.scene.readers.depth_maps import with_depth_maps
from gns.scene.readers.frames import Capture, Frame, Reader, SceneOptions
from gns.scene.readers.links import link_out
from gns.scene.readers.photos import PhotoFolder, is_video
from gns.scene.readers.views import load_views
from gns.scene.scene import Scene, scene_extent
from gns.scene.start import starting_points
from gns.scene.view import View

__all__ = ["SceneOptions", "find_reader", "read_scene", "split_frames"]

# The first that matches reads.
READERS: list[Reader] = [colmap.READER, blender.READER, nerfstudio.READER, colmap.READER_ELSEWHERE]

_FOLDERS_LOOKED_INTO = 1000  # for the scene that was meant
HOLD_EVERY = 8  # of the photos sorted by name, the first and every 8th after it are held out


def read_scene(source: Path, options: SceneOptions, report: Callable[[str], None] = print) -> Scene:
    """The scene in the folder `source`, whatever its format; `report` is told in lines what was read and what is odd.

    Alpha channels are composed on the background and give no mask: what was transparent is learned as background.
    Raises UserError where the folder is not recognised, or anything in it is missing, damaged or unsupported.
    """
    capture = find_reader(source).read(source, options)
    train_frames, test_frames = split_frames(capture, options, source)
    if link := link_out([*train_frames, *test_frames], source, options):
        if not options.follow_links:
            raise UserError(
                f"{link}: name its folder with -i, copy the file, or give --follow-links where you trust the scene"
            )
        report(f"warning: {link}")
    if options.depths:
        train_frames, note = with_depth_maps(train_frames, source, options.depths)
        capture.notes.append(note)
    for note in capture.notes:
        report(note)
    for warning in capture.warnings:
        report(f"warning: {warning}")
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


def is_scene(folder: Path) -> bool:
    """Whether a reader recognises the folder."""
    return folder.is_dir() and any(reader.matches(folder) for reader in READERS)


def find_reader(source: Path) -> Reader:
    """The first reader that recognises the folder. Raises UserError where there is no folder or no reader does."""
    if source.is_file():
        if is_video(source.name):
            raise UserError(f"{source} is a video, and no scene yet: {_way_from_photos(source)}")
        raise UserError(f"{source} is a file: give the folder that it is in with -s")
    if not source.is_dir():
        raise UserError(f"the scene folder {source} does not exist: give the right one with -s")
    reader = next((reader for reader in READERS if reader.matches(source)), None)
    if reader is not None:
        return reader
    nearby = islice(_around(source), _FOLDERS_LOOKED_INTO)
    if scene := next((folder for folder in nearby if any(reader.matches(folder) for reader in READERS)), None):
        if colmap.is_model(scene):
            raise UserError(f"{scene} holds a COLMAP model, but {source} is no scene: move it to {source / 'sparse/0'}")
        raise UserError(f"{source} is no scene, but {scene} is one: give that with -s")
    if photos := PhotoFolder(source).photos:
        raise UserError(
            f"{source} holds {len(photos)} photos, and nothing that says where they were taken from: "
            + _way_from_photos(source)
        )
    wanted = "; ".join(reader.looks_for for reader in READERS)
    raise UserError(f"{source} is not recognised as a scene: it has none of {wanted}")


def _way_from_photos(source: Path) -> str:
    photos = shlex.quote(str(source))
    return f"gns make {photos} --final-budget 20MB goes all the way to a model, gns convert {photos} to a scene"


def _around(source: Path) -> Iterator[Path]:
    """Folders up to three levels below, the upper ones first, then two above."""
    level = [source]
    for _ in range(3):
        level = [folder / name for folder in level for name in sorted(_sub_folders(folder))]
        yield from level
    yield from source.absolute().parents[:2]


def _sub_folders(folder: Path) -> list[str]:
    """Names of the visible ones; none where the folder may not be read."""
    return next(([name for name in names if name[0] != "."] for _, names, _ in os.walk(folder)), [])


def split_frames(capture: Capture, options: SceneOptions, source: Path) -> tuple[list[Frame], list[Frame]]:
    """Training and test frames, each sorted by name; what there is to say of it joins the capture's notes."""
    train, test = _sorted(capture.train), _sorted(capture.test or [])
    if not options.eval:
        if capture.test:
            capture.notes.append(f"nothing is held out: the {len(test)} photos of the test set train too")
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
