"""What every renderer returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class ScreenGradients:
    """Which gradients of the 2D means the backward pass fills."""

    absolute: bool = False
    signed: bool = False

    def __bool__(self) -> bool:
        return self.absolute or self.signed

    def __or__(self, other: ScreenGradients) -> ScreenGradients:
        return ScreenGradients(self.absolute or other.absolute, self.signed or other.signed)


@dataclass(frozen=True, eq=False)
class RenderOutput:
    """A rendered view and what training asks of it."""

    image: Tensor  # [3, H, W], colour over the background
    alpha: Tensor  # [H, W], 1 − the transmittance that is left
    radii: Tensor  # [N], largest half-extent of the α ≥ 1/255 ellipse in pixels; 0 where the Gaussian is not drawn
    # [N, 2], filled by backward: sum over pixels of |∂loss/∂mean2d| times (W/2, H/2); zero before. [0, 2] if not asked.
    abs_grad: Tensor
    importance: Tensor | None = None  # [N], sum over pixels of edge·T·α, when an edge map was given
