"""Grey levels and edges equal Pillow's to the last bit: the survey of published results was made with those."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from gns.utils.edges import find_edges, grey_levels


def test_grey_of_every_third_colour() -> None:
    levels = np.arange(0, 256, 3, dtype=np.uint8)
    pixels = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    assert (grey_levels(torch.from_numpy(pixels)).numpy() == np.array(Image.fromarray(pixels).convert("L"))).all()


@pytest.mark.parametrize("size", [(40, 30), (3, 3), (2, 9), (9, 2), (1, 1), (3, 50)])
def test_edges(size: tuple[int, int]) -> None:
    random = np.random.default_rng(size[0])
    for high in (256, 12):  # sharp noise, most of which is clipped, and faint noise
        grey = random.integers(0, high, size, dtype=np.uint8)
        expected = np.array(Image.fromarray(grey).filter(ImageFilter.FIND_EDGES))
        assert (find_edges(torch.from_numpy(grey)).numpy() == expected).all()
