"""Nerfstudio and instant-ngp scenes: one `transforms.json`.

`applied_transform` is what a converter did to COLMAP's world before it wrote the file. Poses and `ply_file_path` both
have it applied already and agree, so it is not undone: the model lives in the file's own world. `aabb_scale` and the
like bound a field of another kind and are not needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gns.errors import UserError
from gns.scene.readers.frames import Capture, Frame, Reader, SceneOptions
from gns.scene.readers.masks import with_masks
from gns.scene.readers.photos import unused_photos
from gns.scene.readers.splits import Split, check_apart, split_by_lists, split_by_names
from gns.scene.readers.transforms import Json, load_json, photo_folder, read_frames, read_listed_points


def matches(path: Path) -> bool:
    """Whether the folder holds such a scene."""
    return (path / "transforms.json").is_file()


def read(path: Path, options: SceneOptions) -> Capture:
    """Frames, with the split that the file or lists beside it give, and points where there are some.

    Raises UserError where a file is missing, damaged or not supported.
    """
    notes, warnings = list[str](), list[str]()
    listing = path / "transforms.json"
    content = load_json(listing)
    train = read_frames(listing, content, options, notes)
    test = read_frames(listing, content, options, notes, "test_frames") if content.get("test_frames") else []
    check_apart(train, test, f"{listing} (frames)", "its test_frames")
    frames = [*train, *test]
    unused = unused_photos([frame.image_path for frame in frames], photo_folder(path, options), path, listing, notes)
    frames = with_masks(frames, path, unused, notes, warnings)
    split = _split(listing, content, frames, len(test), notes, warnings)
    return Capture(*split, read_listed_points(listing, content, notes), notes, warnings)


def _split(
    listing: Path, content: Json, frames: list[Frame], test_count: int, notes: list[str], warnings: list[str]
) -> Split:
    """By `test_frames` (ScanNet++), `train_filenames` and so on (Nerfstudio), or lists of names beside the file.

    The last `test_count` frames are of `test_frames`.
    """
    if test_count:
        notes.append(f"split of test_frames: {len(frames) - test_count} photos to train on, {test_count} held out")
        return frames[:-test_count], frames[-test_count:]
    train, validation, test = (_names(listing, content, f"{part}_filenames") for part in ("train", "val", "test"))
    for name in ("transforms_test.json", "transforms_val.json"):
        if not test and not validation and (listing.parent / name).is_file():
            entries = load_json(listing.parent / name)["frames"]
            names = [str(entry.get("file_path")) for entry in entries if isinstance(entry, dict)]
            return split_by_names(frames, train, names, [listing.name, name], notes, warnings)
    if not (train or validation or test):
        return split_by_lists(frames, [listing.parent], notes, warnings)
    held_out, source = (test, "test_filenames") if test else (validation, "val_filenames")
    return split_by_names(frames, train, held_out, [f"{listing.name} (train_filenames)", source], notes, warnings)


def _names(listing: Path, content: Json, key: str) -> list[str]:
    names: Any = content.get(key) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{listing} has {key} that are no list of names: correct or remove them")
    return names


READER = Reader("transforms.json (Nerfstudio, instant-ngp)", matches, read)
