"""Which view comes next."""

from __future__ import annotations

from typing import Any

import torch

from gns.errors import UserError


class ViewSampler:
    """Views without replacement inside an epoch, each epoch in a new order from the generator."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        """`count` views, at least one; the sampler alone draws from `generator` from now on."""
        self._count = count
        self._generator = generator
        self._order = torch.empty(0, dtype=torch.int64)  # of the epoch under way
        self._position = 0  # in it

    def next(self) -> int:
        """Index of the next view."""
        if self._position == len(self._order):
            self._order = torch.randperm(self._count, generator=self._generator)
            self._position = 0
        index = int(self._order[self._position])
        self._position += 1
        return index

    def upcoming(self, count: int) -> list[int]:
        """Indices of the next `count` views, as far as this epoch has so many; nothing is drawn."""
        coming: list[int] = self._order[self._position : self._position + count].tolist()
        return coming

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the views to come: tensors and integers only."""
        return {
            "count": self._count,
            "order": self._order.clone(),
            "position": self._position,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises UserError where it belongs to another number of views."""
        if state["count"] != self._count:
            raise UserError(
                f"the checkpoint was made with {state['count']} training views and the scene has {self._count}: "
                "use the scene and the options it was made with"
            )
        self._order = state["order"].clone()
        self._position = state["position"]
        self._generator.set_state(state["generator"])
