"""An example of a part: a gain for each colour of each photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class ColourGain:
    """Corrects the white balance of every training view, by plain gradient descent.

    It steps after every `period` iterations, on the sum of their gradients.
    """

    name = "colour_gain"

    def __init__(self, views: int, *, rate: float = 0.05, period: int = 1) -> None:
        self.gains = torch.ones(views, 3, requires_grad=True)
        self.gains.grad = torch.zeros(views, 3)
        self._rate = rate
        self._period = period

    def applied(self, image: Tensor, view: int) -> Tensor:
        """The `image` [3, H, W] with the colours of training view number `view`."""
        return image * self.gains[view].view(3, 1, 1)

    def sums(self) -> Sequence[Tensor]:
        """The gradient, which each view adds to."""
        assert self.gains.grad is not None
        return [self.gains.grad]

    @torch.no_grad()
    def step(self, it: int) -> None:
        """Go downhill, and forget the gradient."""
        if it % self._period == 0:
            (gradient,) = self.sums()
            self.gains -= self._rate * gradient
            gradient.zero_()

    def remark(self) -> None:
        """Nothing is told."""

    def record(self) -> None:
        """Nothing is kept beside the model."""

    def state_dict(self) -> dict[str, Any]:
        """The gains, and what is left of their gradient."""
        return {"gains": self.gains.detach(), "gradient": self.gains.grad}

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `saved` was taken. Raises KeyError or RuntimeError where it does not fit."""
        self.gains.copy_(saved["gains"])
        self.sums()[0].copy_(saved["gradient"])
