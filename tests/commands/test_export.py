"""gns export and gns view from their arguments to files and sentences."""

from __future__ import annotations

import json
import shutil
import sys
import webbrowser
from pathlib import Path

import pytest
import torch

import gns
from gns import cli
from gns.arguments import TrainConfig, parse_budget
from gns.commands.models import GivenModel
from gns.commands.options import parse_export, parse_view
from gns.commands.render import read_scene_of
from gns.errors import UserError
from gns.exports import EXPORTS
from gns.exports.reduction import contributions, cropped
from gns.model.initialisation import initial_gaussians
from gns.run_folder import RunFolder
from gns.scene.ply import gaussians_that_fit
from gns.testing.scene_files import small_scene, write_colmap
from gns.training.listeners.held_out import held_out_psnr
from gns.viewer.window import Window


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """The output folder of a run on nine photos, two of them held out."""
    folder = write_colmap(tmp_path / "scene", small_scene(count=9))
    config = TrainConfig(source_path=folder, model_path=tmp_path / "out", final_budget=100, white_background=True)
    run = RunFolder.create(config.model_path, config)
    run.write_scene(read_scene_of(config, quiet=True))
    gaussians = initial_gaussians(small_scene(count=9).points, 2)
    gaussians.opacity_logits[:] = torch.linspace(-4, 4, len(gaussians))
    gaussians.sh_rest[:] = 0.1
    run.save_model(gaussians, 10)
    return run


def export(*words: str | Path) -> int:
    return cli.run(cli.export, [str(word) for word in words])


def test_options() -> None:
    config = parse_export(["model", "a.spz", "b.html", "--sh_degree", "1", "--crop", "-1", "-1", "-1", "1", "1", "1.5"])
    assert (config.model_path, config.output) == (Path("model"), (Path("a.spz"), Path("b.html")))
    assert config.sh_degree == 1 and config.crop == (-1, -1, -1, 1, 1, 1.5) and config.score
    assert parse_export(["-m", "model", "-o", "a.spz", "--budget", "20MB"]).budget == parse_budget("20MB")
    assert parse_export(["model", "a.spz", "--budget", "2k", "--no-score"]).budget == parse_budget("2k")
    assert parse_view(["model", "--port", "9000"]).port == 9000
    for wrong, sentence in (
        (["model"], "-o"),
        (["model", "a.ply", "--budget", "many"], "--budget: "),
        (["model", "a.ply", "--crop", "1", "2"], "has 2 numbers"),
        (["model", "a.ply", "--crop", "1", "1", "1", "0", "2", "2"], "is empty"),
    ):
        with pytest.raises(UserError, match=sentence):
            parse_export(wrong)
    with pytest.raises(UserError, match="at most 65535"):
        parse_view(["model", "--port", "70000"])


def test_every_format_is_written_and_scored(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / f"a{ending}" for ending in EXPORTS]
    assert export(run.path, *files) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 1 + len(files)
    psnr = held_out_psnr(run.load_model(), read_scene_of(run.config, quiet=True))
    assert f"{psnr:.2f} dB on 2 held-out views" in out[0]
    for path, line in zip(files, out[1:], strict=True):
        assert line.startswith(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
        lost = float(line.split("(")[1].split(")")[0])
        assert abs(lost) < (5 if path.suffix == ".splat" else 0.5), line
        assert gns.load(path).sh_degree == (0 if path.suffix == ".splat" else 2)


def test_less_of_the_model(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, path = run.load_model(), tmp_path / "less.ply"
    box = [-0.5, -0.5, -0.5, 0.5, 0.5, 0.5]
    assert export(run.path, path, "--crop", *map(str, box), "--sh-degree", "1", "--budget", "5") == 0
    less = gns.load(path)
    assert less.sh_degree == 1 and len(less) == 5
    inside = cropped(whole, box[:3], box[3:])
    assert 5 < len(inside) < len(whole)
    scores = contributions(inside, run.cameras())
    best = inside.means[scores >= scores.sort().values[-5]]
    assert torch.equal(less.means, best)
    assert "5 Gaussians of SH degree 1" in capsys.readouterr().out
    assert export(run.path, path, "--budget", "5kB", "--no-score") == 0
    assert len(gns.load(path)) == gaussians_that_fit(5000, 2) < len(whole)


def test_a_page_begins_at_a_camera_of_the_scene_on_its_background(run: RunFolder, tmp_path: Path) -> None:
    assert export(run.path, tmp_path / "a.html", "--quiet") == 0
    page = (tmp_path / "a.html").read_text()
    assert "<title>out</title>" in page and "background: #ffffff" in page
    assert page.count('"name":') == 9  # all cameras
    assert "http" not in page.replace("https://", "http").split("<script>")[0]  # nothing is fetched
    alone = tmp_path / "alone.ply"
    shutil.copy(run.model_path(10), alone)
    assert export(alone, tmp_path / "b.html", "--quiet") == 0
    assert '"overview"' in (tmp_path / "b.html").read_text()


def test_without_its_scene_a_model_is_written_and_not_scored(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(tmp_path / "scene")
    assert export(run.model_path(10), tmp_path / "a.spz", "--budget", "7") == 0  # cameras.json is enough for that
    printed = capsys.readouterr()
    assert "not scored: " in printed.err and "dB" not in printed.out and "7 Gaussians" in printed.out


def test_sentences(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = tmp_path / "alone.ply"
    shutil.copy(run.model_path(10), alone)
    for words, sentence in (
        ((run.path, "a.obj"), "end in .ply, .compressed.ply"),
        ((run.path, run.model_path(10)), "is the model itself"),
        ((run.path, tmp_path / "a.ply", "--sh-degree", "3"), "the model has degree 2"),
        ((alone, tmp_path / "a.ply", "--budget", "5"), "the cameras of this model are not known"),
        ((tmp_path / "no.ply", tmp_path / "a.ply"), "cannot read"),
        ((run.path, tmp_path / "a.ply", "--crop", *"999999"), "leaves no Gaussian"),
    ):
        assert export(*words, "--no-score") == 2
        assert sentence in capsys.readouterr().err.replace("is empty", "leaves no Gaussian")
    (run.path / "cameras.json").write_text("[{}]")
    assert export(run.path, tmp_path / "a.html", "--no-score") == 2
    assert "no list of cameras" in capsys.readouterr().err


def test_cameras_come_back_as_they_were_written(run: RunFolder) -> None:
    scene = read_scene_of(run.config, quiet=True)
    for camera, view in zip(run.cameras(), [*scene.test, *scene.train], strict=True):
        assert (camera.name, camera.width, camera.height) == (view.camera.name, view.camera.width, view.camera.height)
        assert camera.world_to_camera == pytest.approx(view.camera.world_to_camera)
        assert (camera.fx, camera.fy) == (view.camera.fx, view.camera.fy)


def test_view_serves_the_model_or_writes_a_page(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("viser")
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(Window, "wait", lambda window: opened.append(f"waits at {window.address}"))
    assert cli.run(cli.view, [str(run.path), "--port", "8099"]) == 0
    assert opened == ["http://127.0.0.1:8099", "waits at http://127.0.0.1:8099"]
    opened.clear()
    monkeypatch.setitem(sys.modules, "viser", None)
    assert cli.run(cli.view, [str(run.path)]) == 0
    assert "showing a page instead" in capsys.readouterr().err
    page = Path(opened[0].removeprefix("file://"))
    assert len(gns.load(page)) == len(run.load_model())
    shutil.rmtree(page.parent)


def test_answers_in_json(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.splat"
    assert export(run.path, path, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    model, (file,) = told["model"], told["files"]
    assert (told["status"], file["path"], file["bytes"]) == (0, str(path), path.stat().st_size)
    assert (model["sh_degree"], file["sh_degree"]) == (2, 0) and model["gaussians"] == file["gaussians"]
    assert file["change"] == file["psnr"] - model["psnr"] != 0
    assert export(run.path, path, "--json", "--no-score") == 0
    assert "psnr" not in json.loads(capsys.readouterr().out)["files"][0]
    assert cli.run(cli.view, [str(run.path), "--json", "--page", "--no-open"]) == 0
    page = Path(json.loads(capsys.readouterr().out)["page"])
    assert len(gns.load(page)) == model["gaussians"]
    shutil.rmtree(page.parent)


def test_view_answers_in_json_as_soon_as_there_is_something_to_see(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("viser")
    heard: list[str] = []

    def wait(_: Window) -> None:
        heard.append(capsys.readouterr().out)
        raise KeyboardInterrupt

    monkeypatch.setattr(Window, "wait", wait)
    assert cli.run(cli.view, [str(run.path), "--port", "8098", "--json", "--no-open"]) == cli.STOPPED
    assert json.loads(heard[0]) == {"status": 0, "model": str(run.path), "address": "http://127.0.0.1:8098"}
    assert capsys.readouterr().out == ""


def test_what_is_known_of_a_model(run: RunFolder, tmp_path: Path) -> None:
    given = GivenModel.of(parse_view([str(run.path)]))
    assert (given.title, given.background) == ("out", (1, 1, 1)) and len(given.cameras) == 9
    assert given.opening_camera() in given.cameras
    alone = tmp_path / "alone.ply"
    shutil.copy(run.model_path(10), alone)
    known = GivenModel.of(parse_view([str(alone)]))
    assert (known.title, known.opening_camera(), known.cameras) == ("alone.ply", None, [])
