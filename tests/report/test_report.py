"""The page of a run: whole in itself, and with the numbers of its files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gns
from gns import cli
from gns.arguments import parse_train
from gns.errors import UserError
from gns.report import plots, write_report
from gns.report.facts import command_of, gather, stretches_of
from gns.report.pictures import MOST_PIXELS, NARROWEST, WIDEST, data_uri, error_picture, read_reduced, width_for
from gns.run_folder import RunFolder
from gns.testing.scene_files import small_scene, write_colmap


class Page(HTMLParser):
    """What a browser would find: addresses, ids, ranges and visible text. Complains of elements that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.sliders: list[dict[str, str | None]] = []
        self.frames: list[str] = []
        self.drawings = 0
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if found.get("type") == "range":
            self.sliders.append(found)
        self.frames += [value or "" for name, value in attrs if name == "srcdoc"]
        self.drawings += tag == "svg"
        if tag not in ("meta", "img", "input", "br", "link"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.text += data


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 300 iterations on a small scene, with everything that training leaves behind."""
    folder = tmp_path_factory.mktemp("trained")
    write_colmap(folder / "scene", small_scene(points=150))
    words = ["-s", str(folder / "scene"), "-m", str(folder / "a model"), "--final-budget", "100", "--iterations", "300"]
    assert cli.run(cli.train, [*words, "--sh_degree", "1", "--threads", "1", "--quiet"]) == 0
    return folder / "a model"


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "a model")


def page_of(model: Path) -> Page:
    return Page(write_report(model).read_text(encoding="utf-8"))


def test_training_leaves_a_page_that_needs_nothing_else(trained: Path) -> None:
    page = Page((trained / "report.html").read_text(encoding="utf-8"))
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    targets = {address[1:] for address in page.addresses if address.startswith("#")}
    assert targets <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert sum(address.startswith("data:image/jpeg") for address in page.addresses) == 2 * 3
    assert page.drawings == 5 and len(page.sliders) == 2 and all(slider["aria-label"] for slider in page.sliders)
    assert "url(http" not in (trained / "report.html").read_text(encoding="utf-8")
    for heading in ("Population", "Opacities", "The controller", "Who died", "Loss and score"):
        assert heading in page.text
    assert "of 100 asked for" in page.text and "00.png: PSNR" in page.text and "08.png: PSNR" in page.text


def test_the_viewer_is_inside_or_beside_the_page(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder.open(model)
    (viewer,) = page_of(model).frames
    (model / "inside.html").write_text(viewer, encoding="utf-8")
    trained, shown = run.load_model(), gns.load(model / "inside.html")
    assert len(shown) == len(trained) and torch.allclose(shown.means, trained.means, atol=1e-3)
    assert viewer.count('"name":') == len(run.cameras()) and not (model / "model.html").exists()

    monkeypatch.setattr("gns.report.viewer.MOST_INSIDE", len(viewer) - 1)
    page = page_of(model)
    assert page.frames == [] and "model.html" in page.addresses and f"{len(viewer) / 1e6:.2f} MB" in page.text
    assert len(gns.load(model / "model.html")) == len(trained)

    run.model_path(300).write_bytes(run.model_path(300).read_bytes()[:-4] + b"\0\0\0\0")  # not as it was written
    assert "The model cannot be shown: " in page_of(model).text


def test_the_curve_of_the_loss_says_what_it_is_of(model: Path) -> None:
    assert "0.8 L1 + 0.2 (1 − SSIM)" in page_of(model).text and "RMSE" not in page_of(model).text
    document = json.loads((model / "config.json").read_text())
    document["options"]["squared_error"] = True
    (model / "config.json").write_text(json.dumps(document))
    assert "once errors are squared 0.6 RMSE + 0.4 (1 − SSIM)" in page_of(model).text


def test_stretches_are_those_of_the_run_with_its_refinements() -> None:
    marked = {}
    for preset in ("paper", "quick"):
        config = parse_train(["-s", "scene", "--final-budget", "1000", "--preset", preset, "--iterations", "30000"])
        marked[preset] = {stretch.name: (stretch.first, stretch.last) for stretch in stretches_of(config)}
    assert marked["paper"]["growth"][1] == 14_900 and marked["paper"]["selection"] == (15_000, 23_000)
    assert marked["quick"]["growth"][1] < 12_000 and marked["quick"]["selection"] == (12_000, 20_000)


def test_its_numbers_are_those_of_results_json(model: Path) -> None:
    """Before metrics.py they are the same that it then finds."""
    before = gather(RunFolder.open(model))
    (model / "results.json").unlink(missing_ok=True)
    (model / "report.html").write_text("outdated")
    assert cli.run(cli.metrics, ["-m", str(model), "--quiet"]) == 0
    results = json.loads((model / "results.json").read_text())["ours_300"]
    per_view = json.loads((model / "per_view.json").read_text())["ours_300"]
    for facts in (before, gather(RunFolder.open(model))):
        assert (facts.figures["PSNR"], facts.figures["SSIM"]) == (results["PSNR"], results["SSIM"])
        assert [view.scores["PSNR"] for view in facts.views] == list(per_view["PSNR"].values())
    text = Page((model / "report.html").read_text(encoding="utf-8")).text  # which metrics.py has remade
    assert f"{results['PSNR']:.2f} dB" in text and f"{results['SSIM']:.4f}" in text
    # Whatever results.json has, the page has too; results of an older model it does not.
    results["PSNR"] = 99.125
    (model / "results.json").write_text(json.dumps({"ours_300": results}))
    assert "99.12 dB" in page_of(model).text
    (model / "results.json").write_text(json.dumps({"ours_100": results}))
    assert "99.12 dB" not in page_of(model).text


def test_the_summary_says_what_it_ran_on(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["budget"] == {"asked": 100, "gaussians": 100, "met": True}
    assert summary["threads"] == 1  # as asked, whatever the machine has
    assert summary["model"]["sha256"] == RunFolder.open(trained).model_digest(300)
    assert summary["model"]["bytes"] == Path(summary["model"]["path"]).stat().st_size
    assert (summary["sessions"], summary["held_out"]["LPIPS"]) == (1, None)
    assert summary["instruction_set"] in ("avx512", "avx2", "baseline")
    assert re.search(r"GCC|clang|^$", summary["compiler"])
    assert summary["cpu_seconds"] > 0 and summary["peak_memory_bytes"] > 50e6
    for name in ("gns", "torch", "python", "processor", "device", "system", "seconds", "commit"):
        assert name in summary


def test_the_command_repeats_the_run(trained: Path, tmp_path: Path) -> None:
    config = RunFolder.open(trained).config
    words = shlex.split(command_of(config))  # type: ignore[arg-type]
    assert words[:2] == ["python", "train.py"] and parse_train(words[2:]) == config
    options = ["--final-cut", "lowest", "--no-eval", "-w", "-r", "4", "--test_iterations", "5", "9", "--seed", "7"]
    other = parse_train(["-s", str(tmp_path / "a b"), "--final-budget", "5k", "--schedule", "fast", *options])
    assert parse_train(shlex.split(command_of(other))[2:]) == other


def test_without_matplotlib_it_says_so_and_has_its_tables(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    page = page_of(model)
    assert 'run pip install ".[plot]" in the folder of gns' in page.text
    assert page.drawings == 0 and "The course of the run as a table" in page.text and len(page.sliders) == 2


def test_what_is_missing_is_said(model: Path) -> None:
    for path in ("summary.json", "log.jsonl"):
        (model / path).unlink()
    shutil.rmtree(model / "test")
    page = page_of(model)
    assert "There are no pictures of held-out views" in page.text and "log.jsonl has nothing to draw" in page.text
    shutil.rmtree(model / "point_cloud")
    with pytest.raises(UserError, match="holds no saved model"):
        write_report(model)


def test_names_are_shown_and_not_run(model: Path) -> None:
    named = model.rename(model.with_name("<script>alert(1)<"))
    text = write_report(named).read_text(encoding="utf-8")
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;" in text


def test_the_command_remakes_it_and_draws_what_is_not_drawn(
    model: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = (str(trained), str(model))
    expected = _without(folders, trained / "report.html")
    (model / "report.html").unlink()
    shutil.rmtree(model / "test")
    assert cli.main(["report", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"status": 0, "page": str(model / "report.html")}
    assert _without(folders, model / "report.html") == expected


def _without(folders: Sequence[str], path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    for folder in folders:
        text = text.replace(folder, "")
    return text


def test_several_runs_on_one_page(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(model, tmp_path / "another")
    config = json.loads((other / "config.json").read_text())
    config["options"] |= {"seed": 7, "source_path": "/elsewhere"}
    (other / "config.json").write_text(json.dumps(config))
    output = tmp_path / "both.html"
    assert cli.main(["compare", str(model), str(other), "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"comparison: {output}\n"
    page = Page(output.read_text(encoding="utf-8"))
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert sum(address.startswith("data:image/jpeg") for address in page.addresses) == 2 * 3
    assert "another" in page.text and "--seed" in page.text and "--sh-degree" not in page.text
    assert "--source-path" in page.text and "/elsewhere" in page.text
    assert "PSNR" in page.text and "LPIPS" not in page.text  # which was measured of none
    assert cli.main(["compare", str(model)]) == 2
    assert "at least two output folders" in capsys.readouterr().err


# Pictures


@pytest.mark.parametrize(
    ("pictures", "size", "width"), [(21, (270, 480), 270), (3, (4_000, 3_000), WIDEST), (10_000, (800, 800), NARROWEST)]
)
def test_pictures_are_reduced_to_what_a_page_can_hold(pictures: int, size: tuple[int, int], width: int) -> None:
    assert width_for(pictures, size) == width
    middling = width_for(600, (800, 800))
    assert NARROWEST < middling < WIDEST and 600 * middling**2 <= MOST_PIXELS


def test_the_error_is_black_where_there_is_none() -> None:
    photo = np.full((4, 6, 3), 100, np.uint8)
    render = photo.copy()
    render[0, 0] = 110
    render[1, 1] = 250
    error: Any = error_picture(photo, render).astype(int).sum(axis=2)
    assert error[3, 3] < 20 < error[0, 0] < error[1, 1]


def test_a_picture_goes_into_the_page(tmp_path: Path) -> None:
    Image.new("RGBA", (64, 32), (250, 10, 10, 255)).save(tmp_path / "a.png")
    pixels = read_reduced(tmp_path / "a.png", 16)
    assert pixels.shape == (8, 16, 3) and data_uri(pixels).startswith("data:image/jpeg;base64,/9j/")
    assert read_reduced(tmp_path / "a.png", 100).shape == (32, 64, 3)
