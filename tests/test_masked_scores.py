"""Masked pixels count in no score: not in the functions, not in the held-out scores, not on the way through files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gns import cli
from gns.arguments import TrainConfig
from gns.commands.metrics import evaluate_run
from gns.errors import UserError
from gns.gaussian_renderer import render
from gns.metrics import decibels, load_lpips, psnr, ssim
from gns.model.initialisation import initial_gaussians
from gns.run_folder import RunFolder
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import SmallScene, small_scene, write_colmap
from gns.training.listeners.held_out import held_out_psnr
from gns.utils.png import from_eight_bit, read_png, to_eight_bit


@pytest.fixture(autouse=True)
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    load_lpips.cache_clear()
    monkeypatch.setitem(sys.modules, "lpips", None)
    yield
    load_lpips.cache_clear()


def pair(height: int = 24, width: int = 31) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, height, width, generator=generator)
    return (truth + 0.1 * torch.randn(3, height, width, generator=generator)).clamp(0, 1), truth


# The functions


@pytest.mark.parametrize("area", [(0, 24, 0, 31), (3, 20, 5, 30), (0, 10, 0, 31), (7, 8, 11, 12)])
def test_a_rectangle_scores_what_it_would_cut_out(area: tuple[int, int, int, int]) -> None:
    top, bottom, left, right = area
    image, truth = pair()
    mask = torch.zeros(24, 31, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    cut = tuple(each[:, top:bottom, left:right] for each in (image, truth))
    assert psnr(image, truth, mask) == pytest.approx(psnr(*cut), abs=1e-9)
    assert ssim(image, truth, mask) == pytest.approx(ssim(*cut), abs=1e-12)


def test_hidden_pixels_change_nothing() -> None:
    image, truth = pair()
    mask = torch.rand(24, 31, generator=torch.Generator().manual_seed(1)) < 0.4
    scores = psnr(image, truth, mask), ssim(image, truth, mask)
    image[:, ~mask], truth[:, ~mask] = 1.0, 0.0
    assert (psnr(image, truth, mask), ssim(image, truth, mask)) == scores
    assert psnr(image, truth) < scores[0] - 3
    image[:, mask.nonzero()[0][0], mask.nonzero()[0][1]] += 0.5
    assert psnr(image, truth, mask) != scores[0] and ssim(image, truth, mask) != scores[1]


def test_hidden_pixels_earn_nothing() -> None:
    """A mean over all pixels of blacked out images would give full marks for each of them."""
    image, truth = pair(40, 40)
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[:, :10] = True
    kept = ssim(image[:, :, :10], truth[:, :, :10])
    assert ssim(image, truth, mask) == pytest.approx(kept, abs=1e-12)
    assert ssim(image * mask, truth * mask) > (kept + 3) / 4 - 0.05


def test_without_a_mask_the_bits_are_those_of_the_plain_mean() -> None:
    image, truth = pair()
    error = (image.double() - truth.double()).square().mean()
    assert float(decibels(image, truth)) == float(-10 * torch.log10(error))


# Photos, models and files


def masked_scene(folder: Path, sky: int) -> Path:
    """Nine photos, two held out, their upper half one grey level that no model has learned, and masks that hide it."""
    small = small_scene(count=9)
    images = [image.copy() for image in small.images]
    for image in images:
        image[:15] = sky
    write_colmap(folder, SmallScene(small.cameras, images, small.points))
    mask = np.zeros((30, 40), np.uint8)
    mask[15:] = 255
    (folder / "masks").mkdir()
    for camera in small.cameras:
        Image.fromarray(mask).save(folder / "masks" / camera.name)
    return folder


def new_run(folder: Path, scene: Path) -> RunFolder:
    run = RunFolder.create(folder, TrainConfig(source_path=scene, model_path=folder, final_budget=100))
    run.save_model(initial_gaussians(small_scene(count=9).points, 1), 20)
    return run


def scored(run: RunFolder) -> dict[str, float]:
    assert cli.run(cli.render, ["-m", str(run.path), "--skip_train", "--quiet"]) == 0
    assert cli.run(cli.metrics, ["-m", str(run.path), "--quiet"]) == 0
    results: dict[str, float] = json.loads(run.results_path.read_text(encoding="utf-8"))["ours_20"]
    return results


def test_scores_do_not_depend_on_what_masks_hide(tmp_path: Path) -> None:
    runs = [new_run(tmp_path / f"run{sky}", masked_scene(tmp_path / f"scene{sky}", sky)) for sky in (0, 255)]
    dark, bright = map(scored, runs)
    assert dark == bright
    assert dark["masked_views"] == 2
    for path in (runs[1].path / "test/ours_20/masks").iterdir():
        path.unlink()
    scene = runs[1].config.source_path
    for path in (scene / "masks").iterdir():
        path.unlink()
    assert scored(runs[1])["PSNR"] < bright["PSNR"] - 3  # the same renders, the bright sky counted
    assert "masked_views" not in scored(runs[1])


def test_held_out_scores_are_those_of_metrics(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", masked_scene(tmp_path / "scene", 255))
    scene = read_scene(run.config.source_path, SceneOptions(), report=lambda line: None)
    gaussians = run.load_model()
    assert held_out_psnr(gaussians, scene) == pytest.approx(scored(run)["PSNR"], abs=1e-6)
    by_hand = []
    for view in scene.test:
        image = from_eight_bit(to_eight_bit(render(view.camera, gaussians, torch.zeros(3)).image))
        by_hand.append(psnr(image[:, 15:], from_eight_bit(view.image)[:, 15:]))
    assert held_out_psnr(gaussians, scene) == pytest.approx(float(np.mean(by_hand)), abs=1e-6)


def test_masks_lie_beside_renders_and_follow_the_scene(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", masked_scene(tmp_path / "scene", 255))
    scored(run)
    mask = run.masks_path("test", 20) / "00001.png"
    assert (read_png(mask)[:, :, 0] == torch.tensor([0] * 15 + [255] * 15)[:, None]).all()
    assert not (run.path / "train").exists()

    masks = run.config.source_path / "masks"
    Image.new("L", (40, 30), 255).save(masks / "08.png")  # now all of it counts
    (masks / "00.png").unlink()
    results = scored(run)  # the renders are not drawn again
    assert (read_png(mask) == 255).all()
    assert [path.name for path in run.masks_path("test", 20).iterdir()] == ["00001.png"]
    assert results["masked_views"] == 1


def test_every_command_says_that_masks_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", masked_scene(tmp_path / "scene", 255))
    scored(run)
    cli.run(cli.metrics, ["-m", str(run.path)])
    assert "(2 with a mask: pixels that count)" in capsys.readouterr().out
    options = ["-s", str(run.config.source_path), "-m", str(tmp_path / "other"), "--final-budget", "100"]
    assert cli.run(cli.train, [*options, "--iterations", "20"]) == 0
    assert "dB over 2 held-out views (2 with a mask: pixels that count)" in capsys.readouterr().out


@pytest.mark.parametrize("level", [0, 127])
def test_masks_that_hide_everything_or_do_not_fit_are_refused(tmp_path: Path, level: int) -> None:
    run = new_run(tmp_path / "run", masked_scene(tmp_path / "scene", 255))
    scored(run)
    mask = run.masks_path("test", 20) / "00000.png"
    for size, sentence in (((40, 30), "hides the whole photo"), ((41, 30), "differ in size")):
        Image.new("L", size, level).save(mask)
        with pytest.raises(UserError, match=sentence):
            evaluate_run(run, device="cpu", quiet=True)


class FakeLpips(torch.nn.Module):
    """Stands for lpips.LPIPS: mean absolute difference of what it is given."""

    def __init__(self, **_: object) -> None:
        super().__init__()

    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        return (image - truth).abs().mean().reshape(1, 1, 1, 1)


def test_lpips_sees_hidden_pixels_black(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=FakeLpips))
    run = new_run(tmp_path / "run", masked_scene(tmp_path / "scene", 255))
    found = scored(run)["LPIPS"]
    differences = []
    for name in ("00000.png", "00001.png"):
        render_, truth = (read_png(run.path / "test/ours_20" / kind / name)[15:] for kind in ("renders", "gt"))
        differences.append((from_eight_bit(render_) - from_eight_bit(truth)).abs().mean().item() / 2)
    assert found == pytest.approx(float(np.mean(differences)), rel=1e-5)
