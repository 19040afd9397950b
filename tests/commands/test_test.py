"""Batches: scenes × budgets × seeds, side by side here or as jobs of a cluster."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from threading import Barrier, Event, Lock, Thread

import pytest

import gns.commands.workers
from gns import cli
from gns.arguments import SuiteConfig, parse_suite
from gns.commands.workers import Gpus, Place, _Gpu, done_here, share_of_threads
from gns.errors import UserError
from gns.rules import PRESETS
from gns.testing.scene_files import small_scene, write_colmap


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A batch of one scene that trains in a moment, and one that cannot be read."""
    write_colmap(tmp_path / "data" / "good", small_scene(points=150))
    (tmp_path / "data" / "bad" / "sparse").mkdir(parents=True)
    (tmp_path / "list.txt").write_text("set bad 200 images\nset good 200 images\n", encoding="utf-8")
    folders = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    return [*folders, "--budgets", str(tmp_path / "list.txt"), "--iterations", "30", "--device", "cpu"]


def test_a_batch_side_by_side(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = [*words, "--seeds", "0", "1", "--jobs", "2", "--threads", "2", "--json"]
    assert cli.run(cli.test, batch) == 1  # of the scene that cannot be read; the other is there all the same
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    runs = {(run["name"], run["seed"]): run for run in told["scenes"]}
    assert told["status"] == 1 and set(runs) == {(name, seed) for name in ("good", "bad") for seed in (0, 1)}
    assert all((run["result"] is None) == (name == "bad") for (name, _), run in runs.items())
    assert Path(runs["good", 1]["model_path"]).name == "good-200-seed1"
    assert f"see its message in {tmp_path / 'out' / 'bad-200.log'}" in printed.err
    assert "error: " in (tmp_path / "out" / "bad-200.log").read_text(encoding="utf-8")
    assert "good, seed 1: PSNR " in printed.err
    config = json.loads((tmp_path / "out" / "good-200-seed1" / "config.json").read_text(encoding="utf-8"))["options"]
    assert (config["seed"], config["threads"]) == (1, 1)
    with (tmp_path / "out" / "results-standard.csv").open(encoding="utf-8", newline="") as file:
        rows = {row[1]: row for row in csv.reader(file)}
    assert rows["bad"][2] == "failed" and " ± " in rows["good"][3]


def test_a_batch_as_jobs_of_a_cluster(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(gns.commands.workers, "CLUSTER", "local")
    monkeypatch.setenv("PYTHONPATH", "")
    batch = [*words, "--slurm", "--slurm-gpus", "0", "--threads", "1", "--scales", "0.5", "1", "--json"]
    assert cli.run(cli.test, batch) == 1
    told = json.loads(capsys.readouterr().out)["scenes"]
    good = {run["budget"]: run for run in told if run["name"] == "good"}
    assert {budget: run["result"]["gaussians"] for budget, run in good.items()} == {100: 100, 200: 200}
    assert [run["result"] for run in told if run["name"] == "bad"] == [None, None]
    # Once more, here: what is finished is not done again.
    model = tmp_path / "out" / "good-100" / "point_cloud" / "iteration_30" / "point_cloud.ply"
    before = model.stat().st_mtime_ns
    assert cli.run(cli.test, [*words, "--threads", "1", "--scales", "0.5", "--quiet"]) == 1
    assert model.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--slurm"], r'--slurm needs the package submitit: pip install "\.\[slurm\]"'),
        (["--seeds", "1", "1"], "--seeds needs one number or more, each once"),
        (["--scales", "0"], "--scales are shares of each budget"),
        (["--small", "--scales", "2"], "--small is --scales 0.4"),
        (["--slurm-gpus", "2"], "a run uses one GPU"),
    ],
)
def test_sentences(words: list[str], monkeypatch: pytest.MonkeyPatch, given: list[str], sentence: str) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=sentence):
        cli.test([*words, "--quiet", *given])


def test_the_preset_decides_the_length_unless_it_is_given() -> None:
    assert isinstance(parse_suite([]), SuiteConfig)
    lengths = {parse_suite(["--preset", name]).iterations for name in PRESETS}
    assert len(lengths) > 1
    assert parse_suite(["--preset", next(iter(PRESETS)), "--iterations", "30"]).iterations == 30


def test_runs_go_to_idle_gpus_and_share_one_where_they_fit() -> None:
    gpus = Gpus([_Gpu("4", free=10), _Gpu("7", free=20)])
    with gpus.lent(6) as first, gpus.lent(6) as second, gpus.lent(6) as third:
        assert (first, second, third) == ("7", "4", "7")
        came = Event()

        def take() -> None:
            with gpus.lent(9):
                came.set()

        waiting = Thread(target=take)
        waiting.start()
        assert not came.wait(0.05)  # 4 and 8 are left
    waiting.join(timeout=10)
    assert came.is_set()
    assert [(gpu.runs, gpu.free) for gpu in gpus.gpus] == [(0, 10), (0, 20)]
    with gpus.lent(1000) as name:  # larger than any: the training says so
        assert name == "7"


def test_runs_are_side_by_side_each_on_a_gpu() -> None:
    both, seen, lock = Barrier(2, timeout=10), [], Lock()

    def work(run: int, place: Place) -> int:
        both.wait()
        with lock:
            seen.append(place.environment["CUDA_VISIBLE_DEVICES"])
        return run * run

    gpus = Gpus([_Gpu("0", free=1), _Gpu("1", free=1)])
    done = done_here([1, 2], work, jobs=2, threads=4, gpus=gpus, needed=lambda run: 1)
    assert dict(done) == {1: 1, 2: 4}
    assert sorted(seen) == ["0", "1"]


def test_a_stop_begins_no_other_run() -> None:
    begun: list[int] = []

    def work(run: int, place: Place) -> None:
        begun.append(run)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(done_here([*range(50)], work, jobs=1, threads=0, gpus=None, needed=lambda run: 0))
    assert len(begun) < 50


def test_threads_are_shared_out() -> None:
    assert share_of_threads(0, 1) == 0
    assert share_of_threads(8, 3) == 2
    assert share_of_threads(1, 4) == 1
    assert share_of_threads(0, 10_000) == 1
