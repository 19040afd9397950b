"""Reduced photos: their pixels and cameras belong together, masks keep their word, and training uses them in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import render
from gns.run_folder import RunFolder
from gns.scene import Gaussians, Scene, View
from gns.testing.tiny import cameras_on_an_arc, photographed, same_state, small_gaussians, tiny_config, tiny_scene
from gns.training import loop
from gns.training.loop import Trainer, train
from gns.training.scaled_views import SMALLEST_SIDE, ScaledViews, reduced

WIDTH, HEIGHT = 4 * SMALLEST_SIDE + 10, 4 * SMALLEST_SIDE + 3  # neither divides


@pytest.fixture(scope="module")
def gaussians() -> Gaussians:
    model = small_gaussians(100, torch.Generator().manual_seed(0))
    return replace(model, log_scales=model.log_scales + 1.2)  # many pixels large: a reduced picture shows the same


@pytest.fixture(scope="module")
def view(gaussians: Gaussians) -> View:
    (view,) = photographed(gaussians, cameras_on_an_arc(1, WIDTH, HEIGHT))
    return view


def _error(gaussians: Gaussians, view: View) -> float:
    image: Tensor = render(view.camera, gaussians, torch.zeros(3)).image
    return float((image.permute(1, 2, 0).clamp(0, 1) - view.image / 255).abs().mean())


@pytest.mark.parametrize("divisor", [2, 4])
def test_the_camera_belongs_to_the_reduced_photo(gaussians: Gaussians, view: View, divisor: int) -> None:
    """What made the photo makes the reduced one; a camera half a pixel beside does not."""
    small = reduced(view, divisor)
    assert (small.camera.width, small.camera.height) == (round(WIDTH / divisor), round(HEIGHT / divisor))
    assert small.image.shape == (small.camera.height, small.camera.width, 3)
    beside = replace(small, camera=replace(small.camera, cx=small.camera.cx + 0.5, cy=small.camera.cy + 0.5))
    assert _error(gaussians, small) < 0.6 * _error(gaussians, beside)


def test_a_pixel_is_the_mean_of_those_it_covers() -> None:
    (view,) = photographed(small_gaussians(5, torch.Generator()), cameras_on_an_arc(1, 128, 128))
    image = torch.randint(0, 256, (128, 128, 3), dtype=torch.uint8)
    mask = torch.ones(128, 128, dtype=torch.bool)
    mask[3, 4] = False
    small = reduced(View(view.camera, image, mask), 2)
    means = image.float().view(64, 2, 64, 2, 3).mean(dim=(1, 3))
    assert (small.image - means).abs().max() <= 0.51
    assert small.mask is not None
    assert (~small.mask).nonzero().tolist() == [[1, 2]]


def test_photos_are_not_reduced_beyond_recognition() -> None:
    views = tiny_scene().train
    assert reduced(views[0], 4) is views[0]
    (view,) = photographed(small_gaussians(5, torch.Generator()), cameras_on_an_arc(1, 400, 3 * SMALLEST_SIDE))
    assert reduced(view, 4).camera.height == SMALLEST_SIDE


def test_each_size_is_made_once_and_the_last_one_let_go(view: View) -> None:
    placed: list[int] = []

    def place(views: list[View]) -> list[View]:
        placed.append(views[0].camera.width)
        return views

    views = ScaledViews([view], place)  # type: ignore[arg-type]
    for divisor in (4, 4, 2, 1, 1):
        views.use(divisor)
    assert placed == [WIDTH, *(round(WIDTH / divisor) for divisor in (4, 2, 1))]
    assert views[0] is view and len(views) == 1 and list(views) == [view]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene(width=2 * SMALLEST_SIDE + 20, height=2 * SMALLEST_SIDE)


def test_training_begins_with_reduced_photos(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is rendered has the size of the photo, and rules see the same photos."""
    widths = []

    def noting(camera, *arguments, **options):  # type: ignore[no-untyped-def]
        widths.append(camera.width)
        return render(camera, *arguments, **options)

    monkeypatch.setattr(loop, "render", noting)
    trainer = Trainer(tiny_config(iterations=20, coarse_to_fine=True), scene)
    state = trainer.begin()
    seen_by_rules = []
    for _ in range(20):
        trainer.advance(state)
        seen_by_rules.append(trainer.plan.rules[0].run.views[0].camera.width)
    full = scene.train[0].camera.width
    assert widths == seen_by_rules == [full // 2] * 6 + [full] * 14


def test_it_resumes_to_the_same_bits(scene: Scene, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, iterations=40, preset="best")
    whole = train(scene, config)
    trainer = Trainer(config, scene)
    state = trainer.begin()
    for _ in range(7):
        trainer.advance(state)
    folder = RunFolder.create(config.model_path, config)
    folder.save_checkpoint(state.state_dict(), 7)
    assert same_state(train(scene, config, resume_from=folder.load_checkpoint()).state_dict(), whole.state_dict())
