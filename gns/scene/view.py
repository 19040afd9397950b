"""A photo, and the camera that took it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from gns.scene.camera import Camera
from gns.utils.edges import find_edges, grey_levels


@dataclass(frozen=True, eq=False)
class View:
    """A camera and the photo it took."""

    camera: Camera
    image: Tensor  # uint8 [H, W, 3]
    mask: Tensor | None = None  # bool [H, W]; False pixels give no loss

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
