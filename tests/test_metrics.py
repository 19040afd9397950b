"""PSNR and SSIM against independent computations, LPIPS with a stand-in, and the files that hold the scores."""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from gns.arguments import MetricsConfig, SceneConfig
from gns.commands.metrics import evaluate_models, evaluate_run
from gns.errors import UserError
from gns.metrics import load_lpips, psnr, ssim
from gns.run_folder import RunFolder
from gns.testing.scipy_ssim import scipy_ssim
from gns.utils.png import from_eight_bit, read_png, to_eight_bit, write_png


def picture(seed: int, height: int = 20, width: int = 30) -> Tensor:
    """A random image with some smoothness, uint8 [H, W, 3]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 4, width // 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return to_eight_bit(smooth + 0.05 * torch.rand(3, height, width, generator=generator))


@pytest.fixture(autouse=True)
def no_remembered_lpips() -> Iterator[None]:
    load_lpips.cache_clear()
    yield
    load_lpips.cache_clear()


@pytest.fixture
def without_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)  # importing it raises ImportError


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A folder with two rendered test views."""
    run = RunFolder(tmp_path / "out", SceneConfig(source_path=Path("scene"), model_path=tmp_path / "out"))
    for index in range(2):
        write_png(run.renders_path("test", 30) / f"{index:05d}.png", picture(index))
        write_png(run.truth_path("test", 30) / f"{index:05d}.png", picture(index + 10))
    return run


def test_psnr_of_a_known_error() -> None:
    truth = torch.full((3, 4, 5), 0.5)
    assert psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-5)
    image = truth.clone()
    image[0] += 0.1  # a third of the values: the error is averaged over the whole image, not by channel
    assert psnr(image, truth) == pytest.approx(20 + 10 * math.log10(3), abs=1e-5)
    assert psnr(truth, truth) == pytest.approx(100)


def test_psnr_of_a_photo_that_is_off_by_one_level() -> None:
    pixels = picture(0).clamp(max=254)
    expected = 20 * math.log10(255)
    assert psnr(from_eight_bit(pixels + 1), from_eight_bit(pixels)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(20, 30), (7, 5), (1, 1), (11, 40)])
def test_ssim_agrees_with_scipy(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    assert ssim(x, y) == pytest.approx(scipy_ssim(x.numpy(), y.numpy()).mean(), abs=1e-12)
    assert ssim(x, 0.8 * x + 0.1) == pytest.approx(scipy_ssim(x.numpy(), 0.8 * x.numpy() + 0.1).mean(), abs=1e-12)
    assert ssim(x, x) == pytest.approx(1, abs=1e-12)


def test_eight_bit_rounds_and_clamps() -> None:
    image = torch.tensor([-0.3, 0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.0, 7.0]).expand(3, 2, 7)
    assert to_eight_bit(image)[1, :, 0].tolist() == [0, 0, 0, 1, 254, 255, 255]
    assert torch.equal(to_eight_bit(from_eight_bit(picture(3))), picture(3))


def test_png_round_trip(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", picture(1))
    assert torch.equal(read_png(tmp_path / "a.png"), picture(1))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    short = b"IHDR\0\0\0\x08"  # found by fuzzing: Pillow raises ValueError for it, where it has OSError for others
    part = len(short[4:]).to_bytes(4, "big") + short + zlib.crc32(short).to_bytes(4, "big")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + part)
    for name in ("b.png", "c.png", "missing.png"):
        with pytest.raises(UserError, match=rf"cannot read the image .*{name}"):
            read_png(tmp_path / name)


@pytest.mark.usefixtures("without_lpips")
def test_scores_are_means_over_images(run: RunFolder) -> None:
    results = evaluate_run(run, device="cpu", quiet=True)
    pairs = [(from_eight_bit(picture(index)), from_eight_bit(picture(index + 10))) for index in range(2)]
    psnrs, ssims = [psnr(*pair) for pair in pairs], [ssim(*pair) for pair in pairs]
    assert psnrs[0] != psnrs[1]
    assert results["ours_30"]["PSNR"] == pytest.approx(sum(psnrs) / 2)
    assert results["ours_30"]["SSIM"] == pytest.approx(sum(ssims) / 2)
    assert json.loads(run.results_path.read_text(encoding="utf-8")) == results
    assert json.loads(run.per_view_path.read_text(encoding="utf-8")) == {
        "ours_30": {
            "SSIM": {"00000.png": pytest.approx(ssims[0]), "00001.png": pytest.approx(ssims[1])},
            "PSNR": {"00000.png": pytest.approx(psnrs[0]), "00001.png": pytest.approx(psnrs[1])},
            "LPIPS": {"00000.png": None, "00001.png": None},
        }
    }


@pytest.mark.usefixtures("without_lpips")
def test_absent_lpips_is_null_with_its_reason(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run.path.joinpath("cfg_args").write_text("Namespace(source_path='scene')", encoding="utf-8")
    assert evaluate_models(MetricsConfig(model_paths=(run.path,))) == 0
    scores = json.loads(run.results_path.read_text(encoding="utf-8"))["ours_30"]
    assert scores["LPIPS"] is None
    assert scores["LPIPS_absent"] == 'the package lpips is not installed: pip install ".[lpips]" in the folder of gns'
    assert "LPIPS absent: the package lpips is not installed" in capsys.readouterr().out


class FakeLpips(torch.nn.Module):
    """Stands for lpips.LPIPS: mean absolute difference of what it is given."""

    def __init__(self, net: str, eval_mode: bool, verbose: bool) -> None:
        super().__init__()
        assert net == "vgg" and eval_mode

    def forward(self, image: Tensor, truth: Tensor) -> Tensor:
        assert image.dim() == 4
        assert image.min() >= 0  # left in [0, 1]
        return (image - truth).abs().mean().reshape(1, 1, 1, 1)


def test_lpips_gets_images_in_0_to_1(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=FakeLpips))
    scores = evaluate_run(run, device="cpu", quiet=True)["ours_30"]
    expected = np.mean(
        [(from_eight_bit(picture(i)) - from_eight_bit(picture(i + 10))).abs().mean().item() for i in (0, 1)]
    )
    assert scores["LPIPS"] == pytest.approx(expected)
    assert "LPIPS_absent" not in scores


def test_weights_that_cannot_be_had_are_a_reason_too(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(**_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=no_network))
    scores = evaluate_run(run, device="cpu", quiet=True)["ours_30"]
    assert scores["LPIPS"] is None
    assert "no route to host" in scores["LPIPS_absent"]
    pairs = [(from_eight_bit(picture(i)), from_eight_bit(picture(i + 10))) for i in (0, 1)]
    assert scores["PSNR"] == pytest.approx(np.mean([psnr(*pair) for pair in pairs]))


@pytest.mark.usefixtures("without_lpips")
def test_every_rendered_iteration_is_scored(run: RunFolder) -> None:
    write_png(run.renders_path("test", 7) / "00000.png", picture(1))
    write_png(run.truth_path("test", 7) / "00000.png", picture(1))
    results = evaluate_run(run, device="cpu", quiet=True)
    assert set(results) == {"ours_7", "ours_30"}
    assert results["ours_7"]["PSNR"] == pytest.approx(100)


@pytest.mark.usefixtures("without_lpips")
def test_incomplete_folders_are_refused(run: RunFolder, tmp_path: Path) -> None:
    (run.renders_path("test", 30) / "00001.png").unlink()
    with pytest.raises(UserError, match=r"not complete \(1 renders, 2 photos\)"):
        evaluate_run(run, device="cpu", quiet=True)
    write_png(run.renders_path("test", 30) / "00001.png", picture(1, height=24))
    with pytest.raises(UserError, match="differ in size"):
        evaluate_run(run, device="cpu", quiet=True)
    assert not run.results_path.exists()
    empty = RunFolder(tmp_path / "empty", run.config)
    with pytest.raises(UserError, match="holds no rendered test views"):
        evaluate_run(empty, device="cpu", quiet=True)


@pytest.mark.usefixtures("without_lpips")
def test_one_bad_model_leaves_the_others_alone(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.path.joinpath("cfg_args").write_text("Namespace(source_path='scene')", encoding="utf-8")
    assert evaluate_models(MetricsConfig(model_paths=(tmp_path / "missing", run.path), quiet=True)) == 2
    assert run.results_path.exists()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "missing is no output folder" in printed.err
