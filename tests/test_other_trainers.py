"""Options that people know from other trainers: each is answered, and none that gns has is kept from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gns import cli, other_trainers
from gns.arguments import parse_metrics, parse_render, parse_suite, parse_train
from gns.errors import UserError
from gns.other_trainers import Answers, answered

# What README and --help of 3DGS and Taming 3DGS list for train.py.
KNOWN_THERE = """--source_path --model_path --images --eval --resolution --data_device --white_background --sh_degree
--convert_SHs_python --compute_cov3D_python --debug --debug_from --iterations --ip --port --test_iterations
--save_iterations --checkpoint_iterations --start_checkpoint --quiet --feature_lr --opacity_lr --scaling_lr
--rotation_lr --position_lr_max_steps --position_lr_init --position_lr_final --position_lr_delay_mult
--densify_from_iter --densify_until_iter --densify_grad_threshold --densification_interval --opacity_reset_interval
--lambda_dssim --percent_dense --optimizer_type --exposure_lr_init --exposure_lr_final --exposure_lr_delay_steps
--exposure_lr_delay_mult --train_test_exp --depths --depth_l1_weight_init --depth_l1_weight_final --antialiasing
--random_background --disable_viewer --detect_anomaly --cams --budget --mode --websockets --ho_iteration --sh_lower
--benchmark_dir"""

COMMANDS: list[tuple[Callable[..., Any], list[str], Answers]] = [
    (parse_train, ["-s", "scene"], other_trainers.TRAIN),
    (parse_render, ["-m", "out"], other_trainers.RENDER),
    (parse_metrics, ["-m", "out"], other_trainers.METRICS),
    (parse_suite, [], other_trainers.FULL_EVAL),
]


@pytest.mark.parametrize("name", KNOWN_THERE.split())
def test_every_option_of_their_training_is_answered(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is understood, asks for another value, or is answered by the table: no guess at what was meant."""
    try:
        parse_train(["-s", "scene", name, "1"])
    except UserError as error:
        assert "did you mean" not in str(error) and "unknown option" not in str(error)
        assert str(error).startswith(("--", "-s is", "unexpected value", "the folder"))
    else:
        note = capsys.readouterr().err
        assert note == "" or note.startswith(f"note: {name} is not needed: ")


@pytest.mark.parametrize(("parse", "needed", "answers"), COMMANDS, ids=["train", "render", "metrics", "full_eval"])
def test_every_answer_is_given(
    parse: Callable[..., Any], needed: list[str], answers: Answers, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hence none is of an option that the command has: such a line of the table is to be taken out."""
    plain = parse(needed)
    for name, answer in answers.items():
        for spelling in {name, name.replace("-", "_").replace("__", "--", 1) if name.startswith("--") else name}:
            words = [*needed, spelling, *["1"] * answer.values]
            if answer.refused:
                with pytest.raises(UserError) as refusal:
                    parse(words)
                assert str(refusal.value) == f"{spelling} {answer.text}"
            else:
                assert parse(words) == plain
                assert capsys.readouterr().err == f"note: {spelling} {answer.text}\n"


def test_values_go_with_their_option_however_they_are_written() -> None:
    for words in (["--port", "6009", "--eval"], ["--port=6009", "--eval"]):
        assert answered(words, other_trainers.TRAIN, ())[0] == ["--eval"]
    assert answered(["--debug", "6009"], other_trainers.TRAIN, ())[0] == ["6009"]


def test_what_the_command_has_itself_is_left_alone() -> None:
    assert answered(["--depths", "d"], other_trainers.TRAIN, {"--depths": None}) == (["--depths", "d"], [])


def test_all_that_is_refused_is_named_at_once() -> None:
    with pytest.raises(UserError, match=r"^--budget is --final-budget here.*; --mode is not needed"):
        parse_train(["-s", "scene", "--budget", "15", "--mode", "multiplier", "--data_device", "cuda"])


def test_silence_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    parse_train(["-s", "scene", "--port", "6009", "--quiet"])
    assert capsys.readouterr().err == ""


def test_the_script_that_evaluates_everything_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("full_eval", "full_eval.py"):
        assert cli.main([name]) == 2
        assert capsys.readouterr().err.startswith("error: full_eval is gns test here")
    script = Path(__file__).resolve().parents[1] / "full_eval.py"
    assert "cli.run(cli.test)" in script.read_text(encoding="utf-8")
