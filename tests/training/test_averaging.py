"""The mean of the last steps: which steps count, that training does not notice, and what a checkpoint holds of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gns.arguments import TrainConfig
from gns.errors import UserError
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene
from gns.scene.gaussians import Gaussians
from gns.testing.tiny import TINY_ITERATIONS, same_state, tiny_config
from gns.training.loop import Trainer, train
from gns.training.state import TrainState

AVERAGED = 0.1  # of 300 iterations; in `summed_gradients` steps are made at 273, 280, 287 and 294 of them
STEPS = (273, 280, 287, 294)


def _advanced(config: TrainConfig, scene: Scene, until: int, earlier: TrainState | None = None) -> TrainState:
    """The state after `until` iterations, from the beginning or from an earlier one on."""
    trainer = Trainer(config, scene)
    state = trainer.begin(earlier)
    while state.iteration < until:
        trainer.advance(state)
    return state


def _copied(gaussians: Gaussians) -> dict[str, Tensor]:
    return {name: values.detach().clone() for name, values in gaussians.named_tensors()}


def test_the_model_is_the_mean_over_the_last_steps_and_training_does_not_notice(
    scene: Scene, undisturbed: dict[str, Any]
) -> None:
    trainer = Trainer(tiny_config(weight_averaging=AVERAGED), scene)
    state = trainer.begin()
    after: dict[int, dict[str, Tensor]] = {}
    while state.iteration < TINY_ITERATIONS:
        trainer.advance(state)
        parameters = _copied(state.population.gaussians)
        assert state.iteration >= STEPS[0] or same_state(dict(state.gaussians.named_tensors()), parameters)
        if state.iteration in STEPS:
            after[state.iteration] = parameters
    assert not torch.equal(after[273]["means"], after[294]["means"])
    for name, values in state.gaussians.named_tensors():
        mean = torch.stack([parameters[name].double() for parameters in after.values()]).mean(0)
        assert torch.allclose(values.double(), mean, rtol=1e-6, atol=1e-7), name
    ended = state.state_dict()
    assert ended["population"]["mean"]["steps"] == len(STEPS)
    ended["population"]["mean"] = None
    assert same_state(ended, undisturbed)


@pytest.mark.parametrize("stop", [200, 273, 285, 299])
def test_continued_in_the_mean_is_bit_equal(scene: Scene, summed_gradients: None, stop: int, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, weight_averaging=AVERAGED)
    whole = train(scene, config)
    folder = RunFolder.create(config.model_path, config)
    state = _advanced(config, scene, stop)
    folder.save_checkpoint(state.state_dict(), stop)
    continued = train(scene, replace(config, resume=True), resume_from=folder.load_checkpoint())
    assert same_state(continued.state_dict(), whole.state_dict())
    assert same_state(dict(continued.gaussians.named_tensors()), dict(whole.gaussians.named_tensors()))


def test_a_longer_run_goes_on_from_the_parameters_and_averages_its_own_end(scene: Scene) -> None:
    """The mean of a run that was to end at 300 says nothing about one that ends at 400."""
    ended = train(scene, tiny_config(weight_averaging=AVERAGED))
    longer = tiny_config(iterations=400, weight_averaging=AVERAGED)
    assert _advanced(longer, scene, 301, ended).population.mean is None
    state = _advanced(longer, scene, 400, ended)
    assert state.state_dict()["population"]["mean"]["steps"] == 40


def test_a_mean_that_is_not_finite_is_refused(scene: Scene) -> None:
    config = tiny_config(weight_averaging=AVERAGED)
    saved = _advanced(config, scene, 275).state_dict()
    saved["population"]["mean"]["values"]["quats"][3, 1] = torch.nan
    with pytest.raises(UserError, match="the checkpoint of iteration 275 holds mean quats that are not finite"):
        train(scene, config, resume_from=saved)


def test_a_checkpoint_from_before_there_were_means_goes_on(
    scene: Scene, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path)
    folder = RunFolder.create(config.model_path, config)
    earlier = _advanced(config, scene, 280).state_dict()
    del earlier["population"]["mean"]
    folder.save_checkpoint(earlier, 280)
    assert "mean" not in read_checkpoint(folder.checkpoint_path(280))["population"]
    assert same_state(train(scene, config, resume_from=folder.load_checkpoint()).state_dict(), undisturbed)
