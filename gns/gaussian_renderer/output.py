"""What every renderer returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScreenGradients:
    """Which gradients by the means on the screen the backward pass leaves in a `RenderOutput`."""

    absolute: bool = False  # of `abs_grad`; costs a few percent
    signed: bool = False  # of `signed_grad`; costs next to nothing

    def __or__(self, other: ScreenGradients) -> ScreenGradients:
        """What either asks for."""
        return ScreenGradients(self.absolute or other.absolute, self.signed or other.signed)

    def __bool__(self) -> bool:
        """Whether any is asked for."""
        return self.absolute or self.signed


ABSOLUTE = ScreenGradients(absolute=True)


@dataclass(frozen=True, eq=False)
class RenderOutput:
    """A rendered view and what training asks of it."""

    image: Tensor  # [3, H, W], colour over the background
    alpha: Tensor  # [H, W], 1 − the transmittance that is left
    radii: Tensor  # [N], largest half-extent of the α ≥ 1/255 ellipse in pixels; 0 where the Gaussian is not drawn
    # [N, 2], filled by backward: sum over pixels of |∂loss/∂mean2d| times (W/2, H/2); zero before. [0, 2] if not asked.
    abs_grad: Tensor
    inverse_depth: Tensor | None = None  # [H, W], Σ T·α/z in 1/world units, without a background; where asked for
    counts: Tensor | None = None  # int32 [H, W], how many Gaussians contribute to the pixel; where asked for
    importance: Tensor | None = None  # [N], sum over pixels of edge·T·α, when an edge map was given
    # The same without the bars, so ∂loss/∂mean2d itself; 3DGS grows by its length (Kerbl et al. 2023, section 5.2).
    signed_grad: Tensor = field(default_factory=lambda: torch.empty(0, 2))
