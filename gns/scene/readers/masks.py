"""Which mask belongs to which photo."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gns.scene.readers.frames import Frame, some_of
from gns.scene.readers.photos import PhotoFolder, tails, without_suffix
from gns.utils.text import folded

_FOLDERS = ("masks", "mask")
_MARKS = (".mask", "_mask", "-mask")  # what OpenMVS, Metashape and others put behind the photo's name

Tables = list[defaultdict[str, list[str]]]  # from what a mask may be called to the names of photos; to be asked in turn


def with_masks(
    frames: Sequence[Frame], scene: Path, unused: Mapping[str, Path], notes: list[str], warnings: list[str]
) -> list[Frame]:
    """The frames in the same order, each with its mask from the scene's folder `masks` or `mask`, if it has none yet.

    The mask of `a/b.jpg` is `a/b.jpg.png` (as COLMAP has it), else `a/b.png`, else another picture `a/b`; each may have
    `mask` behind its name (`a/b.jpg.mask.png`, `a/b_mask.png`) and differ in case, and lies without the folder `a`
    where no other photo is called `b`. A mask serves one photo: with photos `a.jpg` and `a.png`, `a.png` is the mask of
    the second; with `a.jpg` and `a.jpeg` it is nobody's. A photo is never a mask.

    Warnings tell of masks that belong to no photo. In `unused` are, by name, the photos that are there but have no
    pose: their masks are no strays.
    """
    masks = [(name, folder / name) for folder in _mask_folders(scene) for name in PhotoFolder(folder).photos]
    if masks:  # links may make one folder of two
        taken = {os.path.realpath(path) for frame in frames for path in (frame.image_path, frame.mask_path) if path}
        masks = [(name, path) for name, path in masks if os.path.realpath(path) not in taken]
    if not masks:
        return list(frames)

    real_masks = {os.path.realpath(path) for _, path in masks}
    others = [name for name, path in unused.items() if os.path.realpath(path) not in real_masks]
    tables = _owners([*(frame.name for frame in frames), *others])
    masks_of = defaultdict[str, list[Path]](list)
    strays, ambiguous = list[Path](), list[Path]()
    for name, path in sorted(masks, key=_preference):
        owners = _owner(name, tables)
        if len(owners) == 1:
            masks_of[owners[0]].append(path)
        else:
            (ambiguous if owners else strays).append(path)
    masked = [
        replace(frame, mask_path=masks_of[frame.name][0])
        if frame.mask_path is None and frame.name in masks_of
        else frame
        for frame in frames
    ]
    used = {frame.mask_path for frame in masked}
    second = [path for frame in frames for path in masks_of.get(frame.name, []) if path not in used]
    for paths, fault in (
        (strays, "belong to no photo: call the mask of a.jpg masks/a.jpg.png"),
        (ambiguous, "may belong to several photos: call the mask of a.jpg masks/a.jpg.png"),
        (second, "are of photos that have another mask: keep one for each photo"),
    ):
        if paths:
            names = some_of([path.relative_to(scene).as_posix() for path in paths])
            warnings.append(f"{len(paths)} of {len(masks)} masks ({names}) are not used, they {fault}")
    if bare := [frame.name for frame in masked if frame.mask_path is None]:
        notes.append(f"{len(bare)} of {len(frames)} photos have no mask ({some_of(bare)}): all their pixels count")
    return masked


def _mask_folders(scene: Path) -> list[Path]:
    folders = [path for path in scene.iterdir() if folded(path.name) in _FOLDERS and path.is_dir()]
    return sorted(folders, key=lambda path: (-_FOLDERS.index(folded(path.name)), path.name))


def _owners(photos: Iterable[str]) -> Tables:
    """By path and by path without suffix, then by both with the first folder dropped, with two dropped, and so on."""
    tables: Tables = []
    for photo in dict.fromkeys(photos):
        for dropped, tail in enumerate(tails(photo.split("/"))):
            while len(tables) < 2 * dropped + 2:
                tables.append(defaultdict(list))
            tables[2 * dropped][folded(tail)].append(photo)
            tables[2 * dropped + 1][folded(without_suffix(tail))].append(photo)
    return tables


def _owner(mask: str, tables: Tables) -> list[str]:
    """The photos that a mask may belong to: `a.jpg_mask.png` is asked for as it is, as `a.jpg_mask` and as `a.jpg`."""
    name = folded(mask).removeprefix("images/")
    stem = without_suffix(name)
    bare = next((stem.removesuffix(mark) for mark in _MARKS if stem.endswith(mark)), stem)
    return next((owners for table in tables for form in (name, stem, bare) if (owners := table.get(form))), [])


def _preference(mask: tuple[str, Path]) -> tuple[bool, bool, int, str]:
    """Sorts the masks of one photo: the one with the photo's whole name first, PNG before others, short names first."""
    stem = without_suffix(mask[0])
    bare = next((stem.removesuffix(mark) for mark in _MARKS if stem.endswith(mark)), stem)
    return without_suffix(bare) == bare, not mask[0].lower().endswith(".png"), len(mask[0]), mask[0]
