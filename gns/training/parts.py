"""Parameters of a run that are no rows of the population: an exposure for each photo, corrected poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor


class Part(Protocol):
    """Something trained beside the Gaussians. It owns its parameters, their gradients and their optimiser."""

    name: str  # in checkpoints

    def applied(self, image: Tensor, view: int) -> Tensor:
        """What is compared with the photo of training view number `view` in place of the rendered `image` [3, H, W]."""
        ...

    def sums(self) -> Sequence[Tensor]:
        """What the backward pass of each view adds to, in place: added up over the processes that train together."""
        ...

    def step(self, it: int) -> None:
        """Spend the gradients of iteration `it`, and zero them."""
        ...

    def remark(self) -> str | None:
        """What the user should know, told once; None for nothing (yet)."""
        ...

    def record(self) -> Mapping[str, Any] | None:
        """What to keep beside a saved model, in the file NAME.json; None for nothing."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything above as tensors and numbers."""
        ...

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `saved` was taken. Raises KeyError, RuntimeError or ValueError where it does not fit."""
        ...
