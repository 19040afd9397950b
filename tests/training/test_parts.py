"""A part trained beside the Gaussians: it learns, is in the checkpoint, and goes on to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gns.run_folder import RunFolder
from gns.scene import Scene
from gns.testing.colour_gain import ColourGain
from gns.testing.tiny import TINY_ITERATIONS, same_state, tiny_config
from gns.training.loop import Trainer, train
from gns.training.parts import Part

STOP = 33  # an odd number: the part has a gradient then that it has not spent


@pytest.fixture(scope="module")
def tinted(scene: Scene) -> Scene:
    """Photos of which the first has too much red and too little blue."""
    first, *others = scene.train
    tint = torch.tensor([1.0, 0.7, 0.4])
    image = (first.image * tint).round().to(torch.uint8)
    return replace(scene, train=[replace(first, image=image), *others])


def _part() -> ColourGain:
    return ColourGain(4, period=2)


@pytest.fixture(scope="module")
def whole(tinted: Scene) -> dict[str, Any]:
    """The final state of an undisturbed run with a part."""
    state: dict[str, Any] = train(tinted, tiny_config(), parts=[_part()]).state_dict()
    return state


def test_a_colour_gain_is_a_part() -> None:
    part: Part = ColourGain(4)
    assert part.name == "colour_gain"


def test_a_part_learns(tinted: Scene, whole: dict[str, Any]) -> None:
    gains = whole["parts"]["colour_gain"]["gains"]
    red, green, blue = (gains[0] / gains[1:].mean(dim=0)).tolist()
    assert red > green > blue and blue < 0.95 * red
    alone = train(tinted, tiny_config())
    assert not torch.equal(alone.population.gaussians.sh_dc, whole["population"]["groups"]["sh_dc"]["parameter"])


def test_a_part_resumes_bit_equally(tinted: Scene, whole: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    trainer = Trainer(config, tinted, parts=[_part()])
    state = trainer.begin()
    while state.iteration < STOP:
        trainer.advance(state)
    assert state.state_dict()["parts"]["colour_gain"]["gradient"].any()
    folder.save_checkpoint(state.state_dict(), STOP)
    part = _part()
    continued = train(tinted, config, resume_from=folder.load_checkpoint(), parts=[part])
    assert continued.iteration == TINY_ITERATIONS
    assert same_state(continued.state_dict(), whole)
    assert torch.equal(part.gains.detach(), whole["parts"]["colour_gain"]["gains"])


@pytest.mark.usefixtures("summed_gradients")
def test_parts_come_in_order_and_only_at_their_own_view(scene: Scene) -> None:
    """The first is applied first; each hears the number of the training view; steps come in every iteration.

    The Gaussians step only after several iterations by then: a part has its own mind about when.
    """
    calls: list[Any] = []

    class Noting(ColourGain):
        def __init__(self, name: str) -> None:
            super().__init__(4)
            self.name = name

        def applied(self, image: torch.Tensor, view: int) -> torch.Tensor:
            calls.append((self.name, view))
            return super().applied(image, view)

        def step(self, it: int) -> None:
            calls.append((self.name, f"step {it}"))
            super().step(it)

    trainer = Trainer(tiny_config(), scene, parts=[Noting("one"), Noting("two")])
    state = trainer.begin()
    sampler = trainer.begin().sampler
    state.iteration = 245
    for _ in range(5):
        trainer.advance(state)
    expected: list[Any] = []
    for it in range(246, 251):
        view = sampler.next()
        expected += [("one", view), ("two", view), ("one", f"step {it}"), ("two", f"step {it}")]
    assert calls == expected
