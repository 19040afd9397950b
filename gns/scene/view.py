"""A photo, and the camera that took it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gns.scene.camera import Camera
from gns.utils.edges import find_edges, grey_levels


@dataclass(frozen=True, eq=False)
class View:
    """A camera and the photo it took.

    The pixels of some views are decoded when they are asked for (`gns.scene.on_demand`); everything works with those
    alike.
    """

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

    def decoded(self) -> View:
        """The view with its pixels in memory, for as long as somebody holds on to the result: itself."""
        return self

    def decode_ahead(self) -> None:
        """Hear that `decoded` will soon be called: nothing is to be done, the pixels are there."""

    def changed(self, camera: Camera, change: Callable[[View], View]) -> View:
        """`change(self)`, whose camera is to be `camera`; of a view on demand later, each time its photo is decoded."""
        return change(self)

    @property
    def has_mask(self) -> bool:
        """Whether some pixels may not count, known without decoding anything."""
        return self.mask is not None

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.image.device

    @property
    def nbytes(self) -> int:
        """Memory of the photo with what belongs to its pixels, and with the edge map that a survey adds."""
        beside = (self.mask, self.alpha, self.inverse_depth)
        edges = self.image.shape[0] * self.image.shape[1]
        return self.image.nbytes + edges + sum(more.nbytes for more in beside if more is not None)

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
