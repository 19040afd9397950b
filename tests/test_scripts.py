"""The commands from their arguments to files and exit status: render, metrics, test, and the whole way."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import gns.commands.film
import gns.commands.test
from gns import cli
from gns.arguments import SuiteConfig, TrainConfig, parse_train
from gns.commands.child import call
from gns.commands.test import SceneResult, SuiteScene, comparison_table, find_scene, read_budgets, run_suite
from gns.errors import UserError
from gns.gaussian_renderer import render
from gns.model.initialisation import initial_gaussians
from gns.run_folder import RunFolder
from gns.scene import Gaussians
from gns.testing.examples import random_gaussians
from gns.testing.scene_files import small_scene, write_colmap
from gns.utils.ply_file import count_rows
from gns.utils.png import read_png, to_eight_bit

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def scene_folder(tmp_path: Path) -> Path:
    """Nine photos, two of them held out."""
    return write_colmap(tmp_path / "scene", small_scene(count=9))


@pytest.fixture
def model(tmp_path: Path, scene_folder: Path) -> RunFolder:
    """An output folder with the models of two iterations."""
    config = TrainConfig(source_path=scene_folder, model_path=tmp_path / "out", final_budget=100)
    run = RunFolder.create(config.model_path, config)
    gaussians = initial_gaussians(small_scene(count=9).points, 1)
    run.save_model(gaussians, 10)
    gaussians.opacity_logits += 2
    run.save_model(gaussians, 20)
    return run


def written(run: RunFolder, split: str, iteration: int) -> list[str]:
    """The names of the PNG files of one rendered set, which must come in pairs."""
    renders, truths = run.renders_path(split, iteration), run.truth_path(split, iteration)
    names = sorted(path.name for path in renders.glob("*"))
    assert names == sorted(path.name for path in truths.glob("*"))
    return names


# render


def test_render_writes_what_the_renderer_draws(model: RunFolder) -> None:
    assert cli.run(cli.render, ["-m", str(model.path), "--quiet"]) == 0
    assert written(model, "train", 20) == [f"{index:05d}.png" for index in range(7)]
    assert written(model, "test", 20) == ["00000.png", "00001.png"]

    scene = gns.commands.render.read_scene_of(model.config, quiet=True)
    gaussians, black = model.load_model(20), torch.zeros(3)
    for split, views in (("train", scene.train), ("test", scene.test)):
        for index, view in enumerate(views):
            expected = to_eight_bit(render(view.camera, gaussians, black).image)
            assert torch.equal(read_png(model.renders_path(split, 20) / f"{index:05d}.png"), expected)
            assert torch.equal(read_png(model.truth_path(split, 20) / f"{index:05d}.png"), view.image)


def test_render_takes_the_iteration_and_the_sets_it_is_told(model: RunFolder) -> None:
    assert cli.run(cli.render, ["-m", str(model.path), "--iteration", "10", "--skip_train", "--quiet"]) == 0
    assert not (model.path / "train").exists()
    assert written(model, "test", 10) == ["00000.png", "00001.png"]
    assert not model.renders_path("test", 20).exists()


def test_stopped_render_goes_on_where_it_was(model: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    real = render

    def stopping(camera: Any, gaussians: Gaussians, background: torch.Tensor, **maps: Any) -> Any:
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(camera.name)
        return real(camera, gaussians, background, **maps)

    monkeypatch.setattr(gns.commands.film, "render", stopping)
    arguments = ["-m", str(model.path), "--quiet"]
    assert cli.run(cli.render, arguments) == 130
    assert len(written(model, "train", 20)) == 3
    first = list(drawn)
    drawn[:] = ["", ""]  # one more view until the next stop
    assert cli.run(cli.render, arguments) == 130
    assert drawn[2] not in first
    monkeypatch.setattr(gns.commands.film, "render", real)
    assert cli.run(cli.render, arguments) == 0
    assert len(written(model, "train", 20)) == 7


def test_a_second_render_of_a_model_is_refused_and_leftovers_go(
    model: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", str(model.path), "--quiet"]
    with model.rendering("test", 20):
        assert cli.run(cli.render, [*arguments, "--skip-train"]) == 2
        assert "is at work in" in capsys.readouterr().err
    leftover = model.renders_path("test", 20) / f".gns-{os.getpid()}-7.tmp"
    leftover.parent.mkdir(parents=True, exist_ok=True)
    leftover.write_bytes(b"half a picture")
    assert cli.run(cli.render, arguments) == 0
    assert not list(model.path.rglob(".*"))


def test_renders_of_an_older_model_are_drawn_again(model: RunFolder) -> None:
    arguments = ["-m", str(model.path), "--skip_train", "--quiet"]
    cli.run(cli.render, arguments)
    png = model.renders_path("test", 20) / "00000.png"
    before = read_png(png)
    model.save_model(model.load_model(10), 20)
    os.utime(png, (2e9, 2e9))  # newer than the model, by a clock that was wrong
    cli.run(cli.render, arguments)
    assert not torch.equal(read_png(png), before)


def test_renders_go_with_their_scene_and_stay_where_only_times_differ(model: RunFolder, scene_folder: Path) -> None:
    arguments = ["-m", str(model.path), "--skip_train", "--quiet"]
    cli.run(cli.render, arguments)
    png, stray = (model.renders_path("test", 20) / name for name in ("00000.png", "00007.png"))
    png.write_bytes((model.renders_path("test", 20) / "00001.png").read_bytes())
    os.utime(png, (0, 0))
    before = png.read_bytes()
    cli.run(cli.render, arguments)
    assert png.read_bytes() == before  # not drawn again
    stray.write_bytes(before)
    photo = Image.open(scene_folder / "images" / "00.png")
    photo.putpixel((0, 0), (1, 2, 3))
    photo.save(scene_folder / "images" / "00.png")
    cli.run(cli.render, arguments)
    assert png.read_bytes() != before and not stray.exists()
    assert read_png(model.truth_path("test", 20) / "00000.png")[0, 0].tolist() == [1, 2, 3]


def test_render_finds_a_scene_that_has_moved(model: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    model.config.source_path.rename(model.config.source_path.with_name("moved"))
    arguments = ["-m", str(model.path), "--skip_train", "--quiet"]
    assert cli.run(cli.render, arguments) == 2
    assert str(model.config.source_path) in capsys.readouterr().err
    assert cli.run(cli.render, [*arguments, "-s", str(model.config.source_path.with_name("moved"))]) == 0
    assert len(written(model, "test", 20)) == 2


def test_render_reads_the_folder_of_another_tool(model: RunFolder) -> None:
    (model.path / "config.json").unlink()
    assert cli.run(cli.render, ["-m", str(model.path), "--skip_train", "--quiet"]) == 0
    assert len(written(model, "test", 20)) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--iteration", "7"], "holds no model of iteration 7: saved are 10, 20"),
        (["--device", "cuda"], "--device cuda"),
        (["--skip_tset"], "did you mean --skip-test?"),
    ],
)
def test_render_refuses_in_one_sentence(
    model: RunFolder, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert cli.run(cli.render, ["-m", str(model.path), *arguments, "--quiet"]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_damaged_model_is_refused(model: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    path = model.model_path(20)
    path.write_bytes(path.read_bytes()[:-7])
    assert cli.run(cli.render, ["-m", str(model.path), "--quiet"]) == 2
    assert "cut short or damaged" in capsys.readouterr().err
    assert not (model.path / "test").exists()


# metrics


def test_metrics_scores_what_render_wrote(
    model: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    cli.run(cli.render, ["-m", str(model.path), "--quiet"])
    assert cli.run(cli.metrics, ["-m", str(model.path)]) == 0
    results = json.loads(model.results_path.read_text(encoding="utf-8"))
    assert set(results["ours_20"]) >= {"SSIM", "PSNR", "LPIPS"}
    assert f"PSNR {results['ours_20']['PSNR']:.3f}" in capsys.readouterr().out
    per_view = json.loads(model.per_view_path.read_text(encoding="utf-8"))
    assert list(per_view["ours_20"]["PSNR"]) == ["00000.png", "00001.png"]


def test_metrics_before_render_says_what_to_do(model: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.metrics, ["-m", str(model.path)]) == 2
    assert "run render.py" in capsys.readouterr().err


# gns


def test_overview_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"]):
        assert cli.main(argv) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {name} " in text for name in ("train", "render", "metrics", "test"))


def test_wrong_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == "error: unknown command trian: did you mean train?\n"


def test_errors_that_are_not_the_users_keep_their_traceback() -> None:
    def broken(_: Sequence[str]) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(broken, [])


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(36, "File name too long", "a/b"), "a/b cannot be used: File name too long"),
        (MemoryError(), "the main memory is used up"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the main memory is used up"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    error: Exception, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(argv: Sequence[str]) -> int:
        raise error

    assert cli.run(failing, []) == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


@pytest.mark.parametrize("script", ["train", "render", "metrics", "test"])
def test_scripts_exit_with_2_and_a_sentence(script: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / f"{script}.py"), "--frobnicate"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "error: unknown option --frobnicate: see --help\n"
    assert done.stdout == ""


# The suite


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two scenes of a data set, one of them a folder deeper, and a folder that only has a scene's name."""
    for place in ("data/one", "data/deep/two"):
        (tmp_path / place / "sparse").mkdir(parents=True)
    (tmp_path / "data" / "three").mkdir()
    return tmp_path / "data"


@pytest.fixture
def suite(tmp_path: Path, data: Path) -> SuiteConfig:
    budgets = tmp_path / "budget.txt"
    budgets.write_text(
        "# scenes\nfirst one 1k images\nfirst two 500 images_4\nlast three 1k images\n", encoding="utf-8"
    )
    return SuiteConfig(data=data, budgets=budgets, output=tmp_path / "runs", iterations=30)


class Commands:
    """Stands for the processes that train, render and score; remembers them, and fails where it is told to."""

    def __init__(self) -> None:
        self.called: list[tuple[str, str]] = []  # (command, name of the output folder)
        self.fail_at: tuple[str, str] | None = None

    def __call__(self, command: str, arguments: Sequence[str]) -> None:
        folder = Path(arguments[list(arguments).index("-m") + 1])
        self.called.append((command, folder.name))
        if (command, folder.name) == self.fail_at:
            raise UserError("planted")
        if command == "train":
            config = parse_train(arguments)
            run = RunFolder.create(folder, config)
            run.save_model(random_gaussians(config.final_budget or 0, 0), config.iterations)
            run.log({"iteration": 10, "seconds": 60})
            run.log({"iteration": 30, "seconds": 90})
            run.log({"iteration": 30, "seconds": 30})  # after a resume
        if command == "metrics":
            digest = RunFolder.open(folder).model_digest(30)
            results = {"ours_30": {"SSIM": 0.8, "PSNR": 20.0 + len(self.called), "LPIPS": None, "model_sha256": digest}}
            RunFolder.open(folder).results_path.write_text(json.dumps(results), encoding="utf-8")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands = Commands()
    monkeypatch.setattr(gns.commands.test, "call", commands)
    return commands


def test_budget_file_of_the_paper() -> None:
    scenes = {scene.name: scene for scene in read_budgets(gns.commands.test.BUDGETS)}
    assert len(scenes) == 13
    assert {scene.dataset for scene in scenes.values()} == set(gns.commands.published.MEANS)
    assert set(scenes) == set(gns.commands.published.PSNR)
    large = {"bicycle", "flowers", "garden", "stump", "treehill", "drjohnson", "truck"}
    for name, scene in scenes.items():
        assert scene.budget == (600_000 if name in large else 300_000)
    assert {name for name, scene in scenes.items() if scene.images == "images_2"} == {
        "bonsai",
        "counter",
        "kitchen",
        "room",
    }
    # The means over the scenes must be the means that were published.
    for dataset, (ours, *_) in gns.commands.published.MEANS.items():
        values = [gns.commands.published.PSNR[name] for name, scene in scenes.items() if scene.dataset == dataset]
        assert sum(values) / len(values) == pytest.approx(ours.psnr, abs=0.006)


@pytest.mark.parametrize("line", ["a b 5", "a b many images", "a b 5 images more"])
def test_budget_line_that_is_not_understood_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "budget.txt").write_text(f"# comment\n\na b 5 images  # fine\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"budget\.txt, line 4"):
        read_budgets(tmp_path / "budget.txt")


def test_scenes_are_found_by_name_and_content(data: Path) -> None:
    assert find_scene(data, "one") == data / "one"
    assert find_scene(data, "two") == data / "deep" / "two"
    assert find_scene(data, "three") is None


def test_suite_does_every_step_once(suite: SuiteConfig, commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_suite(suite) == 0
    assert f"not under {suite.data}: three\n" in capsys.readouterr().out
    steps = [(command, run) for run in ("one-1k", "two-500") for command in ("train", "render", "metrics")]
    assert commands.called == steps
    assert run_suite(suite) == 0
    assert commands.called == steps  # all was there


def test_suite_trains_with_the_options_of_the_list(suite: SuiteConfig, commands: Commands) -> None:
    run_suite(suite)
    config = RunFolder.open(suite.output / "two-500").config
    assert isinstance(config, TrainConfig)
    assert (config.final_budget, config.images, config.iterations) == (500, "images_4", 30)
    assert config.source_path == suite.data / "deep" / "two"


def test_suite_small_takes_40_percent(suite: SuiteConfig, commands: Commands) -> None:
    run_suite(SuiteConfig(**{**vars(suite), "small": True}))
    assert count_rows(RunFolder.open(suite.output / "one-400").model_path(30)) == 400
    assert (suite.output / "results-standard-small.txt").exists()


def test_suite_goes_on_after_a_failure_and_says_so(
    suite: SuiteConfig, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.fail_at = ("render", "one-1k")
    assert run_suite(suite) == 1
    assert ("metrics", "two-500") in commands.called
    assert ("metrics", "one-1k") not in commands.called
    printed = capsys.readouterr()
    assert "error: one: planted" in printed.err
    assert any(line.split()[:2] == ["one", "failed"] for line in printed.out.splitlines())

    commands.fail_at = None
    commands.called.clear()
    assert run_suite(suite) == 0
    assert commands.called == [("render", "one-1k"), ("metrics", "one-1k")]


def test_suite_scores_again_after_a_new_training(suite: SuiteConfig, commands: Commands) -> None:
    run_suite(suite)
    run = RunFolder.open(suite.output / "one-1k")
    run.save_model(random_gaussians(1000, 0, seed=1), 30)
    os.utime(run.results_path, (2e9, 2e9))  # newer than the model, by a clock that was wrong
    commands.called.clear()
    run_suite(suite)
    assert commands.called == [("render", "one-1k"), ("metrics", "one-1k")]


def test_suite_refuses_results_of_other_options(
    suite: SuiteConfig, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    run_suite(suite)
    suite.output.joinpath("one-1k").rename(suite.output / "one-1k-seed1")
    assert run_suite(SuiteConfig(**{**vars(suite), "seeds": (1,)})) == 1
    assert "error: one: --seed is 1, but the run" in capsys.readouterr().err


def test_suite_writes_three_forms_of_one_table(suite: SuiteConfig, commands: Commands) -> None:
    run_suite(suite)
    stem = suite.output / "results-standard"
    with stem.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["dataset", "scene", "SSIM", "PSNR", "LPIPS", "Gaussians", "minutes", "published PSNR"]
    assert rows[1] == ["first", "one", "0.800", "23.00", "-", "1 000", "2.0", "-"]
    assert rows[3] == ["first", "mean", "0.800", "24.50", "-", "750", "2.0", "-"]
    for suffix in (".txt", ".md"):
        text = stem.with_suffix(suffix).read_text(encoding="utf-8")
        for row in rows:
            assert all(cell in text for cell in row[1:])


def test_suite_without_scenes_says_where_it_looked(suite: SuiteConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no scene of .* is under .*empty: put one of them there"):
        run_suite(SuiteConfig(**{**vars(suite), "data": tmp_path / "empty"}))


def test_table_stands_beside_the_published_figures() -> None:
    results = {
        SuiteScene("tanksandtemples", "truck", 600_000, "images"): SceneResult(0.9, 26.0, 0.15, 600_000, 8.0),
        SuiteScene("tanksandtemples", "train", 300_000, "images"): None,
    }
    rows = {row[0]: list(row[1:]) for row in comparison_table("tanksandtemples", results, scene_count=2)}
    assert rows["truck"] == ["0.900", "26.00", "0.150", "600 000", "8.0", "26.52"]
    assert rows["train"] == ["failed", "", "", "", "", "22.74"]
    assert rows["mean of 1 of 2"] == ["0.900", "26.00", "0.150", "600 000", "8.0", "26.52"]
    assert rows["GNS (published)"] == ["0.871", "24.63", "0.154", "450 000", "8.5", ""]
    assert rows["3DGS (published)"][:2] == ["0.849", "23.72"]
    assert rows["Improved-GS, sparse (published)"][:2] == ["0.856", "24.39"]


def test_commands_of_the_suite_run_in_their_own_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="metrics ended with status 2"):
        call("metrics", ["-m", str(tmp_path / "missing")])
    assert "missing is no output folder of a training" in capfd.readouterr().err


# The whole way


def test_from_photos_to_scores(
    scene_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "lpips", None)
    steps: list[tuple[Callable[[Sequence[str]], int], list[str]]] = [
        (cli.train, ["-s", str(scene_folder), "--final_budget", "100", "--iterations", "60", "--threads", "1"]),
        (cli.render, ["-m", "output/scene-100"]),
        (cli.metrics, ["-m", "output/scene-100"]),
    ]
    for command, arguments in steps:
        assert cli.run(command, [*arguments, "--quiet"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")  # --quiet means quiet
    run = RunFolder.open(Path("output/scene-100"))
    assert run.saved_iterations() == [60]
    scores = json.loads(run.results_path.read_text(encoding="utf-8"))["ours_60"]
    assert scores["PSNR"] > 15  # pictures of nothing but the mean colour have 14.1
    assert json.loads((run.path / "cameras.json").read_text(encoding="utf-8"))[0]["img_name"] == "00.png"
    assert (run.path / "input.ply").exists()
