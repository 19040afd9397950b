"""A photo, and the camera that took it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gns.scene.camera import Camera
from gns.utils.edges import find_edges, grey_levels


@dataclass(frozen=True, eq=False)
class View:
    """A camera and the photo it took."""

    camera: Camera
    image: Tensor  # uint8 [H, W, 3]
    mask: Tensor | None = None  # bool [H, W]; False pixels give no loss
    alpha: Tensor | None = None  # uint8 [H, W], of a photo with transparency; the image is composed already
    inverse_depth: Tensor | None = None  # float32 [H, W], 1/world units, of a depth map

    def over(self, background: Tensor, composed_on: Tensor) -> Tensor:
        """The photo over another background than the one that it was `composed_on`, uint8 [H, W, 3].

        Both are RGB in [0, 1], [3]. A photo without transparency stays as it is.
        """
        if self.alpha is None:
            return self.image
        seen_through = 1 - self.alpha[:, :, None].float() / 255
        changed = self.image.float() + 255 * seen_through * (background - composed_on)
        return changed.clamp(0, 255).add(0.5).to(torch.uint8)

    @cached_property
    def _edge_levels(self) -> Tensor:
        return find_edges(grey_levels(self.image))

    @property
    def edges(self) -> Tensor:
        """Edge strength in [0, 1], float32 [H, W]: FIND_EDGES of the grey image, min-max normalised over the view.

        The 3×3 filter runs once; it is kept as uint8, a quarter of the float map.
        """
        levels = self._edge_levels.float()
        low, high = levels.min(), levels.max()
        return (levels - low) / (high - low).clamp(min=1.0)
