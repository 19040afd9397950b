"""gns make: all steps from photos to scores, each only where it is not done."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import gns.commands.make
from gns import cli
from gns.arguments import parse_train
from gns.commands.make import parse_make
from gns.errors import UserError
from gns.sfm.options import parse_convert
from gns.testing.scene_files import small_scene, write_colmap
from tests.sfm.room import write_room

TRAINING = ["--final-budget", "100", "--iterations", "40", "--sh_degree", "1", "--threads", "1"]


class Calls:
    """The commands in this process; converting leaves a scene that was ready: COLMAP has tests of its own."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __call__(self, command: str, arguments: Sequence[str], *, to_stderr: bool = False) -> None:
        self.called.append(command)
        if command == "convert":
            config = parse_convert(arguments)
            assert config.output is not None and config.camera == "OPENCV" and config.threads == 1
            if not config.output.exists():
                write_colmap(config.output, small_scene(points=150, count=9))
        elif status := cli.run(cli.COMMANDS[command], [*arguments, *([] if "--quiet" in arguments else ["--quiet"])]):
            raise UserError(f"{command} ended with status {status}")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(gns.commands.make, "call", calls)
    return calls


def test_it_goes_all_the_way_and_a_second_time_finds_all_done(
    tmp_path: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    write_room(tmp_path / "photos", 3)
    words = [str(tmp_path / "photos"), "-o", str(tmp_path / "scene"), "-m", str(tmp_path / "model"), *TRAINING]
    times = set[int]()
    for _ in range(2):
        assert cli.run(cli.make, [*words, "--camera", "OPENCV", "--json"]) == 0
        printed = capsys.readouterr()
        result = json.loads(printed.out)
        model = Path(result["model"])
        assert model == tmp_path / "model/point_cloud/iteration_40/point_cloud.ply"
        assert (result["gaussians"], result["bytes"]) == (100, model.stat().st_size)
        assert result["scores"]["ours_40"]["PSNR"] > 5
        assert list(result["seconds"]) == calls.called == ["convert", "train", "render", "metrics", "export"]
        assert f"[2/5] gns train -s {tmp_path / 'scene'} -m {tmp_path / 'model'} --final-budget 100" in printed.err
        times.add(model.stat().st_mtime_ns)
        calls.called.clear()
    assert len(times) == 1  # the model of the first time


def test_a_scene_needs_no_photos_and_without_held_out_ones_there_are_no_scores(tmp_path: Path, calls: Calls) -> None:
    write_colmap(tmp_path / "scene", small_scene(points=150, count=9))
    words = ["-s", str(tmp_path / "scene"), "-m", str(tmp_path / "model"), *TRAINING, "--no_eval", "--quiet"]
    assert cli.run(cli.make, words) == 0
    assert calls.called == ["train", "export"]
    assert (tmp_path / "model" / "model.html").stat().st_size > 10_000


def test_every_word_reaches_the_command_that_it_is_for() -> None:
    words = "photos --final_budget 20MB --no_gpu -r 2 --test_iterations -1 --camera PINHOLE --iterations=300 --quiet"
    more = "--save_iterations 100 200 --threads 2 --no-eval -o out --no-undistort --device cpu -m model"
    config = parse_make([*words.split(), *more.split()])
    converting = parse_convert(["-s", "photos", *config.convert])
    assert (converting.gpu, converting.camera, converting.undistort, converting.threads) == (False, "PINHOLE", False, 2)
    assert (converting.output, converting.quiet) == (Path("out"), True)
    training = parse_train(["-s", "photos", *config.train])
    assert (training.resolution, training.test_iterations, training.iterations) == (2, (-1,), 300)
    assert (training.save_iterations, training.eval, training.quiet, training.device) == (
        (100, 200),
        False,
        True,
        "cpu",
    )
    assert config.machine == ["--quiet", "--threads", "2", "--device", "cpu"]
    assert (config.quiet, config.json) == (True, False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["photos", "--final-budget", "50"], "--final-budget is 50 Gaussians"),
        (["--final-budget", "1k"], "-s (--source-path) is missing"),
        (["photos", "--final-budget", "1k", "--camera", "LENS"], "--camera is 'LENS'"),
        (
            ["photos", "--final-budget", "1k", "--iteration", "5"],
            "unknown option --iteration: did you",
        ),
    ],
)
def test_what_a_later_step_would_refuse_is_refused_at_once(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_make(words)
    assert str(refusal.value).startswith(sentence)
