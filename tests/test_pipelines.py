"""Runs that nobody watches: statuses, JSON, one command for every case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gns import cli
from gns.commands.test import BUDGETS, read_budgets
from gns.run_folder import RunFolder
from gns.testing.scene_files import small_scene, write_colmap
from gns.utils.text import by_number

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A training that takes a moment."""
    write_colmap(tmp_path / "scene", small_scene(points=150))
    folders = ["-s", str(tmp_path / "scene"), "-m", str(tmp_path / "model")]
    return [*folders, "--final-budget", "100", "--iterations", "60", "--sh_degree", "0", "--threads", "1", "--quiet"]


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=lambda value: str(value),
)
def test_one_command_starts_goes_on_and_is_done(
    words: list[str],
    tmp_path: Path,
    number: int,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [*words, "--resume", "--json", "--no-report"]
    _signal_at_33(monkeypatch, number)
    assert cli.run(cli.train, command) == status
    assert json.loads(capsys.readouterr().out) == {"status": status, "model_path": str(tmp_path / "model")}
    assert RunFolder.open(tmp_path / "model").checkpoint_iterations() == [33]
    for _ in range(2):  # goes on, and is done
        assert cli.run(cli.train, command) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["status"] == 0 and told["budget"] == {"asked": 100, "gaussians": 100, "met": True}
        assert told["sessions"] == 2 and told["held_out"]["PSNR"] > 5
    assert not (tmp_path / "model" / "report.html").exists()


def _signal_at_33(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    from gns.losses.photometric import photometric_loss

    calls = 0

    def replacement(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 33:
            os.kill(os.getpid(), number)
        return photometric_loss(*arguments, **options)

    monkeypatch.setattr("gns.training.loop.photometric_loss", replacement)


def test_a_finished_run_whose_report_was_lost_gets_it_back(words: list[str], tmp_path: Path) -> None:
    """As after a kill between the model and the report."""
    assert cli.run(cli.train, words) == 0
    (tmp_path / "model" / "report.html").unlink()
    before = (tmp_path / "model" / "log.jsonl").read_bytes()
    assert cli.run(cli.train, [*words, "--resume"]) == 0
    assert (tmp_path / "model" / "report.html").exists()
    assert (tmp_path / "model" / "log.jsonl").read_bytes() == before


def test_a_budget_that_was_not_reached(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [*words, "--final-budget", "5k", "--require-budget", "--no-report", "--resume"]
    for _ in range(2):  # the second time it is done already, and no better for that
        assert cli.run(cli.train, command) == cli.BUDGET_MISSED == 3
        assert "Gaussians grew, fewer than 5,000" in capsys.readouterr().err
    assert cli.run(cli.train, [word for word in command if word != "--require-budget"]) == 0


def test_a_failed_report_is_no_failed_training(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gns.commands.report.write_report", full)
    assert cli.run(cli.train, words) == 0
    assert "the model is saved, but not its report: [Errno 28]" in capsys.readouterr().err


def test_every_command_answers_in_json(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, scene = str(tmp_path / "model"), str(tmp_path / "scene")
    assert cli.run(cli.train, words) == 0
    loud = [word for word in words if word != "--quiet"]
    calls: list[tuple[Callable[..., int], list[str], set[str]]] = [
        (cli.train, [*loud, "--resume"], {"model_path", "budget", "gns"}),
        (cli.render, ["-m", model, "--skip-train"], {"model_path", "iteration", "renders"}),
        (cli.metrics, ["-m", model], {"results"}),
        (cli.inspect, [scene], {"rows"}),
        (cli.report, [model], {"page"}),
    ]
    for command, arguments, keys in calls:
        assert cli.run(command, [*arguments, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert keys | {"status"} <= set(told) and told["status"] == 0
    assert cli.run(cli.render, ["-m", str(tmp_path / "nowhere"), "--json"]) == 2
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["status"] == 2 and printed.err == f"error: {told['error']}\n"


def test_the_package_is_a_program(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "gns", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("gns 0.")


def test_the_list_of_scenes_is_found_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["test", "--data", str(tmp_path)]) == 2
    assert f"no scene of {BUDGETS} is under" in capsys.readouterr().err and len(read_budgets(BUDGETS)) == 13
    (tmp_path / "budget.txt").write_text("own garden 5k images\n", encoding="utf-8")
    assert cli.main(["test", "--data", str(tmp_path)]) == 2
    assert "no scene of budget.txt is under" in capsys.readouterr().err


def test_iterations_are_sorted_as_numbers() -> None:
    names = ["ours_30000", "ours_7000", "other", "ours_700"]
    assert sorted(names, key=by_number) == ["other", "ours_700", "ours_7000", "ours_30000"]
