"""Runs are made: in which order, by whom, and what happens when somebody says stop."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import quality
from benchmarks.grid import shared_growth
from benchmarks.grid.measuring import Measurement, Stop, Stopped, total
from benchmarks.grid.plan import Grid, parse_budget
from benchmarks.grid.results import Result, Results
from benchmarks.grid.runs import Run, method_entrant
from benchmarks.quality import Task, work_off
from gns.errors import UserError
from gns.rules import DEFAULT_METHOD
from gns.testing.scene_files import small_scene, write_colmap
from gns.utils.folder_lock import FolderInUse, locked
from tests.quality.made_up import FOX, LOWEST, MACHINE, run_of, write


@pytest.fixture(autouse=True)
def _signals_as_they_were() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """Two entrants of two budgets, one of which waits for 3DGS; one seed."""
    entrants = [method_entrant(DEFAULT_METHOD), LOWEST]
    grid = Grid([FOX], entrants, [parse_budget("90k"), parse_budget("10%")], [3_000], [0], "cpu")
    return Task(grid, {"fox480": tmp_path}, {"fox480": 1_000}, Results(tmp_path / "results"))


def measurement(task: Task, monkeypatch: pytest.MonkeyPatch, carry_out: Callable[[Run], None]) -> Measurement:
    """One that does nothing but call `carry_out`."""
    made = Measurement(task.results, MACHINE, (), Stop())
    monkeypatch.setattr(Measurement, "carry_out", lambda self, run, source, following: carry_out(run))
    return made


def test_runs_are_made_cheapest_first_and_percentages_once_they_are_known(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Run] = []

    def carry_out(run: Run) -> None:
        made.append(run)
        write(task.results, run, **({"gaussians": 5_000} if run.budget is None else {}))

    assert work_off(task, measurement(task, monkeypatch, carry_out)) == 0
    # 3DGS is expected to grow to little on photos of 1,000 pixels. Then 10 % of its count is the cheapest.
    assert [(run.entrant.name, run.budget) for run in made] == [
        ("3dgs", None),
        (DEFAULT_METHOD, 500),
        ("lowest", 500),
        (DEFAULT_METHOD, 90_000),
        ("lowest", 90_000),
    ]
    assert "[1 of 3, 2 more once 3DGS has grown; about" in capsys.readouterr().out
    assert work_off(task, measurement(task, monkeypatch, carry_out)) == 0 and len(made) == 5  # all are finished


def test_a_run_that_fails_leaves_the_others_alone(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def carry_out(run: Run) -> None:
        made.append(run.entrant.name)
        if run.budget is None:
            raise UserError("train.py ended with status 2")
        write(task.results, run)

    assert work_off(task, measurement(task, monkeypatch, carry_out)) == 1
    assert made == ["3dgs", DEFAULT_METHOD, "lowest"]
    assert "error: train.py ended with status 2" in capsys.readouterr().err


def test_a_run_that_another_process_makes_is_left_to_it_until_it_lets_go(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    theirs = run_of(budget=90_000)
    monkeypatch.setattr(quality, "PAUSE", 0.0)
    theirs_now = ExitStack()
    theirs_now.enter_context(locked(task.results.work_folder(theirs)))

    def carry_out(run: Run) -> None:
        if run == theirs and len(made) < 4:
            raise FolderInUse("another process is at work")
        made.append(run.entrant.name)
        write(task.results, run, **({"gaussians": 5_000} if run.budget is None else {}))
        if run == run_of(LOWEST, budget=90_000):
            theirs_now.close()  # they are stopped, without a result

    assert work_off(task, measurement(task, monkeypatch, carry_out)) == 0
    assert made == ["3dgs", DEFAULT_METHOD, "lowest", "lowest", DEFAULT_METHOD]


def test_only_one_process_makes_a_run(task: Task, tmp_path: Path) -> None:
    run = run_of()
    making = Measurement(task.results, MACHINE, (), Stop())
    with locked(task.results.work_folder(run)), pytest.raises(FolderInUse):
        making.carry_out(run, tmp_path)
    # Nor is it begun beside a training whose own process was killed.
    with locked(task.results.work_folder(run) / "model"), pytest.raises(FolderInUse):
        making.carry_out(run, tmp_path)
    write(task.results, run, 12.5)
    making.carry_out(run, tmp_path)  # it was finished in the meantime: nothing is trained
    result = task.results.finished(run)
    assert result is not None and result.psnr == 12.5


# Programs


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_a_program_is_measured_and_its_failure_told(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    spent = Stop().run(shell("sleep 0.1; echo fine"), output)
    assert (spent.status, output.read_text()) == (0, "fine\n")
    assert 0 < spent.wall_seconds < 60 and spent.peak_memory_bytes > 100_000
    with pytest.raises(UserError, match=r"ended with status 3: fine out of paper \(all of it: .*output.txt\)"):
        Stop().run(shell("echo out of paper; exit 3"), output)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_under_way_is_asked_to_stop_once(tmp_path: Path, number: signal.Signals) -> None:
    """It takes its time to save what it has, and nothing else is begun afterwards."""
    stop, output = Stop(), tmp_path / "output.txt"

    def interrupt() -> None:
        while "ready" not in output.read_text():
            pass
        os.kill(os.getpid(), number)

    output.touch()
    threading.Thread(target=interrupt, daemon=True).start()
    saving = "trap 'sleep 0.1; echo saved; exit 130' TERM; trap 'echo again' INT; echo ready"
    assert stop.run(shell(f"{saving}; while :; do sleep 0.02; done"), output).status == 130
    assert output.read_text() == "ready\nsaved\n" and stop.asked
    with pytest.raises(Stopped):
        stop.run(shell("echo more"), output)
    assert "more" not in output.read_text()


# The whole way


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    write_colmap(tmp_path / "data" / "tiny", small_scene(count=9))
    table = tmp_path / "scenes.txt"
    table.write_text("tiny tiny --sh_degree 1\n")
    where = ["--data", str(tmp_path / "data"), "--scene-table", str(table), "--results", str(tmp_path / "results")]
    what = ["--scenes", "tiny", "garden", "--methods", DEFAULT_METHOD, "--budgets", "100"]
    return [*where, *what, "--iterations", "2", "--seeds", "0", "--threads", "1", "--device", "cpu"]


def test_a_run_is_trained_rendered_scored_and_not_made_again(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quality.main(arguments) == 0
    assert "garden is left out" in capsys.readouterr().out
    (path,) = (tmp_path / "results").glob("*.json")
    document: dict[str, Any] = json.loads(path.read_text())
    assert (document["scene"], document["gaussians"], document["budget"]) == ("tiny", 100, 100)
    assert document["options"]["--sh-degree"] == 1 and document["machine"]["threads"] == 1
    assert len(document["per_view"]["PSNR"]) == 2 and 1 < document["scores"]["PSNR"] < 60
    assert document["scores"]["PSNR"] == pytest.approx(sum(document["per_view"]["PSNR"].values()) / 2)
    assert [moment["iteration"] for moment in document["moments"]] == [1, 2]
    assert document["moments"][-1]["psnr"] == pytest.approx(document["scores"]["PSNR"], abs=1e-3)
    assert document["cpu_seconds"] > 0 and 0 < document["wall_seconds"] == document["sessions"][0]["wall_seconds"]
    assert document["peak_memory_bytes"] > 10_000_000 and document["photo_size"] == [40, 30]
    assert str(tmp_path) not in path.read_text()  # where it was measured is nobody's business
    work = tmp_path / "results" / "runs" / path.stem
    assert (work / "model" / "point_cloud" / "iteration_2" / "point_cloud.ply").exists()
    assert not (work / "model" / "test").exists()

    monkeypatch.setattr(Stop, "run", None)  # would be called for every program
    assert quality.main(arguments) == 0
    assert quality.main([*arguments, "--list"]) == 0
    assert "1 of 1 are finished" in capsys.readouterr().out


def test_methods_that_grow_alike_grow_once(arguments: list[str], tmp_path: Path) -> None:
    """The others go on from there, to the same scores as by themselves."""
    asked = [*arguments, "--scenes", "tiny", "--iterations", "40", "--seeds", "1"]
    results: dict[str, Result] = {}
    for methods in (["gns", "learned-mask"], ["learned-mask"]):
        folder = tmp_path / "-".join(methods)
        assert quality.main([*asked, "--results", str(folder), "--methods", *methods]) == 0
        results |= {f"{result.entrant} of {len(methods)}": result for result in Results(folder).all()}
        assert not list((folder / "runs").glob("growth-of-*"))
    borrowed, alone = results["learned-mask of 2"], results["learned-mask of 1"]
    assert borrowed.per_view == alone.per_view and borrowed.command == alone.command
    assert [(m.iteration, m.psnr) for m in borrowed.moments] == [(m.iteration, m.psnr) for m in alone.moments]
    growth, own = borrowed.sessions
    assert growth["grown_by"] == "gns" and [len(each.sessions) for each in results.values()] == [1, 2, 1]
    assert borrowed.cpu_seconds == pytest.approx(growth["cpu_seconds"] + own["cpu_seconds"])
    clock = [moment.cpu_seconds or 0.0 for moment in borrowed.moments]
    assert clock == sorted(clock) and growth["cpu_seconds"] <= clock[-1]


def test_a_growth_is_taken_from_the_same_commit_and_machine_alone(tmp_path: Path) -> None:
    growth, checkpoint = shared_growth.Growth(tmp_path / "growth"), tmp_path / "iteration_18.pt"
    record = {"iteration": 18, "seconds": 2.0, "processor_seconds": 3.0}
    log = [{"iteration": 9, "raw_loss": 1.0}, record, {"iteration": 19, "seconds": 9.0, "processor_seconds": 9.0}]
    session = {"commit": "abc", "dirty": False, "wall_seconds": 60.0, "cpu_seconds": 100.0}
    checkpoint.write_bytes(b"state")
    growth.keep(checkpoint, 18, log, session, {"commit": "abc"})
    assert growth.checkpoint.read_bytes() == b"state" and not checkpoint.exists()
    told = growth.told({"commit": "abc"})
    assert told is not None and told["log"] == [record]
    assert told["session"] == {**session, "wall_seconds": 2.0, "cpu_seconds": 3.0}
    assert growth.told({"commit": "def"}) is None
    growth.forget()
    assert growth.told({"commit": "abc"}) is None


@pytest.mark.parametrize(("iterations", "last"), [(30_000, 14_998), (7_000, 3_498), (2, 0)])
def test_who_grows_alike_and_until_when(iterations: int, last: int) -> None:
    run = run_of(iterations=iterations)
    assert [other.entrant.name for other in shared_growth.alike(run)] == [
        "oneshot-opacity",
        "oneshot-contribution",
        "learned-mask",
    ]
    assert {shared_growth.last_common_iteration(each) for each in (run, *shared_growth.alike(run))} == {last}
    for name in ("3dgs", "mcmc", "improved-gs"):
        assert not shared_growth.alike(run_of(method_entrant(name)))
    assert not shared_growth.alike(run_of(LOWEST))


def test_a_session_that_was_killed_leaves_no_times() -> None:
    """What a run took altogether is then unknown, rather than too little."""
    assert total([{"cpu_seconds": 2.0}, {"cpu_seconds": 3.5}], "cpu_seconds") == 5.5
    assert total([{"cpu_seconds": 2.0}, {"cpu_seconds": None}], "cpu_seconds") is None


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--scenes", "nowhere", "nowhere is in no table of scenes"),
        ("--methods", "magic", "there is no method magic"),
        ("--budgets", "many", "'many' is no budget"),
        ("--variants", "x=--no-such", "unknown option --no-such"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    arguments: list[str], option: str, value: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality.main([*arguments, option, value]) == 2
    assert sentence in capsys.readouterr().err


def test_the_list_tells_what_remains(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quality.main([*arguments, "--budgets", "100", "50%", "--list"]) == 0
    told = capsys.readouterr().out
    assert f"tiny, {DEFAULT_METHOD}, 100 Gaussians, 2 iterations, seed 0" in told and "tiny, 3dgs, 2 iterations" in told
    assert "0 of 2 are finished; about" in told and "1 more wait for the number of Gaussians" in told
    assert not (tmp_path / "results").exists()
