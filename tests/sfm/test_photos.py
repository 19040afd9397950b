"""Photos as people have them: turned, masked, with blanks in their names, of several cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from gns.errors import UserError
from gns.sfm.photos import SourcePhoto, find_photos, groups_of, list_photos, prepare_photo

# A photo that is bright in its left upper corner.
PIXELS = np.zeros((32, 48, 3), np.uint8)
PIXELS[:16, :16] = 255


def save(path: Path, *, orientation: int = 1, focal: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    if focal:
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = focal
        exif[ExifTags.Base.Model] = "Camera"
    Image.fromarray(PIXELS).save(path, exif=exif)
    return path


def bright_corner(path: Path) -> tuple[bool, bool]:
    """(is it below, is it at the right)."""
    grey = np.asarray(Image.open(path).convert("L"), float)
    below, right = np.argwhere(grey > 128).mean(axis=0) > np.array(grey.shape) / 2
    return bool(below), bool(right)


# EXIF's orientation says where the stored first row and first column are seen.
@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [
        (1, (48, 32), (False, False)),
        (3, (48, 32), (True, True)),
        (6, (32, 48), (False, True)),
        (8, (32, 48), (True, False)),
    ],
)
def test_photos_and_their_masks_stand_upright(
    tmp_path: Path, orientation: int, size: tuple[int, int], corner: tuple[bool, bool]
) -> None:
    source = save(tmp_path / "a.jpg", orientation=orientation, focal=26)
    mask = tmp_path / "mask.png"
    Image.fromarray(PIXELS[:, :, 0]).save(mask)
    camera = prepare_photo(SourcePhoto(source, mask, "a.jpg"), tmp_path / "out")
    photo = tmp_path / "out" / "images" / "a.jpg"
    with Image.open(photo) as picture:
        assert picture.size == size
        assert picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
        assert picture.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] == 26
    assert bright_corner(photo) == corner
    assert photo.is_symlink() == (orientation == 1)  # not decoded where that is not needed
    if size == (32, 48):  # of a square or half-turned photo nobody can tell how the mask was meant
        assert bright_corner(tmp_path / "out" / "masks" / "a.jpg.png") == corner
    assert camera == (f"{size[0]} × {size[1]}", "", "Camera", "26", "26")


def test_a_mask_that_was_drawn_on_the_upright_photo_stays_as_it_is(tmp_path: Path) -> None:
    source, mask = save(tmp_path / "a.jpg", orientation=6), tmp_path / "mask.png"
    Image.fromarray(np.rot90(PIXELS[:, :, 0], 2).T).save(mask)
    prepare_photo(SourcePhoto(source, mask, "a.jpg"), tmp_path / "out")
    assert bright_corner(tmp_path / "out" / "masks" / "a.jpg.png") == bright_corner(mask)


def test_other_formats_become_png(tmp_path: Path) -> None:
    deep = PIXELS[:, :, 0].astype(np.uint16) * 257
    (tmp_path / "p").mkdir()
    Image.fromarray(deep).save(tmp_path / "p" / "a b.tif")
    save(tmp_path / "p" / "c.jpg")
    photos = list_photos(tmp_path / "p", tmp_path / "p", [], [])
    assert [photo.name for photo in photos] == ["a_b.png", "c.jpg"]
    prepare_photo(photos[0], tmp_path / "out")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "images" / "a_b.png")), PIXELS)


def test_masks_are_found_and_are_no_photos(tmp_path: Path) -> None:
    for name in ("images/1.jpg", "images/2.jpg", "masks/1.jpg.png"):
        save(tmp_path / name)
    root, scene = find_photos(tmp_path)
    assert (root, scene) == (tmp_path / "images", Path("scenes") / tmp_path.name)
    for source, photos in ((tmp_path, root), (root, root)):
        masks = [photo.mask for photo in list_photos(source, photos, [], [])]
        assert masks == [tmp_path / "masks" / "1.jpg.png", None]
    (tmp_path / "images").rename(tmp_path / "input")
    assert find_photos(tmp_path) == (tmp_path / "input", tmp_path)  # the layout of 3DGS: made in place
    (tmp_path / "masks").rename(tmp_path / "input" / "masks")
    assert len(list_photos(tmp_path, tmp_path / "input", [], [])) == 2


def test_no_two_photos_get_one_name(tmp_path: Path) -> None:
    for name in ("a b.jpg", "a_b.jpg", "sub/a b.jpg"):
        save(tmp_path / name)
    names = [photo.name for photo in list_photos(tmp_path, tmp_path, [], [])]
    assert sorted(names) == ["a_b.jpg", "a_b_.jpg", "sub/a_b.jpg"]


def test_photos_are_parted_by_camera(tmp_path: Path) -> None:
    details = {"1.jpg": 26, "2.jpg": 13, "3.jpg": 26, "x/4.jpg": None, "y/5.jpg": None, "x/6.jpg": None}
    cameras = {}
    for name, focal in details.items():
        save(tmp_path / name, focal=focal)
        cameras[name] = prepare_photo(SourcePhoto(tmp_path / name, None, name), tmp_path / "out")
    assert groups_of(cameras) == [["1.jpg", "3.jpg"], ["2.jpg"], ["x/4.jpg", "x/6.jpg"], ["y/5.jpg"]]


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["a.HEIC", "b.heic"], r"holds 2 photos in a camera's own format \(a.HEIC, b.heic\): export them as JPEG"),
        (["notes.txt"], "holds no photos: give a folder of photos or a video"),
    ],
)
def test_a_folder_without_photos_is_refused(tmp_path: Path, files: list[str], sentence: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"something")
    with pytest.raises(UserError, match=sentence):
        find_photos(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        find_photos(tmp_path / "missing")


def test_a_damaged_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.jpg cannot be read as an image"):
        prepare_photo(SourcePhoto(tmp_path / "a.jpg", None, "a.jpg"), tmp_path / "out")


def test_a_mask_of_other_proportions_is_refused(tmp_path: Path) -> None:
    Image.fromarray(PIXELS[:, :40, 0]).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="same proportions"):
        prepare_photo(SourcePhoto(save(tmp_path / "a.jpg"), tmp_path / "m.png", "a.jpg"), tmp_path / "out")
