"""Supervision by depth maps, as 3DGS has it with `--depths` (README of 3DGS, "Depth regularization")."""

from __future__ import annotations

import math

from torch import Tensor

from gns.gaussian_renderer.output import RenderOutput
from gns.scene.view import View


def inverse_depth_loss(output: RenderOutput, view: View) -> Tensor:
    """Mean |D − d| over the pixels, of the expected inverse depth D and that of the view's map; masked ones give 0.

    Neither is divided by how much of the pixel is covered: a hole is as wrong as a surface at infinity.
    """
    assert output.inverse_depth is not None and view.inverse_depth is not None
    off = (output.inverse_depth - view.inverse_depth).abs()
    return (off if view.mask is None else off * view.mask).mean()


def decayed_weight(it: int, iterations: int, first: float, last: float) -> float:
    """From `first` at the beginning to `last` at the end, both positive, by the same factor in every iteration."""
    return math.exp(math.log(first) + (math.log(last) - math.log(first)) * it / iterations)
