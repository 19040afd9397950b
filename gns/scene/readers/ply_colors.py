"""Colours of points in PLY files: programs differ in names, types and ranges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.scene.gaussians import SH_C0

Column = npt.NDArray[Any]

_MID_GREY = 128
_NAMES = (
    ("red", "green", "blue"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),  # older MeshLab, PMVS
    ("r", "g", "b"),
)
_HARMONICS = ("f_dc_0", "f_dc_1", "f_dc_2")  # a model of the 3DGS family
# A picture whose brightest level is below 2 of 255 would be black: such floating-point numbers run from 0 to 1, perhaps
# with a little overshoot.
_BRIGHTEST_OF_UNIT_RANGE = 2


def colors_of(columns: Mapping[str, Column], count: int) -> npt.NDArray[np.uint8]:
    """[count, 3] from the columns of a file; mid-grey where it has no colours. Names may be in capitals."""
    found = {name.lower(): column for name, column in columns.items()}
    for names in _NAMES:
        if found.keys() >= set(names):
            return _eight_bit(np.stack([found[name] for name in names], axis=1))
    if found.keys() >= set(_HARMONICS):
        harmonics = np.stack([found[name] for name in _HARMONICS], axis=1).astype(np.float64)
        return _rounded(255 * (0.5 + SH_C0 * harmonics))
    return np.full((count, 3), _MID_GREY, np.uint8)


def _eight_bit(values: Column) -> npt.NDArray[np.uint8]:
    """Levels from 0 to 255. Bytes are kept; other numbers run to 1, 255 or 65535, which type and largest tell."""
    if values.dtype.itemsize == 1:
        return np.asarray(values.view(np.uint8))  # signed bytes are a slip of the header
    levels = values.astype(np.float64)
    largest = levels.max(where=np.isfinite(levels), initial=0.0)
    if values.dtype.kind == "f" and largest < _BRIGHTEST_OF_UNIT_RANGE:
        return _rounded(255 * levels)
    return _rounded(levels if largest < 256 else levels / 257)


def _rounded(levels: Column) -> npt.NDArray[np.uint8]:
    """The nearest of 0..255; mid-grey for what is not a number."""
    return np.asarray(np.nan_to_num(levels.clip(0, 255), nan=_MID_GREY).round(), np.uint8)
