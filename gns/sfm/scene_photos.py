"""The photos and masks of the finished scene: undistorted, or as they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from gns.sfm.photos import JPEG_QUALITY
from gns.utils.images import read_image, read_mask
from gns.utils.undistortion import Lens, undistort

REDUCTIONS = (2, 4, 8)  # of images_2, images_4 and images_8


def write_photos(
    distorted: Path,
    scene: Path,
    photos: Mapping[str, Any],
    cameras: Mapping[str, Mapping[str, Any]],
    *,
    undistorting: bool,
    tell: Callable[[int, int], None],
) -> None:
    """Write `scene`/images and, for photos that have one, `scene`/masks from those in `distorted`.

    `photos` has the camera of each by name, `cameras` the parameters (`gns.sfm.process`). A photo whose lens moves no
    pixel noticeably is copied byte for byte: resampling would only blur.
    """
    lenses = {
        number: Lens.from_parameters(camera["model"], camera["width"], camera["height"], tuple(camera["parameters"]))
        for number, camera in cameras.items()
    }
    for done, (name, number) in enumerate(sorted(photos.items())):
        tell(done, len(photos))
        lens = lenses[str(number)]
        changing = undistorting and not lens.is_pinhole
        photo, mask = Path("images") / name, Path("masks") / f"{name}.png"
        if changing:
            _write(scene / photo, undistort(read_image(distorted / photo), lens))
        else:
            _copy(distorted / photo, scene / photo)
        if not (distorted / mask).exists():
            continue
        if changing:
            _write(scene / mask, np.where(undistort(read_mask(distorted / mask), lens) < 128, 0, 255).astype(np.uint8))
        else:
            _copy(distorted / mask, scene / mask)
    tell(len(photos), len(photos))


def write_reduced(scene: Path, names: Iterable[str], tell: Callable[[int, int], None]) -> None:
    """Write images_2, images_4 and images_8, as convert.py of 3DGS does on request: bicubic, from images/."""
    listed = sorted(names)
    for done, name in enumerate(listed):
        tell(done, len(listed))
        image = Image.fromarray(read_image(scene / "images" / name))
        for factor in REDUCTIONS:
            size = max(1, round(image.width / factor)), max(1, round(image.height / factor))
            _write(scene / f"images_{factor}" / name, np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
    tell(len(listed), len(listed))


def _write(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".png":
        Image.fromarray(pixels).save(path)
    else:
        Image.fromarray(pixels).save(path, quality=JPEG_QUALITY, subsampling=0)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
