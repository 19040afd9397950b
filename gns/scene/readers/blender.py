"""Scenes of the original NeRF release, rendered with Blender: `transforms_train.json` and `transforms_test.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gns.errors import UserError
from gns.scene.points import PointCloud
from gns.scene.readers.frames import Capture, Frame, Reader, SceneOptions, check_frames
from gns.scene.readers.masks import with_masks
from gns.scene.readers.splits import check_apart, split_by_names
from gns.scene.readers.transforms import load_json, read_frames, read_listed_points


def matches(path: Path) -> bool:
    """Whether the folder holds such a scene."""
    return (path / "transforms_train.json").is_file()


def read(path: Path, options: SceneOptions) -> Capture:
    """Training frames, test frames where the folder has them, and points where it has some.

    Where a `transforms.json` beside has all these photos and more, or points, it is read instead, split the same way.
    Raises UserError where a file is missing, damaged or not supported.
    """
    notes, warnings = list[str](), list[str]()
    listing = path / "transforms_train.json"
    content = load_json(listing)
    train = read_frames(listing, content, options, notes)
    test = _held_out(path, train, options, notes)
    points = read_listed_points(listing, content, notes)
    if whole := _read_whole(path, [*train, *(test or [])], points, options, notes, warnings):
        frames, points = whole
        names, held_out_names = [frame.name for frame in train], [frame.name for frame in test or []]
        sources = ["transforms_train.json", "transforms_test.json"]
        train, test = split_by_names(frames, names, held_out_names, sources, notes, warnings)
    everything = [*train, *(test or [])]
    check_frames(everything, path)
    everything = with_masks(everything, path, {}, notes, warnings)
    return Capture(
        everything[: len(train)], None if test is None else everything[len(train) :], points, notes, warnings
    )


def _held_out(path: Path, train: list[Frame], options: SceneOptions, notes: list[str]) -> list[Frame] | None:
    """The frames of `transforms_test.json`, else of `transforms_val.json`; None where neither has any of its own."""
    test: list[Frame] | None = None
    for name in ("transforms_test.json", "transforms_val.json"):
        listing = path / name
        if not listing.is_file():
            continue
        content = load_json(listing)
        if not content["frames"]:
            notes.append(f"{name} lists no photos")
        elif test is not None:
            notes.append(f"{name} lists {len(content['frames'])} photos, which neither train nor are scored")
        else:
            frames = read_frames(listing, content, options, notes)
            if {frame.name for frame in frames} == {frame.name for frame in train}:
                notes.append(f"{name} lists the same photos as transforms_train.json and is not used")
                continue
            check_apart(train, frames, "transforms_train.json", name)
            test = frames
    return test


def _read_whole(
    path: Path,
    split: Sequence[Frame],
    points: PointCloud | None,
    options: SceneOptions,
    notes: list[str],
    warnings: list[str],
) -> tuple[list[Frame], PointCloud | None] | None:
    """Frames and points of a `transforms.json` that has more than the files of the split; None where none has."""
    listing = path / "transforms.json"
    if not listing.is_file():
        return None
    found = list[str]()
    try:
        content = load_json(listing)
        frames = read_frames(listing, content, options, found)
        all_points = read_listed_points(listing, content, found)
    except UserError as error:
        warnings.append(f"transforms.json beside transforms_train.json is not used: {error}")
        return None
    names, known = {frame.name for frame in frames}, {frame.name for frame in split}
    if not known <= names:
        notes.append(
            f"transforms.json lists {len(names - known)} other photos, which are not used: it lacks some of these"
        )
        return None
    if names == known and (points is not None or all_points is None):
        return None
    notes += [
        *found,
        f"transforms.json is read, which lists {len(names)} photos and {'points' if all_points else 'no points'}, "
        f"against {len(known)} and {'points' if points else 'none'} of the files of the split",
    ]
    return frames, all_points or points


READER = Reader("transforms_train.json (Blender)", matches, read)
