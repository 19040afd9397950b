"""Exposures of photos: learned, kept out of the model, resumed, and allowed for where held-out photos are scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import gns
from gns.appearance.expected import expected_exposures
from gns.appearance.exposure import Exposure, adjusted, iterations_to_watch
from gns.arguments import MetricsConfig, RenderConfig
from gns.commands.metrics import evaluate_models
from gns.commands.render import render_run
from gns.errors import UserError
from gns.metrics import fitted_halves, psnr
from gns.run_folder import RunFolder
from gns.scene import Scene, View
from gns.testing.scene_files import SmallScene, small_scene, write_colmap
from gns.testing.tiny import cameras_on_an_arc, same_state, tiny_config, tiny_scene
from gns.training.listeners.held_out import fitted_psnr
from gns.training.loop import Trainer, train
from gns.utils.png import from_eight_bit, read_png

FOX = Path(__file__).parents[2] / "../shared/data/fox480"
IDENTITY = torch.eye(3, 4)


def altered(views: list[View], seed: int) -> list[View]:
    """The photos with another exposure, 0.6 to 1.5, and white balance each; what is too bright is cut off."""
    random = np.random.default_rng(seed)
    gains = [random.uniform(0.6, 1.5) * random.uniform(0.85, 1.15, 3) for _ in views]
    return [
        replace(view, image=(view.image * torch.from_numpy(gain)).round().clamp(max=255).to(torch.uint8))
        for view, gain in zip(views, gains, strict=True)
    ]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene()


@pytest.fixture(scope="module")
def uneven(scene: Scene) -> Scene:
    """The same scene in photos of different exposure."""
    return replace(scene, train=altered(scene.train, 0), test=altered(scene.test, 1))


def photos(*images: Tensor, mask: Tensor | None = None) -> list[View]:
    """Views of these photos, [3, H, W] in [0, 1]."""
    return [
        View(
            replace(camera, width=image.shape[2], height=image.shape[1]),
            (255 * image).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous(),
            mask,
        )
        for image, camera in zip(images, cameras_on_an_arc(len(images), 8, 8), strict=True)
    ]


def grey(level: float) -> Tensor:
    return torch.full((3, 6, 6), level)


def test_without_any_step_it_changes_nothing(image: Tensor) -> None:
    torch.testing.assert_close(Exposure(photos(image)).applied(image, 0), image)


def test_a_transform_mixes_and_shifts_colours() -> None:
    transform = torch.tensor([[0.0, 1, 0, 0.5], [0, 0, 2, 0], [1, 0, 0, 0]])
    colour = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    assert adjusted(colour, transform).flatten().tolist() == pytest.approx([0.7, 0.6, 0.1])


def test_photos_go_apart_and_the_mean_transform_stays_the_identity(image: Tensor) -> None:
    """Ten visits to each are enough."""
    image = 0.7 * image
    wanted = [0.7 * image, image, 1.3 * image]
    exposure = Exposure(photos(*wanted))
    for it in range(30):
        exposure.applied(image, it % 3)
        exposure.step(it + 1)
        torch.testing.assert_close(exposure.transforms.mean(dim=0), IDENTITY)
    for index, photo in enumerate(wanted):
        assert (exposure.applied(image, index) - photo).abs().mean() < 0.01


def test_a_photo_that_was_not_seen_does_not_step(image: Tensor) -> None:
    """But for the correction of the mean, which is the same for all."""
    exposure = Exposure(photos(0.5 * image, image, image))
    exposure.applied(image, 0)
    exposure.step(1)
    first, second, third = exposure.transforms
    assert torch.equal(second, third)
    assert first[0, 0] < 0.9 < second[0, 0]
    assert not any(values.any() for values in exposure.sums())


def test_several_processes_add_up(image: Tensor) -> None:
    """What two of them see in an iteration is what the sums of both say."""
    views = photos(0.5 * image, 0.8 * image, image)
    together, one, other = (Exposure(views) for _ in range(3))
    together.applied(image, 0)
    together.applied(image, 2)
    one.applied(image, 0)
    other.applied(image, 2)
    for mine, theirs in zip(one.sums(), other.sums(), strict=True):
        mine += theirs
    for exposure in (together, one):
        exposure.step(1)
    assert torch.equal(together.transforms, one.transforms)


def test_saturated_pixels_say_at_least_as_bright(image: Tensor) -> None:
    """They are left out of the fit, and no rendering is too bright for them; too dark it may be."""
    exposure = Exposure(photos((1.5 * image).clamp(max=1), 0.5 * image))
    for it in range(60):
        exposure.applied(image, it % 2)
        exposure.step(it + 1)
    assert float(exposure.transforms[0].diagonal().mean()) == pytest.approx(1.5, abs=0.02)
    white = Exposure(photos(grey(1.0)))
    for level, shown, slope in ((1.5, 1.0, 0.0), (0.5, 0.5, 1.0)):
        rendered = grey(level).requires_grad_()
        seen = white.applied(rendered, 0)
        seen.sum().backward()  # type: ignore[no-untyped-call]
        assert rendered.grad is not None
        assert torch.equal(seen, grey(shown)) and torch.equal(rendered.grad, grey(slope))


def test_the_gradient_of_the_rendering_is_right(image: Tensor) -> None:
    exposure = Exposure(photos(image))
    transforms = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1))
    exposure.load_state_dict({"transforms": transforms, "variation": None})
    weights = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    rendered = image.clone().requires_grad_()
    (weights * exposure.applied(rendered, 0)).sum().backward()  # type: ignore[no-untyped-call]
    plain = image.clone().requires_grad_()
    (weights * adjusted(plain, exposure.transforms[0])).sum().backward()  # type: ignore[no-untyped-call]
    assert rendered.grad is not None and plain.grad is not None
    torch.testing.assert_close(rendered.grad, plain.grad)


def test_hidden_pixels_have_no_say(image: Tensor) -> None:
    mask = torch.zeros(image.shape[1:], dtype=torch.bool)
    mask[:6] = True
    spoilt = torch.where(mask, 0.5 * image, 1 - image)
    masked, plain = Exposure(photos(spoilt, image, mask=mask)), Exposure(photos(0.5 * image, image))
    for exposure in (masked, plain):
        for it in range(20):
            exposure.applied(image, it % 2)
            exposure.step(it + 1)
    torch.testing.assert_close(masked.transforms, plain.transforms, atol=0.01, rtol=0)


def visited(wanted: Sequence[Tensor], image: Tensor, rounds: int) -> Exposure:
    """Exposures of photos like `wanted`, watched for two rounds; renderings like `image` were compared with each."""
    exposure = Exposure(photos(*wanted), watch=2 * len(wanted))
    for it in range(rounds * len(wanted)):
        exposure.applied(image, it % len(wanted))
        exposure.step(it + 1)
    return exposure


def test_a_small_and_steady_change_is_left_to_the_model(image: Tensor) -> None:
    """Photos are watched before that is known, and nothing is changed meanwhile."""
    image = 0.5 * image
    brighter = [(0.85 + 0.02 * place) * image for place in range(12)]
    early, later = (visited(brighter, image, rounds) for rounds in (1, 2))
    assert early.watching and not early.left_to_the_model and early.remark() is None
    assert early.applied(image, 0) is image
    assert not later.watching and later.left_to_the_model and "without --exposure" in (later.remark() or "")
    assert all(torch.equal(transform, IDENTITY) for transform in later.transforms)
    assert later.applied(image, 0) is image
    later.step(10_000)
    assert all(torch.equal(transform, IDENTITY) for transform in later.transforms)
    resumed = Exposure(photos(*brighter), watch=24)
    resumed.load_state_dict(later.state_dict())
    assert resumed.left_to_the_model


@pytest.mark.parametrize(("at_random", "steady"), [(0.08, 0.0), (0.0, 0.1)], ids=["small", "steady"])
def test_a_change_that_is_only_one_of_the_two_is_not(image: Tensor, at_random: float, steady: float) -> None:
    image = 0.5 * image
    uneven = [(0.6 + at_random * (place % 2) + steady * place) * image for place in range(12)]
    exposure = visited(uneven, image, 3)
    assert not exposure.watching and not exposure.left_to_the_model and exposure.remark() is None
    first, second, *_ = exposure.transforms.diagonal(dim1=1, dim2=2).mean(dim=1).tolist()
    assert second - first == pytest.approx(at_random + steady, abs=0.02)
    assert exposure.applied(image, 0) is not image


def test_a_run_whose_exposures_are_left_to_the_model_is_the_run_without() -> None:
    """To the bit: all its photos have one exposure but for a little, and steadily so."""
    scene = tiny_scene(train_views=7)
    steady = replace(scene, train=[_dimmed(view, 1 - 0.03 * place) for place, view in enumerate(scene.train)])
    with_it, without = (train(steady, tiny_config(exposure=on)) for on in (True, False))
    exposure = with_it.parts["exposure"]
    assert isinstance(exposure, Exposure) and exposure.left_to_the_model
    assert same_state({**with_it.state_dict(), "parts": {}}, without.state_dict())


def _dimmed(view: View, factor: float) -> View:
    return replace(view, image=(factor * view.image).round().to(torch.uint8))


def test_a_capture_of_many_photos_is_not_watched() -> None:
    assert iterations_to_watch(43, 3_000) == 4 * 43
    assert iterations_to_watch(301, 3_000) == 0


def test_it_resumes_to_the_same_bits(uneven: Scene, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, exposure=True)
    whole = train(uneven, config)
    watch = iterations_to_watch(len(uneven.train), config.iterations)
    trainer = Trainer(config, uneven, parts=[Exposure(uneven.train, watch)])
    state = trainer.begin()
    for _ in range(40):
        trainer.advance(state)
    folder = RunFolder.create(config.model_path, config)
    folder.save_checkpoint(state.state_dict(), 40)
    continued = train(uneven, config, resume_from=folder.load_checkpoint())
    assert same_state(continued.state_dict(), whole.state_dict())
    assert not torch.equal(whole.state_dict()["parts"]["exposure"]["transforms"][0], IDENTITY)


def test_a_checkpoint_of_other_photos_is_refused(image: Tensor) -> None:
    with pytest.raises(ValueError, match="exposures of 2 photos, and there are 1"):
        Exposure(photos(image)).load_state_dict(Exposure(photos(image, image)).state_dict())


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.rand(3, 12, 20, generator=torch.Generator().manual_seed(3))


def test_a_photo_of_another_exposure_is_matched_to_the_end(image: Tensor) -> None:
    photo = adjusted(image, torch.tensor([[0.6, 0.1, 0, 0.02], [0, 0.7, 0, 0.05], [0, 0.1, 0.5, 0]]))
    halves = fitted_halves(image, photo)
    assert halves is not None
    assert halves[0].shape == (3, 12, 10)
    assert psnr(image, photo) < 20 < 50 < psnr(*halves)


def test_what_is_scored_has_no_part_in_the_fit(image: Tensor) -> None:
    other = image.clone()
    other[:, :, 10:] = 0.5
    first, second = fitted_halves(image, image), fitted_halves(image, other)
    assert first is not None and second is not None
    assert torch.equal(first[0], second[0])


def test_only_pixels_that_count_are_fitted_and_scored(image: Tensor) -> None:
    mask = torch.zeros(12, 20, dtype=torch.bool)
    mask[:6] = True
    spoilt = torch.where(mask, image, 1 - image)
    halves = fitted_halves(image, spoilt, mask)
    assert halves is not None
    assert psnr(*halves) > 50 > psnr(*halves[:2])
    mask[:, 10:] = False
    assert fitted_halves(image, image, mask) is None


def test_a_wall_of_one_colour_is_not_amplified() -> None:
    """Its pixels say nothing of how colours spread: the fit keeps to the identity there, and shifts."""
    wall = torch.full((3, 4, 8), 0.5)
    halves = fitted_halves(wall, wall + 0.1)
    assert halves is not None
    assert psnr(*halves) > 50


def test_exposures_are_kept_out_of_the_model(uneven: Scene) -> None:
    """What is learned from uneven photos with it suits the held-out ones better, once theirs are allowed for."""
    with_it, without = (fitted_psnr(train(uneven, tiny_config(exposure=on)).gaussians, uneven) for on in (True, False))
    assert with_it is not None and without is not None
    assert with_it > without + 0.5


def test_the_commands_write_and_use_them(tmp_path: Path) -> None:
    """exposure.json beside the model; training pictures drawn with it, held-out ones as is expected; both scores."""
    write_colmap(tmp_path / "scene", _uneven(small_scene()))
    uneven = gns.read_scene(tmp_path / "scene")
    config = tiny_config(tmp_path, exposure=True)
    run = RunFolder.create(config.model_path, config)
    events: list[object] = []
    train(uneven, config, run=run, on_event=events.append)
    exposures = run.exposures(config.iterations)
    assert set(exposures) == {view.camera.name for view in uneven.train}
    render_run(RenderConfig(model_path=config.model_path, quiet=True))
    gaussians, view = run.load_model(), uneven.train[0]
    plain = gns.render(view.camera, gaussians, uneven.background).image
    shown = from_eight_bit(read_png(run.renders_path("train", config.iterations) / "00000.png"))
    assert (shown - adjusted(plain, exposures[view.camera.name]).clamp(0, 1)).abs().max() < 0.003
    assert (shown - plain.clamp(0, 1)).abs().max() > 0.01
    assert evaluate_models(MetricsConfig(model_paths=(config.model_path,), quiet=True)) == 0
    scores = json.loads(run.results_path.read_text())[f"ours_{config.iterations}"]
    (scored,) = (event for event in events if isinstance(event, gns.events.HeldOutScored))
    assert scores["PSNR_fitted"] == pytest.approx(scored.fitted, abs=1e-4)
    assert scores["PSNR"] == pytest.approx(scored.psnr, abs=1e-4)
    logged = [record for record in run.read_log() if "held_out_psnr_fitted" in record]
    assert [record["held_out_psnr_fitted"] for record in logged] == [scored.fitted]


def test_held_out_photos_are_drawn_with_the_exposure_that_is_expected(tmp_path: Path) -> None:
    """Of photos that were taken brighter and brighter."""
    write_colmap(tmp_path / "scene", small_scene())
    scene = gns.read_scene(tmp_path / "scene")
    config = tiny_config(tmp_path, exposure=True, iterations=2)
    run = RunFolder.create(config.model_path, config)
    train(scene, config, run=run)
    names = [view.camera.name for view in scene.train]
    learned = {name: (0.4 + 0.1 * place) * IDENTITY for place, name in enumerate(names)}
    text = json.dumps({name: transform.tolist() for name, transform in learned.items()})
    run.model_path(2).with_name("exposure.json").write_text(text)
    render_run(RenderConfig(model_path=config.model_path, quiet=True))
    view = scene.test[0]
    plain = gns.render(view.camera, run.load_model(), scene.background).image
    known = [known.camera for known in scene.train]
    expected = adjusted(plain, expected_exposures(learned, known, [view.camera])[view.camera.name])
    shown = from_eight_bit(read_png(run.renders_path("test", 2) / "00000.png"))
    assert (shown - expected.clamp(0, 1)).abs().max() < 0.003
    assert (shown - plain.clamp(0, 1)).abs().max() > 0.01


def _uneven(scene: SmallScene) -> SmallScene:
    """Every second photo is darker."""
    images = [
        image if index % 2 else (0.6 * image).round().astype(np.uint8) for index, image in enumerate(scene.images)
    ]
    return replace(scene, images=images)


@pytest.mark.parametrize("text", ["[1, 2]", '{"a.png": [[1, 2], [3, 4]]}', '{"a.png": "x"}', "{", '{"a.png": [[1]]}'])
def test_damaged_exposures_are_told(tmp_path: Path, text: str) -> None:
    config = tiny_config(tmp_path)
    run = RunFolder.create(config.model_path, config)
    assert run.exposures(300) == {}
    path = run.model_path(300).with_name("exposure.json")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=r"exposure\.json"):
        run.exposures(300)


@pytest.mark.skipif(not FOX.is_dir(), reason=f"the scene {FOX} is absent")
def test_a_real_scene_of_uneven_exposure() -> None:
    """Photos that differ by a factor of 2.5 are learned from nearly as well as even ones; without, they are not."""
    even = gns.read_scene(FOX, resolution=4)
    uneven = replace(even, train=altered(even.train, 0), test=altered(even.test, 1))
    config = gns.Config(final_budget=2_000, iterations=300, sh_degree=1, quiet=True, test_iterations=(-1,))
    models = [
        train(even, config),
        train(uneven, replace(config, exposure=True)),
        train(uneven, config),
    ]
    scores = [fitted_psnr(state.gaussians, scene) for state, scene in zip(models, [even, uneven, uneven], strict=True)]
    base, with_it, without = (score for score in scores if score is not None)
    assert with_it > base - 0.8
    assert without < with_it - 0.3
