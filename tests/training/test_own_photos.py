"""Options for photos with transparency, and for pictures of any size: what they change, and that nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gns
from gns.errors import UserError
from gns.gaussian_renderer import render
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Scene, View
from gns.scene.ply import load_ply, save_ply
from gns.testing.tiny import same_state, small_gaussians, tiny_config, tiny_scene
from gns.training.loop import Trainer, train


def transparent_scene() -> Scene:
    """The tiny scene as photos with an alpha channel, composed on black."""
    truth = small_gaussians(400, torch.Generator().manual_seed(0), sigma=0.03)

    def photographed(view: View) -> View:
        output = render(view.camera, truth, (0, 0, 0))
        alpha = (255 * output.alpha).round().byte()
        colours = (255 * output.image.clamp(0, 1)).round().byte().permute(1, 2, 0)
        return replace(view, image=torch.minimum(colours, alpha[:, :, None]).contiguous(), alpha=alpha)

    scene = tiny_scene()
    return replace(scene, train=[photographed(view) for view in scene.train])


def test_a_photo_is_composed_anew() -> None:
    black, grey = torch.zeros(3), torch.tensor([0.5, 0.25, 1.0])
    view = transparent_scene().train[0]
    assert view.alpha is not None and 0 < view.alpha.float().mean() < 250
    assert torch.equal(view.over(black, black), view.image)
    over = view.over(grey, black)
    seen = view.alpha == 0
    assert seen.any() and (over[seen] == torch.tensor([128, 64, 255], dtype=torch.uint8)).all()
    back = replace(view, image=over).over(black, grey)
    assert (back.int() - view.image.int()).abs().max() <= 1
    opaque = replace(view, alpha=None)
    assert opaque.over(grey, black) is opaque.image


def test_random_backgrounds_leave_no_colour_of_the_background_in_the_model() -> None:
    """On black, a black Gaussian in the air costs nothing; the photos' alpha is what it must answer to."""
    scene = transparent_scene()

    def off(random_background: bool) -> float:
        state = train(scene, tiny_config(iterations=200, random_background=random_background))
        errors = []
        for view in scene.train:
            assert view.alpha is not None
            drawn = render(view.camera, state.gaussians, (0, 0, 0)).alpha
            errors.append((drawn - view.alpha / 255).abs().mean())
        return float(torch.stack(errors).mean())

    assert off(True) < 0.9 * off(False)


def test_a_run_with_random_backgrounds_resumes_to_the_same_bits(tmp_path: Path) -> None:
    scene = transparent_scene()
    config = tiny_config(tmp_path, iterations=40, random_background=True)
    trainer = Trainer(config, scene)
    state = trainer.begin()
    for _ in range(20):
        trainer.advance(state)
    run = RunFolder.create(config.model_path, config)
    path = run.save_checkpoint(state.state_dict(), 20)
    again = trainer.begin(read_checkpoint(path))
    for _ in range(20):
        trainer.advance(state)
        trainer.advance(again)
    assert same_state(state.state_dict(), again.state_dict())


def test_the_alpha_of_arrays_is_kept() -> None:
    camera = tiny_scene().train[0].camera
    pixels = torch.zeros(30, 40, 4, dtype=torch.uint8)
    pixels[:, :20, 3] = 255
    scene = gns.Scene.from_arrays([camera], [pixels], tiny_scene().points)
    assert scene.train[0].alpha is not None and torch.equal(scene.train[0].alpha, pixels[:, :, 3])
    assert gns.Scene.from_arrays([camera], [pixels[:, :, :3].contiguous()], tiny_scene().points).train[0].alpha is None


def test_an_antialiased_run_hands_out_an_antialiased_model(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, iterations=30, antialiasing=True)
    state = train(tiny_scene(), config)
    assert state.gaussians.antialiased and state.population.gaussians.antialiased
    run = RunFolder.create(config.model_path, config)
    path = run.save_model(state.gaussians, 30)
    assert load_ply(path).antialiased and gns.load(config.model_path).antialiased
    trainer = Trainer(replace(config, iterations=31), tiny_scene())
    assert trainer.begin(state).population.gaussians.antialiased
    plain = replace(state.gaussians, antialiased=False)
    camera = tiny_scene().train[0].camera
    assert not torch.equal(render(camera, plain, (0, 0, 0)).image, render(camera, state.gaussians, (0, 0, 0)).image)


def test_the_config_tells_where_another_program_has_dropped_the_comment(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, antialiasing=True)
    run = RunFolder.create(config.model_path, config)
    run.save_model(small_gaussians(100, torch.Generator()), 30)
    assert not load_ply(run.model_path(30)).antialiased
    assert run.load_model().antialiased


def test_a_plain_models_file_has_no_further_byte(tmp_path: Path) -> None:
    model = small_gaussians(100, torch.Generator())
    save_ply(model, tmp_path / "a.ply")
    save_ply(replace(model, antialiased=True), tmp_path / "b.ply")
    plain, told = (tmp_path / "a.ply").read_bytes(), (tmp_path / "b.ply").read_bytes()
    assert told.replace(b"comment antialiased\n", b"") == plain and told != plain


@pytest.mark.parametrize(
    "options",
    [{"depth_l1_weight_init": 0.0}, {"depth_l1_weight_final": -1.0}, {"free_space_weight": -0.1}],
)
def test_weights_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(options)).replace("_", "-")):
        tiny_config(**options)
