"""Held-out views as pictures inside a page: JPEG in data URIs, no larger than they are looked at."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

WIDEST = 800  # pixels of a picture
NARROWEST = 240
MOST_PIXELS = 40_000_000  # of all pictures of a page: some 10 MB
QUALITY = 88
WHITE_AT = 0.25  # error, of the full range, that is drawn brightest

Pixels = npt.NDArray[np.uint8]


def width_for(pictures: int, size: tuple[int, int]) -> int:
    """The width to which `pictures` pictures of `size` (width, height) are reduced, so that a page stays small."""
    width, height = size
    allowed = (MOST_PIXELS / max(pictures, 1) * width / height) ** 0.5
    return min(width, max(NARROWEST, min(WIDEST, int(allowed))))


def read_reduced(path: Path, width: int) -> Pixels:
    """The RGB pixels of a picture, at most `width` wide. Raises OSError where there is none."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def error_picture(photo: Pixels, render: Pixels) -> Pixels:
    """The mean absolute difference of the channels, black where there is none, brightest from WHITE_AT on."""
    difference = np.abs(photo.astype(np.float32) - render.astype(np.float32)).mean(axis=2)
    levels = np.clip(difference / WHITE_AT, 0, 255).astype(np.uint8)
    coloured: Pixels = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1]
    return coloured


def data_uri(pixels: Pixels) -> str:
    """An RGB picture as text for `src`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
