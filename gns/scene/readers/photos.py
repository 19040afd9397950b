"""Finding photos under the names that other programs, systems and machines gave them.

A listed name is looked up as it stands first. Where there is no such photo, it may have come from Windows (backslashes,
upper case), from another machine (an absolute path), from before a conversion (.jpg, now .png), or with folders in
front that are not there. Whatever it says, no photo outside the given folders is taken.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from gns.errors import UserError
from gns.utils.text import folded, printable, refuse_git_lfs_pointer, spellings

_SUFFIXES = ("png", "jpg", "jpeg", "jpe", "jfif", "webp", "tif", "tiff", "bmp", "gif", "ppm", "pgm", "jp2", "avif")
_VIDEO_SUFFIXES = ("mp4", "mov", "m4v", "avi", "mkv", "webm", "mts", "m2ts", "mpg", "mpeg", "wmv", "3gp", "insv")
_USUAL_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".JPG", ".PNG")  # for names without: tried before looking around


def is_photo(name: str) -> bool:
    """Whether a file name has the suffix of a picture."""
    return PurePosixPath(name).suffix[1:].lower() in _SUFFIXES


def is_video(name: str) -> bool:
    """Whether a file name has the suffix of a video."""
    return PurePosixPath(name).suffix[1:].lower() in _VIDEO_SUFFIXES


def without_suffix(name: str) -> str:
    """The name less its suffix, if that is a picture's: `v1.5` keeps its own."""
    return name[: -len(PurePosixPath(name).suffix)] if is_photo(name) else name


def parts_inside(name: str) -> tuple[tuple[str, ...], bool]:
    """The parts of a name on whatever system, without `.` and `..`, and whether it leads out of where it starts."""
    slashed = name.replace("\\", "/")
    relative = re.sub(r"^(file:/|[A-Za-z]:)?/+|^[A-Za-z]:", "", slashed)
    outside, parts = relative != slashed, list[str]()
    for part in relative.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part == "..":
            outside = True
        elif part not in ("", "."):
            parts.append(part)
    return tuple(parts), outside


_DEEPEST = 50  # folders


def tails(parts: Sequence[str]) -> Iterator[str]:
    """`a/b/c`, `b/c`, `c`; of paths deeper than any scene's only what a scene could have."""
    for start in range(max(0, len(parts) - _DEEPEST), len(parts)):
        yield "/".join(parts[start:])


class PhotoFolder:
    """A folder and the photos in it and below. What is asked for by its right name costs no listing."""

    def __init__(self, root: Path, prefix: str = "") -> None:
        self.root = root
        self.prefix = prefix  # what names of its photos begin with in the scene: "" or "images/"

    @cached_property
    def photos(self) -> list[str]:
        """The photos' paths in the folder, sorted; none where it does not exist. Hidden files are no photos."""
        return sorted(name for name in _walk(self.root) if is_photo(name))

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        return _grouped((spelling, photo) for photo in self.photos for spelling in spellings(photo))

    @cached_property
    def _by_stem(self) -> dict[str, list[str]]:
        return _grouped((without_suffix(spelling), photo) for photo in self.photos for spelling in spellings(photo))

    def exact(self, name: str) -> str | None:
        """The photo of this name, which may lack its suffix."""
        for suffix in _USUAL_SUFFIXES[: 1 if is_photo(name) else None]:
            with suppress(OSError):  # a name from a garbage file may be too long to ask for
                if (self.root / (name + suffix)).is_file():
                    return name + suffix
        return None

    def similar(self, name: str) -> str | None:
        """The photo of this name in another case, with another suffix, or with one. Raises UserError for several."""
        found = self._by_name.get(folded(name)) or self._by_stem.get(folded(without_suffix(name)), [])
        for alike in (name, without_suffix(name)):
            if len(found) > 1:
                found = [photo for photo in found if alike in (photo, without_suffix(photo))] or found
        if len(found) > 1:
            raise UserError(f"{self.root} has both {found[0]} and {found[1]} for the listed {name}: keep one of them")
        return found[0] if found else None


@dataclass(frozen=True)
class Wanted:
    """A photo by its listed name, and the folders that it may lie in, the likelier ones first."""

    listed: str
    folders: Sequence[PhotoFolder]


@dataclass(frozen=True)
class Photo:
    """A photo that is there."""

    name: str  # unique in the scene; '/' separates sub-folders
    path: Path


def find_photos(wanted: Sequence[Wanted], listing: Path, scene: Path, notes: list[str]) -> list[Photo]:
    """The photos in the order of `wanted`; a note says which were found under other names than `listing` gives.

    Raises UserError where one does not exist, with the place in the folder `scene` where it lies instead.
    """
    photos = {index: photo for index, photo in enumerate(map(_exact, wanted)) if photo}
    listed_of = {photo.path: wanted[index].listed for index, photo in photos.items()}
    renamed, missing = list[tuple[str, Photo]](), list[Wanted]()
    for index in sorted(set(range(len(wanted))) - photos.keys()):
        photo = _similar(wanted[index])
        # A photo that another entry names is not this one's: `b/1.jpg` is missing, and not `1.jpg`.
        if photo is None or listed_of.setdefault(photo.path, wanted[index].listed) != wanted[index].listed:
            missing.append(wanted[index])
        else:
            photos[index] = photo
            renamed.append((wanted[index].listed, photo))
    if missing:
        raise _absence(missing, wanted, listing, scene)
    for photo in photos.values():
        refuse_git_lfs_pointer(photo.path)
    renamed = [(listed, photo) for listed, photo in renamed if listed != str(photo.path.absolute())]
    if renamed:
        listed, photo = renamed[0]
        notes.append(
            f"{len(renamed)} of {len(wanted)} photos are named otherwise in {listing.name}: "
            f"{printable(listed)} there is {photo.path}"
        )
    return [photos[index] for index in range(len(wanted))]


def _exact(wanted: Wanted) -> Photo | None:
    path = PurePosixPath(wanted.listed)
    if path.is_absolute() or ".." in path.parts or not path.name:
        return None
    return next((_photo(folder, name) for folder in wanted.folders if (name := folder.exact(str(path)))), None)


def _similar(wanted: Wanted) -> Photo | None:
    """With fewer and fewer of the folders in front of the name."""
    for spelling in spellings(wanted.listed):
        for tail in tails(parts_inside(spelling)[0]):
            for folder in wanted.folders:
                if name := folder.exact(tail) or folder.similar(tail):
                    return _photo(folder, name)
    return None


def _photo(folder: PhotoFolder, name: str) -> Photo:
    return Photo(folder.prefix + printable(name), folder.root / name)


def _absence(missing: Sequence[Wanted], wanted: Sequence[Wanted], listing: Path, scene: Path) -> UserError:
    """The sentence on photos that are not there."""
    name, folders = printable(missing[0].listed), [folder.root for folder in missing[0].folders]
    parts, outside = parts_inside(name)
    others = f" (and {len(missing) - 1} more of {len(wanted)})" if len(missing) > 1 else ""
    elsewhere = [place for place in folders_with(scene, [one.listed for one in wanted]) if scene / place not in folders]
    if elsewhere:
        end = f"does not exist, but {scene / elsewhere[0]} has it: give that folder with -i {elsewhere[0]}"
    elif outside:
        return UserError(
            f"the photo {name}{others}, listed in {listing}, lies outside the scene, and {folders[0]} has none of its "
            "name: copy it there, or give its folder with -i"
        )
    else:
        end = "does not exist: restore it or remove its entry"
    return UserError(f"the photo {folders[0].joinpath(*parts)}{others}, listed in {listing}, {end}")


def folders_with(scene: Path, names: Sequence[str]) -> list[str]:
    """The folders of the scene, relative to it, that hold every one of the names; the shallowest first.

    The names may have folders in front that are not there; as many are dropped as it takes.
    """
    photos = {folded(without_suffix(photo)): PurePosixPath(photo).parts for photo in PhotoFolder(scene).photos}
    wanted = [tuple(folded(without_suffix("/".join(parts_inside(name)[0]))).split("/")) for name in names]
    for dropped in range(max(map(len, wanted), default=0)):
        ends = ["/".join(parts[dropped:] or parts[-1:]) for parts in wanted]
        depth = ends[0].count("/") + 1
        folders = {parts[:-depth] for key, parts in photos.items() if f"/{key}".endswith(f"/{ends[0]}")}
        complete = [
            folder
            for folder in folders
            if not {*map(folded, folder)} & {"masks", "mask"}
            and all("/".join([*map(folded, folder), end]) in photos for end in ends)
        ]
        if complete:
            return ["/".join(folder) or "." for folder in sorted(complete, key=lambda folder: (len(folder), folder))]
    return []


def unused_photos(
    used: Sequence[Path], folder: PhotoFolder, scene: Path, listing: Path, notes: list[str]
) -> dict[str, Path]:
    """By name the photos in `folder` that `listing` gives no pose; a note tells of them.

    None where the photos lie beside the model, among whatever else is there.
    """
    if folder.root.resolve() == scene.resolve():
        return {}
    taken = set(used)
    unused = [name for name in folder.photos if folder.root / name not in taken]
    if unused:
        shown = ", ".join(map(printable, unused[:3])) + (", …" if len(unused) > 3 else "")
        notes.append(
            f"{len(unused)} of {len(folder.photos)} photos in {folder.root} have no pose in {listing.name} and are not "
            f"used ({shown})"
        )
    return {folder.prefix + printable(name): folder.root / name for name in unused}


def _walk(root: Path) -> Iterator[str]:
    """The files below `root`, as paths relative to it. Links are followed, each folder is entered once."""
    seen = set[tuple[int, int]]()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX", "@")))
        inside = "" if Path(folder) == root else Path(folder).relative_to(root).as_posix() + "/"
        yield from (inside + name for name in files if not name.startswith("."))


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups = defaultdict[str, list[str]](list)
    for key, photo in pairs:
        group = groups[folded(key.replace("\\", "/"))]  # some unpack an archive from Windows to names with backslashes
        if photo not in group:
            group.append(photo)
    return dict(groups)
