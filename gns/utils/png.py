"""Images in [0, 1] to 8-bit PNG files and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gns.errors import UserError
from gns.utils.atomic_files import atomic_file
from gns.utils.open_picture import opened_picture


def to_eight_bit(image: Tensor) -> Tensor:
    """An image [3, H, W] as uint8 [H, W, 3] on its device: clamped to [0, 1] and rounded to the nearest level."""
    return image.detach().clamp(0, 1).mul(255).add(0.5).to(torch.uint8).permute(1, 2, 0)


def from_eight_bit(pixels: Tensor) -> Tensor:
    """uint8 [H, W, 3] as float32 [3, H, W] in [0, 1]."""
    return pixels.permute(2, 0, 1).float() / 255


def write_png(path: Path, pixels: Tensor) -> None:
    """Write uint8 [H, W, 3] or [H, W] losslessly and atomically. Raises UserError where `path` cannot be written."""
    with atomic_file(path) as file:
        Image.fromarray(pixels.contiguous().numpy()).save(file, format="PNG")


def read_png(path: Path) -> Tensor:
    """The pixels of an image file, uint8 [H, W, 3]. Raises UserError where it is missing or no image."""
    try:
        with opened_picture(path) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))
    except Exception as error:  # the decoders know many ways to be displeased
        raise UserError(f"cannot read the image {path} ({error}): delete it and render again") from None
