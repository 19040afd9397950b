"""What the tests of training share: a tiny scene, and what an undisturbed run on it comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from gns.losses.photometric import photometric_loss
from gns.scene import Scene
from gns.testing.tiny import planted_calendars, summing_calendars, tiny_config, tiny_scene
from gns.training.loop import train

Plant = Callable[[int, Callable[[], Any]], None]


@pytest.fixture(scope="session")
def scene() -> Scene:
    return tiny_scene()


@pytest.fixture
def summed_gradients() -> Iterator[None]:
    """A calendar whose optimiser sums gradients at the end, which a scaled one does not do in so short a run."""
    with planted_calendars(summing_calendars()):
        yield


@pytest.fixture(scope="session")
def _undisturbed(scene: Scene) -> dict[str, Any]:
    with planted_calendars(summing_calendars()):
        state: dict[str, Any] = train(scene, tiny_config()).state_dict()
    return state


@pytest.fixture
def undisturbed(_undisturbed: dict[str, Any], summed_gradients: None) -> dict[str, Any]:
    """The final state of a run with `summed_gradients`, which hold in the test too."""
    return _undisturbed


@pytest.fixture
def at_loss(monkeypatch: pytest.MonkeyPatch) -> Plant:
    """`at_loss(it, action)`: let `action` happen in the loss of the `it`-th iteration from now on.

    A tensor that it returns multiplies that loss.
    """

    def plant(iteration: int, action: Callable[[], Any]) -> None:
        calls = 0

        def replacement(*arguments: Any, **options: Any) -> Tensor:
            nonlocal calls
            calls += 1
            loss = photometric_loss(*arguments, **options)
            factor = action() if calls == iteration else None
            return loss * factor if isinstance(factor, torch.Tensor) else loss

        monkeypatch.setattr("gns.training.loop.photometric_loss", replacement)

    return plant
