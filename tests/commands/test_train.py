"""train.py from its arguments to files and exit status."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gns import cli
from gns.arguments import parse_train
from gns.commands.train import run_training
from gns.errors import UserError
from gns.losses.photometric import photometric_loss
from gns.run_folder import RunFolder
from gns.testing.scene_files import small_scene, write_colmap
from gns.testing.tiny import tiny_config

ITERATIONS = 60
MODEL = f"point_cloud/iteration_{ITERATIONS}/point_cloud.ply"


def _arguments(tmp_path: Path, *more: str) -> list[str]:
    folders = ["-s", str(tmp_path / "scene"), "-m", str(tmp_path / "model")]
    run = [
        "--final-budget",
        "100",
        "--iterations",
        str(ITERATIONS),
        "--sh_degree",
        "1",
        "--threads",
        "1",
        "--no-report",
    ]
    return [*folders, *run, *more]


@pytest.fixture
def at_33(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Let an action happen, once, in the loss of the 33rd iteration from now on."""

    def plant(action: Callable[[], None]) -> None:
        calls = 0

        def replacement(*arguments: torch.Tensor, squared: bool) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == 33:
                action()
            return photometric_loss(*arguments, squared=squared)  # type: ignore[arg-type]

        monkeypatch.setattr("gns.training.loop.photometric_loss", replacement)

    return plant


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_it_trains_resumes_and_knows_when_it_is_done(
    tmp_path: Path, at_33: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    at_33(_interrupt)
    assert cli.run(cli.train, _arguments(tmp_path)) == cli.STOPPED == 130
    printed = capsys.readouterr()
    assert "training on" in printed.out
    assert f"Stopped after iteration 33. To go on: python train.py -m {tmp_path / 'model'} --resume" in printed.err
    assert RunFolder.open(tmp_path / "model").checkpoint_iterations() == [33]
    assert cli.run(cli.train, ["-m", str(tmp_path / "model"), "--resume", "--no-report"]) == 0
    assert cli.run(cli.train, _arguments(tmp_path, "-m", str(tmp_path / "whole"), "--quiet")) == 0
    assert (tmp_path / "model" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
    cameras = json.loads((tmp_path / "model" / "cameras.json").read_text())
    assert len(cameras) == 9 and (tmp_path / "model" / "input.ply").exists()
    capsys.readouterr()
    assert cli.run(cli.train, ["-m", str(tmp_path / "model"), "--resume", "--no-report"]) == 0
    assert "is finished" in capsys.readouterr().out


def test_without_a_budget_one_is_proposed_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    folders = ["-s", str(tmp_path / "scene"), "-m", str(tmp_path / "model")]
    words = [*folders, "--iterations", "30", "--sh_degree", "0", "--threads", "1", "--eval", "--no-report"]
    assert cli.run(cli.train, words) == 0
    told = "no --final-budget given: training to 5,000 Gaussians, a fraction of what 0.0 million pixels and 150 points"
    assert told in capsys.readouterr().out
    assert parse_train([*words, "--resume"]).final_budget == 5_000  # as config.json has it


def test_a_stop_is_a_status_of_its_own(tmp_path: Path, at_33: Callable[[Callable[[], None]], None]) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    at_33(_interrupt)
    config = tiny_config(tmp_path, iterations=40, report=False)
    assert run_training(config) == 130
    folder = RunFolder.open(config.model_path)
    assert folder.checkpoint_iterations() == [33] and folder.saved_iterations() == []


def test_it_starts_from_a_checkpoint(tmp_path: Path) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    assert cli.run(cli.train, _arguments(tmp_path, "--quiet", "--checkpoint_iterations", "20")) == 0
    checkpoint = str(tmp_path / "model" / "checkpoints" / "iteration_20.pt")
    started = ["-m", str(tmp_path / "second"), "--start_checkpoint", checkpoint, "--quiet"]
    assert cli.run(cli.train, _arguments(tmp_path, *started)) == 0
    assert (tmp_path / "model" / MODEL).read_bytes() == (tmp_path / "second" / MODEL).read_bytes()


def test_it_starts_from_what_another_method_grew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    assert cli.run(cli.train, _arguments(tmp_path, "--quiet", "--checkpoint_iterations", "10")) == 0
    checkpoint = str(tmp_path / "model" / "checkpoints" / "iteration_10.pt")
    other = ["--method", "oneshot-opacity"]
    assert cli.run(cli.train, _arguments(tmp_path, "-m", str(tmp_path / "alone"), "--quiet", *other)) == 0
    started = ["-m", str(tmp_path / "second"), "--start_checkpoint", checkpoint, *other]
    assert cli.run(cli.train, _arguments(tmp_path, *started)) == 0
    told = capsys.readouterr().out
    assert f"starting from {checkpoint}\nit is of another method: oneshot_opacity begins with what is there" in told
    assert (tmp_path / "alone" / MODEL).read_bytes() == (tmp_path / "second" / MODEL).read_bytes()


def test_a_supervisor_can_always_pass_resume(
    tmp_path: Path, at_33: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    assert cli.run(cli.train, _arguments(tmp_path, "-m", str(tmp_path / "whole"), "--quiet")) == 0
    for stopped_before in (True, False):  # a folder without a checkpoint, as a crash leaves it, and none at all
        if stopped_before:
            RunFolder.create(tmp_path / "model", parse_train(_arguments(tmp_path)))
        else:
            shutil.rmtree(tmp_path / "model")
        assert cli.run(cli.train, _arguments(tmp_path, "--resume")) == 0
        assert f"{tmp_path / 'model'} holds no checkpoint yet: starting from the beginning" in capsys.readouterr().out
        assert (tmp_path / "model" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()


def test_a_cut_checkpoint_with_a_good_one_behind_it(
    tmp_path: Path, at_33: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    assert cli.run(cli.train, _arguments(tmp_path, "-m", str(tmp_path / "whole"), "--quiet")) == 0
    at_33(_interrupt)
    assert cli.run(cli.train, _arguments(tmp_path, "--checkpoint_iterations", "20")) == cli.STOPPED
    newest = tmp_path / "model" / "checkpoints" / "iteration_33.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert cli.run(cli.train, _arguments(tmp_path, "--resume", "--quiet")) == 0
    assert f"{newest} is damaged or cut short: going on from iteration 20 instead" in capsys.readouterr().err
    assert (tmp_path / "model" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()


def test_what_changed_between_stop_and_resume_is_noticed(
    tmp_path: Path, at_33: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    at_33(_interrupt)
    assert cli.run(cli.train, _arguments(tmp_path)) == cli.STOPPED
    resumed = ["-m", str(tmp_path / "model"), "--resume", "--quiet"]
    capsys.readouterr()

    stored = tmp_path / "model" / "config.json"
    _, photo, another, *_ = sorted((tmp_path / "scene" / "images").iterdir())
    for path, changed, sentence in (
        (stored, stored.read_text().replace('"seed": 0', '"seed": 1').encode(), "--seed is 1"),
        (photo, another.read_bytes(), "the photos, masks or cameras"),
    ):
        before = path.read_bytes()
        path.write_bytes(changed)
        assert cli.run(cli.train, resumed) == 2
        assert sentence in capsys.readouterr().err
        path.write_bytes(before)
    assert cli.run(cli.train, resumed) == 0


def test_two_trainings_in_one_folder(
    tmp_path: Path, at_33: Callable[[Callable[[], None]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150))
    outcomes: list[int] = []
    second = _arguments(tmp_path, "--iterations", "50", "--quiet")
    at_33(lambda: outcomes.append(cli.run(cli.train, second)))
    assert cli.run(cli.train, _arguments(tmp_path, "--quiet")) == 0
    assert outcomes == [2] and "is at work in" in capsys.readouterr().err
    assert RunFolder.open(tmp_path / "model").config.iterations == ITERATIONS  # type: ignore[attr-defined]
    assert not list((tmp_path / "model").glob(".*"))


def test_a_missing_scene_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        run_training(tiny_config(tmp_path))


def test_a_device_that_cannot_train_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--device cuda"):
        run_training(tiny_config(tmp_path, device="cuda"))
    assert not (tmp_path / "model").exists()
