"""Command lines and config.json: what is understood, what is refused, and in which words."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from gns.arguments import (
    CONFIG_FILE,
    TrainConfig,
    config_text,
    parse_metrics,
    parse_render,
    parse_suite,
    parse_train,
    read_config,
)
from gns.errors import UserError
from gns.utils.option_table import flag

NEEDED = ["-s", "scene", "--final-budget", "15k"]


def store(folder: Path, config: TrainConfig) -> None:
    """Put config.json into an output folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")


def test_defaults() -> None:
    config = parse_train(NEEDED)
    assert config == TrainConfig(
        source_path=Path.cwd() / "scene",
        model_path=Path("output/scene-15k"),
        images="images",
        resolution=-1,
        white_background=False,
        eval=True,
        sh_degree=3,
        final_budget=15_000,
        iterations=30_000,
        schedule="standard",
        seed=0,
        final_cut="multinomial",
        detach_pressure=False,
        test_iterations=(7_000,),
        save_iterations=(),
        checkpoint_iterations=(),
        start_checkpoint=None,
        resume=False,
        device="auto",
        threads=0,
        quiet=False,
    )


def test_a_3dgs_command_line_is_understood() -> None:
    words = "-s a/b -m out -i images_4 -r 2 -w --eval --sh_degree 2 --iterations 7000 --test_iterations 1000 7000"
    more = (
        "--save_iterations 3000 --checkpoint_iterations 2000 4000 --start_checkpoint c.pt --quiet --final_budget 1.2M"
    )
    config = parse_train([*words.split(), *more.split()])
    assert config.source_path == Path.cwd() / "a/b"
    assert config.model_path == Path("out")
    assert (config.images, config.resolution, config.sh_degree, config.iterations) == ("images_4", 2, 2, 7000)
    assert (config.white_background, config.eval, config.quiet) == (True, True, True)
    assert config.test_iterations == (1000, 7000)
    assert config.save_iterations == (3000,)
    assert config.checkpoint_iterations == (2000, 4000)
    assert config.start_checkpoint == Path("c.pt")
    assert config.final_budget == 1_200_000


@pytest.mark.parametrize("name", [field.name for field in fields(TrainConfig)])
def test_every_option_has_both_spellings(name: str) -> None:
    """An option that is understood complains about its value or is stored; it is never unknown."""
    for spelling in (flag(name), "--" + name):
        try:
            parse_train([*NEEDED, spelling])
        except UserError as error:
            assert "unknown" not in str(error)


@pytest.mark.parametrize("spelling", ["--final_budget", "--final-budget"])
@pytest.mark.parametrize(
    ("text", "count"),
    [("100", 100), ("600_000", 600_000), ("600k", 600_000), ("1.2M", 1_200_000), ("0.5k", 500), ("2M", 2_000_000)],
)
def test_budgets(spelling: str, text: str, count: int) -> None:
    assert parse_train(["-s", "scene", spelling, text]).final_budget == count
    assert parse_train(["-s", "scene", f"{spelling}={text}"]).final_budget == count


@pytest.mark.parametrize(("unit", "size"), [("MB", 10**6), ("MiB", 2**20)])
def test_budget_in_bytes_counts_the_columns_of_the_sh_degree(unit: str, size: int) -> None:
    # 14 floats, plus three for each coefficient of the spherical harmonics above degree 0, plus three normals.
    for degree, floats in ((0, 17), (1, 26), (2, 41), (3, 62)):
        config = parse_train(["-s", "scene", "--final-budget", f"20{unit}", "--sh-degree", str(degree)])
        header = 1500 + 100  # at most
        assert (20 * size - header) // (4 * floats) <= config.final_budget <= 20 * size // (4 * floats)


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--final-budget", "0"], "--final-budget is 0 Gaussians: a model needs at least 100"),
        (["--final-budget", "-5"], "--final-budget is -5 Gaussians: a model needs at least 100"),
        (["--final-budget", "99"], "--final-budget is 99 Gaussians: a model needs at least 100"),
        (["--final-budget", "1kB"], "--final-budget is 0 Gaussians: a model needs at least 100"),
        (["--final-budget", "many"], "--final-budget: 'many' is not a whole number"),
        (["--final-budget", "1.5"], "--final-budget: '1.5' is not a whole number"),
        (["--final-buget", "5"], "unknown option --final-buget: did you mean --final-budget?"),
        (["--sh_degre", "5"], "unknown option --sh-degre: did you mean --sh-degree?"),
        (["--iteration", "5"], "unknown option --iteration: did you mean --iterations?"),
        (["--no-evil"], "unknown option --no-evil: did you mean --no-eval?"),
        (["--frobnicate"], "unknown option --frobnicate: see --help"),
        (["-q"], "unknown option -q: see --help"),
        (["--eval", "false"], "--eval is a switch and takes no value: write --eval or --no-eval"),
        (["--eval=false"], "--eval is a switch and takes no value: write --eval or --no-eval"),
        (["--no_quiet=1"], "--quiet is a switch and takes no value: write --quiet or --no-quiet"),
        (["stray"], "unexpected value 'stray'"),
        (["--iterations", "0"], "--iterations is 0: give at least 1"),
        (["--iterations", "ten"], "--iterations: 'ten' is not a whole number"),
        (["--iterations"], "--iterations: expected one argument"),
        (["--seed", "-1"], "--seed is -1: it must be at least 0"),
        (["--sh_degree", "4"], "--sh-degree is 4: it must be 0, 1, 2 or 3"),
        (["--sh_degree", "-1"], "--sh-degree is -1: it must be at least 0"),
        (["-r", "0"], "--resolution is 0"),
        (["-r", "-2"], "--resolution is -2"),
        (["--schedule", "slow"], "--schedule is 'slow': choose one of standard, fast"),
        (["--final_cut", "best"], "--final-cut is 'best': choose one of multinomial, lowest"),
        (["--device", "gpu"], "--device is 'gpu': choose auto, cpu, cuda or cuda:NUMBER"),
        (["--threads", "-1"], "--threads is -1: it must be at least 0"),
        (["--save_iterations", "5", "x"], "--save-iterations: 'x' is not a whole number"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(extra: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_train([*NEEDED, *extra])
    assert str(refusal.value).startswith(sentence)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--final-budget", "15k"], "-s (--source-path) is missing"),
        (["-s", "scene"], "--final-budget is missing"),
        ([], "-s (--source-path) is missing"),
    ],
)
def test_missing_options_are_asked_for(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_train(words)
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize("name", [field.name for field in fields(TrainConfig) if isinstance(field.default, bool)])
def test_every_switch_can_be_turned_on_and_off(name: str) -> None:
    if name == "resume":
        pytest.skip("--resume needs a stored run: tested below")
    for spelling in (name, name.replace("_", "-")):
        assert getattr(parse_train([*NEEDED, f"--{spelling}"]), name) is True
        assert getattr(parse_train([*NEEDED, f"--{spelling}", f"--no-{spelling}"]), name) is False
        assert getattr(parse_train([*NEEDED, f"--no_{spelling}"]), name) is False


def test_minus_one_and_nothing_mean_no_iterations() -> None:
    assert parse_train([*NEEDED, "--test_iterations", "-1"]).test_iterations == (-1,)
    assert parse_train([*NEEDED, "--test_iterations"]).test_iterations == ()


def test_help_names_every_option_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_train(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for field in fields(TrainConfig):
        assert flag(field.name) in text
    for group in ("scene:", "model:", "training:", "saving and testing:", "machine:"):
        assert f"\n{group}\n" in text
    assert "Hyphens and underscores" in text


def test_config_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    config = parse_train([*NEEDED, "-w", "--no-eval", "--save_iterations", "1", "2", "--start_checkpoint", "a.pt"])
    store(tmp_path, config)
    assert read_config(tmp_path / CONFIG_FILE) == config


def test_config_leaves_out_what_concerns_one_call_only(tmp_path: Path) -> None:
    store(tmp_path, replace(parse_train(NEEDED), resume=True, quiet=True))
    read = read_config(tmp_path / CONFIG_FILE)
    assert (read.resume, read.quiet) == (False, False)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("final_buget", 5, "unknown key 'final_buget'"),
        ("iterations", "30000", "--iterations cannot be '30000'"),
        ("iterations", 1.5, "--iterations cannot be 1.5"),
        ("iterations", True, "--iterations cannot be True"),
        ("eval", 1, "--eval cannot be 1"),
        ("source_path", None, "--source-path cannot be None"),
        ("save_iterations", [1, "2"], "--save-iterations cannot be"),
        ("save_iterations", 5, "--save-iterations cannot be 5"),
        ("sh_degree", 7, "--sh-degree is 7"),
        ("schedule", "slow", "--schedule is 'slow'"),
    ],
)
def test_config_is_read_strictly(tmp_path: Path, key: str, value: object, sentence: str) -> None:
    document = json.loads(config_text(parse_train(NEEDED)))
    document["options"][key] = value
    (tmp_path / CONFIG_FILE).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        read_config(tmp_path / CONFIG_FILE)
    assert f"config.json: {sentence}" in str(refusal.value)


def test_config_that_lacks_a_key_is_refused(tmp_path: Path) -> None:
    document = json.loads(config_text(parse_train(NEEDED)))
    del document["options"]["seed"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match="missing key 'seed'"):
        read_config(tmp_path / CONFIG_FILE)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 99, "options": {}}', "\xff\xfe"])
def test_config_of_another_version_or_damaged_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json (is no JSON file|has format)"):
        read_config(tmp_path / CONFIG_FILE)


def test_resume_takes_the_stored_options(tmp_path: Path) -> None:
    started = parse_train([*NEEDED, "-m", str(tmp_path), "--seed", "3", "--no-eval", "--iterations", "500"])
    store(tmp_path, started)
    assert parse_train(["-m", str(tmp_path), "--resume"]) == replace(started, resume=True)


def test_resume_finds_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = parse_train([*NEEDED, "--seed", "3"])
    store(tmp_path / started.model_path, started)
    assert parse_train([*NEEDED, "--resume"]) == replace(started, resume=True)


def test_resume_lets_change_what_leaves_the_result_alone(tmp_path: Path) -> None:
    started = parse_train([*NEEDED, "-m", str(tmp_path)])
    store(tmp_path, started)
    changes = ["-s", "moved", "--threads", "1", "--save_iterations", "9", "--device", "cpu"]
    resumed = parse_train(["-m", str(tmp_path), "--resume", *changes])
    expected = replace(
        started, source_path=Path.cwd() / "moved", threads=1, save_iterations=(9,), device="cpu", resume=True
    )
    assert resumed == expected


@pytest.mark.parametrize(
    "change", [["--seed", "1"], ["--iterations", "5"], ["-w"], ["--final-budget", "16k"], ["--no-eval"], ["-r", "2"]]
)
def test_resume_refuses_options_that_contradict_the_run(tmp_path: Path, change: list[str]) -> None:
    store(tmp_path, parse_train([*NEEDED, "-m", str(tmp_path)]))
    with pytest.raises(UserError, match=r"but the run in .* was started with .*: leave the option out"):
        parse_train(["-m", str(tmp_path), "--resume", *change])


def test_resume_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run to resume in"):
        parse_train(["-m", str(tmp_path), "--resume"])
    with pytest.raises(UserError, match="--resume needs the folder"):
        parse_train(["--resume"])


def test_other_commands() -> None:
    render = parse_render(["-m", "out", "--iteration", "7000", "--skip_train", "-s", "moved"])
    assert (render.model_path, render.iteration, render.skip_train, render.skip_test, render.source_path) == (
        Path("out"),
        7000,
        True,
        False,
        Path("moved"),
    )
    assert parse_metrics(["-m", "a", "b"]).model_paths == (Path("a"), Path("b"))
    suite = parse_suite(["--data", "scenes", "--small", "--schedule", "fast"])
    assert (suite.data, suite.small, suite.schedule) == (Path("scenes"), True, "fast")
    for parse in (parse_render, parse_metrics):
        with pytest.raises(UserError, match=r"-m \(--model-paths?\) is missing"):
            parse([])
    with pytest.raises(UserError, match="did you mean --skip-train"):
        parse_render(["-m", "out", "--skip_trian"])


@pytest.mark.parametrize(
    ("extra", "iterations"), [([], 30_000), (["--schedule", "fast"], 15_000), (["--iterations", "9"], 9)]
)
def test_a_run_is_as_long_as_its_schedule_unless_told_otherwise(extra: list[str], iterations: int) -> None:
    assert parse_train([*NEEDED, *extra]).iterations == iterations
