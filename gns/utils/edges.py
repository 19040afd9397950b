"""Grey levels and edges of a photo on any device, to the last bit as Pillow makes them."""

from __future__ import annotations

import torch
from torch import Tensor

# ITU-R 601 luma in units of 2⁻¹⁶.
_LUMA = (19595, 38470, 7471)


def grey_levels(pixels: Tensor) -> Tensor:
    """uint8 [H, W, 3] as grey uint8 [H, W]: `Image.convert("L")`."""
    red, green, blue = pixels.to(torch.int32).unbind(-1)
    luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
    return (luma + 0x8000 >> 16).to(torch.uint8)


def find_edges(grey: Tensor) -> Tensor:
    """8·centre − its eight neighbours, held to 0 … 255, uint8 [H, W]: `ImageFilter.FIND_EDGES`, border as given."""
    edges = grey.clone()
    height, width = grey.shape
    if min(height, width) < 3:
        return edges
    levels = grey.to(torch.int32)
    across = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    around = across[:-2] + across[1:-1] + across[2:]
    edges[1:-1, 1:-1] = (9 * levels[1:-1, 1:-1] - around).clamp(0, 255).to(torch.uint8)
    return edges
