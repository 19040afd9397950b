"""A folder of photos as people have it, laid out as COLMAP takes it."""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import ExifTags, Image, ImageOps

from gns.errors import UserError
from gns.scene.readers.frames import Frame, some_of
from gns.scene.readers.masks import with_masks
from gns.scene.readers.photos import PhotoFolder
from gns.utils.images import read_image, read_mask
from gns.utils.open_picture import opened_picture
from gns.utils.undistortion import Lens

JPEG_QUALITY = 97  # of photos that had to be changed: no difference to see, at a third of the size of a PNG

_MASK_FOLDERS = ("masks", "mask")
_UNREADABLE = (".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
_AS_THEY_ARE = (".jpg", ".jpeg", ".png")  # other formats become PNGs, which every tool of the family reads
_UPRIGHT = 1  # EXIF's orientation of a photo that needs no turning
_TURNS = {2: False, 3: False, 4: False, 5: True, 6: True, 7: True, 8: True}  # others: whether width and height change


@dataclass(frozen=True)
class SourcePhoto:
    """A photo where the user has it."""

    path: Path
    mask: Path | None
    name: str  # in the scene: '/' separates sub-folders


def find_photos(source: Path) -> tuple[Path, Path]:
    """The folder of the photos of `source` (its input/, its images/, or itself), and that of the scene they become.

    As in 3DGS, photos in `source`/input become a scene in `source`; others become scenes/NAME. Raises UserError where
    the folder does not exist or holds no photos that can be read.
    """
    if not source.is_dir():
        raise UserError(f"{source} does not exist: give a folder of photos or a video")
    if _photos_in(source / "input"):
        return source / "input", source
    name = source.resolve()
    elsewhere = Path("scenes") / (name.parent.name if name.name == "images" else name.name)
    for root in (source / "images", source):
        if _photos_in(root):
            return root, elsewhere
    raw = sorted(path.name for path in source.rglob("*") if path.suffix.lower() in _UNREADABLE)
    if raw:
        raise UserError(
            f"{source} holds {len(raw)} photos in a camera's own format ({some_of(raw)}): export them as JPEG first"
        )
    raise UserError(f"{source} holds no photos: give a folder of photos or a video")


def _photos_in(root: Path) -> list[str]:
    """The photos in and below a folder, sorted; pictures in folders of masks are none."""
    names = PhotoFolder(root).photos if root.is_dir() else []
    return [name for name in names if not set(PurePosixPath(name.lower()).parts[:-1]) & set(_MASK_FOLDERS)]


def list_photos(source: Path, root: Path, notes: list[str], warnings: list[str]) -> list[SourcePhoto]:
    """The photos in `root`, each with its mask from a folder masks/ in `root` or in `source`, sorted by name.

    The names in the scene have no blanks, which COLMAP's lists cannot take.
    """
    listed = _photos_in(root)
    nowhere = Lens("PINHOLE", 1, 1, 1.0, 1.0, 0.5, 0.5)
    frames = [Frame(name, root / name, None, nowhere, np.eye(4)) for name in listed]
    for place in dict.fromkeys((root, source, root.resolve().parent)):
        if any((place / name).is_dir() for name in _MASK_FOLDERS):
            frames = with_masks(frames, place, {}, notes, warnings)
            break
    names = _scene_names(listed)
    return [SourcePhoto(root / frame.name, frame.mask_path, names[frame.name]) for frame in frames]


def _scene_names(listed: Sequence[str]) -> dict[str, str]:
    """By the name of each photo a name without blanks, with the suffix of what it will be written as; all different."""
    taken: dict[str, str] = {}
    for name in listed:
        path = PurePosixPath(re.sub(r"\s", "_", name))
        if path.suffix.lower() not in _AS_THEY_ARE:
            path = path.with_suffix(".png")
        while str(path) in taken.values():
            path = path.with_name(f"{path.stem}_{path.suffix}")
        taken[name] = str(path)
    return taken


def prepare_photo(photo: SourcePhoto, folder: Path, *, turning: bool = True) -> tuple[str, ...]:
    """Put `photo` into `folder`/images, upright, and its mask into `folder`/masks.

    A photo that is upright already is linked to. One that its EXIF tag says to turn is turned, since every viewer of
    the family shows pixels as they are stored; without `turning` it is left as a reconstruction made elsewhere saw it.
    Returns what photos have in common that one camera took: size, maker,
    model, focal length; where EXIF does not tell, the folder that it lies in. Raises UserError where it is no image.
    """
    target = folder / "images" / photo.name
    target.parent.mkdir(parents=True, exist_ok=True)
    with _opened(photo.path) as picture:
        stored, exif = picture.size, picture.getexif()
        orientation = exif.get(ExifTags.Base.Orientation, _UPRIGHT) if turning else _UPRIGHT
        upright = stored[::-1] if _TURNS.get(orientation) else stored
        if orientation not in _TURNS and target.suffix.lower() == photo.path.suffix.lower():
            _replacing(target, lambda path: link(photo.path, path))
        elif not _is_newer(target, photo.path):
            _replacing(target, lambda path: _write_upright(picture, photo.path, path, orientation))
        camera = _camera_in(exif) or (PurePosixPath(photo.name).parent.as_posix(),)
    if photo.mask:
        _prepare_mask(photo.mask, folder / "masks" / f"{photo.name}.png", stored, upright, orientation)
    return (f"{upright[0]} × {upright[1]}", *camera)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture in a file. Raises UserError where it is none, or damaged."""
    try:
        with opened_picture(path) as picture:
            yield picture
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}): replace it, or take it out of the folder"
        ) from None


def _write_upright(picture: Image.Image, source: Path, target: Path, orientation: int) -> None:
    """The picture turned as EXIF says; what EXIF knows of the lens goes with a JPEG. All other formats become PNGs."""
    if picture.format == "JPEG":
        upright = ImageOps.exif_transpose(picture)
        upright.save(target, format="JPEG", exif=upright.getexif(), quality=JPEG_QUALITY, subsampling=0)
    else:
        pixels = Image.fromarray(read_image(source))  # which knows how to read 16 bits
        pixels.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(pixels).save(target, format="PNG")


def _is_newer(target: Path, source: Path) -> bool:
    """Whether an earlier call has made `target` of `source` as it is now."""
    return target.is_file() and not target.is_symlink() and target.stat().st_mtime >= source.stat().st_mtime


def _camera_in(exif: Image.Exif) -> tuple[str, ...]:
    """What EXIF says of the camera; nothing where it does not know the focal length."""
    details = exif.get_ifd(ExifTags.IFD.Exif)
    focal = details.get(ExifTags.Base.FocalLength) or details.get(ExifTags.Base.FocalLengthIn35mmFilm)
    if not focal:
        return ()
    named = (exif.get(tag, "") for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    return (*map(str, named), str(focal), str(details.get(ExifTags.Base.FocalLengthIn35mmFilm, "")))


def _prepare_mask(
    source: Path, target: Path, stored: tuple[int, int], upright: tuple[int, int], orientation: int
) -> None:
    """Write a mask that fits the upright photo. One of the size of the photo as stored is turned as the photo was."""
    mask = Image.fromarray(read_mask(source))
    if mask.width * upright[1] != mask.height * upright[0] and mask.width * stored[1] == mask.height * stored[0]:
        mask.getexif()[ExifTags.Base.Orientation] = orientation
        mask = ImageOps.exif_transpose(mask)
    if mask.width * upright[1] != mask.height * upright[0]:
        raise UserError(
            f"the mask {source} is {mask.width} × {mask.height} and its photo {upright[0]} × {upright[1]}: give them "
            "the same proportions"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    mask = mask.resize(upright, Image.Resampling.NEAREST)
    _replacing(target, lambda path: mask.save(path, format="PNG"))


def groups_of(cameras: dict[str, tuple[str, ...]]) -> list[list[str]]:
    """The names of photos, parted by what `prepare_photo` said of them: one camera each."""
    groups = defaultdict[tuple[str, ...], list[str]](list)
    for name in sorted(cameras):
        groups[cameras[name]].append(name)
    return list(groups.values())


def link(source: Path, target: Path) -> None:
    """A link `target` to the file `source`, or a copy where the file system has no links."""
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def _replacing(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, and move it there."""
    temporary = path.with_name(f".gns-{os.getpid()}-photo.tmp")
    temporary.unlink(missing_ok=True)
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
