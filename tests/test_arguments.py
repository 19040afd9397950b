"""Command lines and config.json: what is understood, what is refused, and in which words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from gns.arguments import (
    CONFIG_FILE,
    Config,
    TrainConfig,
    config_text,
    option_tables,
    parse_metrics,
    parse_render,
    parse_suite,
    parse_train,
    read_config,
)
from gns.errors import UserError
from gns.rules import METHODS, Method, Rule, all_rules
from gns.rules.natural_selection import SelectionOptions
from gns.utils.option_table import described_fields, flag, option

NEEDED = ["-s", "scene", "--final-budget", "15k"]


def store(folder: Path, config: TrainConfig) -> None:
    """Put config.json into an output folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")


def option_names() -> list[str]:
    """All options of a training: those of the run itself, then those of every method's rules."""
    tables = [TrainConfig, *option_tables()]
    return [described.name for table in tables for described in described_fields(table)]


def switches() -> list[str]:
    """Those of them that are turned on and off."""
    tables = [TrainConfig, *option_tables()]
    return [described.name for table in tables for described in described_fields(table) if described.type == "bool"]


def needed_for(name: str) -> list[str]:
    """A command line to which the option `name` can be added: of the method whose rule has it."""
    for method, described in METHODS.items():
        if any(name in {field.name for field in fields(rule.Options)} for rule in described.rules):
            return [*(NEEDED if described.budgeted else NEEDED[:2]), "--method", method]
    return NEEDED


def value_of(config: TrainConfig, name: str) -> Any:
    """The value of an option, wherever in `config` it lies."""
    (owner,) = [owner for owner in (config, *config.rules.values()) if hasattr(owner, name)]
    return getattr(owner, name)


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
        method="gns",
        rules={
            "edge_growth": METHODS["gns"].rules[0].Options(),
            "natural_selection": SelectionOptions(final_cut="multinomial", detach_pressure=False),
        },
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


@pytest.mark.parametrize("name", option_names())
def test_every_option_has_both_spellings(name: str) -> None:
    """An option that is understood complains about its value or is stored; it is never unknown."""
    for spelling in (flag(name), "--" + name):
        try:
            parse_train([*needed_for(name), spelling])
        except UserError as error:
            assert "unknown" not in str(error) and "leave it out" not in str(error)


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
        assert (20 * size - header) // (4 * floats) <= (config.final_budget or 0) <= 20 * size // (4 * floats)


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
        (
            ["--method", "best"],
            "--method is 'best': choose one of gns, 3dgs, mcmc, improved-gs, oneshot-opacity, oneshot-contribution",
        ),
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
        ([], "-s (--source-path) is missing"),
    ],
)
def test_missing_options_are_asked_for(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_train(words)
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize("name", switches())
def test_every_switch_can_be_turned_on_and_off(name: str) -> None:
    if name == "resume":
        pytest.skip("--resume needs a stored run: tested below")
    for spelling in (name, name.replace("_", "-")):
        assert value_of(parse_train([*needed_for(name), f"--{spelling}"]), name) is True
        assert value_of(parse_train([*needed_for(name), f"--{spelling}", f"--no-{spelling}"]), name) is False
        assert value_of(parse_train([*needed_for(name), f"--no_{spelling}"]), name) is False


def test_minus_one_and_nothing_mean_no_iterations() -> None:
    assert parse_train([*NEEDED, "--test_iterations", "-1"]).test_iterations == (-1,)
    assert parse_train([*NEEDED, "--test_iterations"]).test_iterations == ()


def test_help_names_every_option_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_train(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert len(option_names()) > 20
    for name in option_names():
        assert flag(name) in text
    for group in ("scene:", "model:", "training:", "method gns:", "saving and testing:", "machine:"):
        assert f"\n{group}\n" in text
    assert "Hyphens and underscores" in text


def test_config_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    words = "-w --no-eval --save_iterations 1 2 --start_checkpoint a.pt --final-cut lowest --detach-pressure"
    config = parse_train([*NEEDED, *words.split()])
    assert config.rules["natural_selection"] == SelectionOptions("lowest", True)
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
        ("method", "best", "--method is 'best': choose one of gns"),
        ("method", None, "--method cannot be None"),
        ("rules", [], "'rules' cannot be []"),
        ("rules", {"natural_selection": 5}, "'rules' cannot be"),
        ("rules", {}, "missing key 'edge_growth' in 'rules'"),
        ("rules", {"edge_growth": {}}, "missing key 'natural_selection' in 'rules'"),
        ("rules", {"edge_growth": {}, "natural_selection": {}, "more": {}}, "unknown rule 'more'"),
        ("rules", {"edge_growth": {"a": 1}, "natural_selection": {}}, "unknown key 'a'"),
        ("rules", {"edge_growth": {}, "natural_selection": {"final_cut": "lowest"}}, "missing key 'detach_pressure'"),
    ],
)
def test_config_is_read_strictly(tmp_path: Path, key: str, value: object, sentence: str) -> None:
    document = json.loads(config_text(parse_train(NEEDED)))
    document["options"][key] = value
    (tmp_path / CONFIG_FILE).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        read_config(tmp_path / CONFIG_FILE)
    assert f"config.json: {sentence}" in str(refusal.value)


@pytest.mark.parametrize("key", ["seed", "method", "rules"])
def test_config_that_lacks_a_key_is_refused(tmp_path: Path, key: str) -> None:
    document = json.loads(config_text(parse_train(NEEDED)))
    del document["options"][key]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError, match=f"missing key '{key}'"):
        read_config(tmp_path / CONFIG_FILE)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("final_cut", "best", "--final-cut is 'best': choose one of multinomial, lowest"),
        ("final_cut", 3, "--final-cut cannot be 3"),
        ("detach_pressure", 1, "--detach-pressure cannot be 1"),
    ],
)
def test_options_of_rules_are_read_as_strictly(tmp_path: Path, key: str, value: object, sentence: str) -> None:
    document = json.loads(config_text(parse_train(NEEDED)))
    document["options"]["rules"]["natural_selection"][key] = value
    (tmp_path / CONFIG_FILE).write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        read_config(tmp_path / CONFIG_FILE)
    assert f"config.json: {sentence}" in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 99, "options": {}}', "\xff\xfe"])
def test_config_of_another_version_or_damaged_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json (is no JSON file|has format)"):
        read_config(tmp_path / CONFIG_FILE)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 2, "options": ' + '{"seed":' * 100_000])
def test_a_deeply_nested_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(UserError, match=r"config\.json is no JSON file \(nested too deeply\)"):
        read_config(tmp_path / CONFIG_FILE)


@pytest.mark.parametrize("digits", [10, 100, 400, 5000])
@pytest.mark.parametrize("name", ["seed", "iterations", "final_budget", "threads", "resolution"])
def test_absurd_numbers_are_refused(tmp_path: Path, name: str, digits: int) -> None:
    store(tmp_path, parse_train(NEEDED))
    text = (tmp_path / CONFIG_FILE).read_text()
    (tmp_path / CONFIG_FILE).write_text(re.sub(rf'"{name}": -?\d+', f'"{name}": {"9" * digits}', text))
    with pytest.raises(UserError, match=f"{name.replace('_', '-')} (is 1e|cannot be inf|is 9999999999: it must be)"):
        read_config(tmp_path / CONFIG_FILE)
    for number in ("9" * digits, "9" * digits + ".5M", "9" * digits + "GB"):
        with pytest.raises(UserError, match=f"{name.replace('_', '-')}.*(is 1e|too large|no.* whole number|at most)"):
            parse_train([*needed_for(name), f"--{name}", number])


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
    "change",
    [
        ["--seed", "1"],
        ["--iterations", "5"],
        ["-w"],
        ["--final-budget", "16k"],
        ["--no-eval"],
        ["-r", "2"],
        ["--final-cut", "lowest"],
        ["--detach-pressure"],
    ],
)
def test_resume_refuses_options_that_contradict_the_run(tmp_path: Path, change: list[str]) -> None:
    store(tmp_path, parse_train([*NEEDED, "-m", str(tmp_path)]))
    with pytest.raises(UserError, match=r"but the run in .* was started with .*: leave the option out"):
        parse_train(["-m", str(tmp_path), "--resume", *change])


def test_resume_takes_the_stored_options_of_rules(tmp_path: Path) -> None:
    started = parse_train([*NEEDED, "-m", str(tmp_path), "--final-cut", "lowest"])
    store(tmp_path, started)
    for again in ([], ["--final-cut", "lowest", "--no-detach-pressure"]):
        assert parse_train(["-m", str(tmp_path), "--resume", *again]) == replace(started, resume=True)


def test_resume_of_nothing_starts_a_run_where_it_is_told_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for options in ([*NEEDED, "-m", "out"], NEEDED, ["-s", "scene", "--method", "3dgs"]):
        assert parse_train([*options, "--resume"]) == replace(parse_train(options), resume=True)


def test_resume_of_nothing_is_refused_where_it_does_not_say_what_to_start(tmp_path: Path) -> None:
    for options in ([], ["--final-budget", "15k"]):
        with pytest.raises(UserError, match=r"there is no run to resume in .* give -s$"):
            parse_train(["-m", str(tmp_path), "--resume", *options])
    with pytest.raises(UserError, match=r"give -s$"):
        parse_train(["-m", str(tmp_path), "--resume", "--method", "3dgs"])
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


# Methods and their rules


def test_no_two_options_have_the_same_name() -> None:
    names = option_names()
    assert len(names) == len(set(names))
    assert {"final_budget", "final_cut"} <= set(names)


def test_no_two_rules_have_the_same_name() -> None:
    rules = all_rules()
    assert len({rule.name for rule in rules}) == len(rules)
    for method in METHODS.values():
        chances = [chance for rule in method.rules for chance in rule.chances]
        assert len(chances) == len(set(chances))


@dataclass(frozen=True)
class RivalOptions:
    """Options of a rule of another method."""

    rival_strength: int = field(default=3, metadata=option("how strongly", group="method rival", at_least=1))
    rival_again: bool = field(default=False, metadata=option("once more", group="method rival"))


class RivalRule(Rule[None]):
    """A rule that only its options matter of."""

    name = "rival_rule"
    Options = RivalOptions


@pytest.fixture
def rival() -> Iterator[None]:
    """A second method, without a budget, which shares its growth with the first and has one schedule only."""
    gns = METHODS["gns"]
    rules, schedules = (gns.rules[0], RivalRule), {"standard": gns.schedules["standard"]}
    with patch.dict(METHODS, rival=Method("another way", rules, schedules, budgeted=False)):
        yield


SCENE = ["-s", "scene"]


@pytest.mark.usefixtures("rival")
def test_options_of_another_methods_rule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        parse_train([*NEEDED, "--rival-strength", "5"])
    assert str(refusal.value) == ("--rival-strength is an option of --method rival, and this run is gns: leave it out")
    with pytest.raises(UserError, match="--final-cut is an option of --method gns, and this run is rival"):
        parse_train([*SCENE, "--method", "rival", "--final-cut", "lowest"])
    store(tmp_path, parse_train([*NEEDED, "-m", str(tmp_path)]))
    with pytest.raises(UserError, match="--rival-again is an option of --method rival"):
        parse_train(["-m", str(tmp_path), "--resume", "--rival-again"])


@pytest.mark.usefixtures("rival")
def test_a_method_brings_its_options_and_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = parse_train([*SCENE, "--method", "rival", "--rival_strength", "5", "--rival-again"])
    assert config.rules == {
        "edge_growth": METHODS["gns"].rules[0].Options(),
        "rival_rule": RivalOptions(rival_strength=5, rival_again=True),
    }
    assert config.final_budget is None and config.model_path == Path("output/scene-rival")
    config = replace(config, model_path=tmp_path)
    store(tmp_path, config)
    assert read_config(tmp_path / CONFIG_FILE) == config
    resumed = parse_train(["-m", str(tmp_path), "--resume", "--rival-strength", "5"])
    assert resumed == replace(config, resume=True)
    with pytest.raises(UserError, match=r"--rival-strength is 6, but the run in .* was started with 5"):
        parse_train(["-m", str(tmp_path), "--resume", "--rival-strength", "6"])
    with pytest.raises(UserError, match=r"--method is gns, but the run in .* was started with rival"):
        parse_train(["-m", str(tmp_path), "--resume", "--method", "gns"])
    with pytest.raises(SystemExit):
        parse_train(["--help"])
    text = capsys.readouterr().out
    assert "\nmethod rival:\n" in text and "--rival-strength" in text and "rival: another way" not in text


@pytest.mark.usefixtures("rival")
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--final-budget", "5k"], "--method rival grows to what it needs: leave --final-budget out"),
        (["--schedule", "fast"], "--method rival has no schedule fast: standard is its own"),
        (["--rival-strength", "0"], "--rival-strength is 0: it must be at least 1"),
        (["--rival-strength", "x"], "--rival-strength: 'x' is not a whole number"),
        (["--rival-strenght", "1"], "unknown option --rival-strenght: did you mean --rival-strength?"),
    ],
)
def test_a_method_is_refused_what_it_does_not_have(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_train([*SCENE, "--method", "rival", *words])
    assert str(refusal.value) == sentence


def test_without_a_budget_the_scene_will_suggest_one(tmp_path: Path) -> None:
    config = parse_train([*SCENE])
    assert config.final_budget is None and config.model_path == Path("output/scene")
    assert Config().final_budget is None
    config = replace(config, model_path=tmp_path)
    store(tmp_path, config)
    assert read_config(tmp_path / CONFIG_FILE) == config


@pytest.mark.parametrize("text", ["300000", "300k", "300_000", "1MB", "1 MB", "0.3M", "2.5MiB"])
def test_the_folder_is_called_what_was_typed(text: str) -> None:
    config = parse_train([*SCENE, "--final-budget", text])
    assert config.model_path == Path("output/scene-" + text.replace(" ", ""))
    config = parse_train([*SCENE, "--final-budget", text, "--method", "mcmc"])
    assert config.model_path == Path(f"output/scene-{text.replace(' ', '')}-mcmc")


# A configuration without a command line


def test_a_configuration_without_paths() -> None:
    config = Config(final_budget=5_000)
    assert not any(isinstance(value, Path) for value in vars(config).values())
    command_line = parse_train([*SCENE, "--final-budget", "5k"])
    assert {field.name: getattr(command_line, field.name) for field in fields(Config)} == vars(config)
    assert config.iterations == 30_000


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rules": {"other": None}}, "there is no rule 'other' in method gns: it has edge_growth, natural_selection"),
        (
            {"rules": {"natural_selection": {"final_cut": "lowest"}}},
            "the options of rule natural_selection are S",
        ),
        ({"rules": {"natural_selection": SelectionOptions("best")}}, "--final-cut is 'best': choose one of"),
        ({"rules": {"natural_selection": SelectionOptions(3)}}, "--final-cut cannot be 3"),  # type: ignore[arg-type]
        ({"method": "other"}, "--method is 'other': choose one of gns"),
        ({"final_budget": 99}, "--final-budget is 99 Gaussians"),
        ({"sh_degree": 4}, "--sh-degree is 4"),
        ({"device": "gpu"}, "--device is 'gpu'"),
        ({"iterations": 0}, "--iterations is 0"),
        ({"iterations": 10.0}, "--iterations cannot be 10.0"),
    ],
)
def test_a_configuration_is_checked_when_it_is_made(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        Config(**{"final_budget": 5_000, **changes})
    assert str(refusal.value).startswith(sentence)


def test_options_of_rules_that_are_left_out_have_their_defaults() -> None:
    config = Config(final_budget=5_000, rules={"natural_selection": SelectionOptions("lowest")})
    assert list(config.rules) == ["edge_growth", "natural_selection"]
    assert config.rules["natural_selection"] == SelectionOptions("lowest", False)


def test_memory_for_photos_is_given_in_bytes_and_not_kept(tmp_path: Path) -> None:
    words = ["-s", "scene", "-m", str(tmp_path), "--final-budget", "1k"]
    assert parse_train(words).image_memory is None
    config = parse_train([*words, "--image-memory", "64GB"])
    assert config.image_memory == 64 * 10**9  # more than other whole numbers may be
    assert "image_memory" not in config_text(config)
    assert parse_render(["-m", str(tmp_path), "--image-memory=512MiB"]).image_memory == 2**29


@pytest.mark.parametrize(
    ("value", "sentence"),
    [("4", "'4' is no amount of memory: write it like 4GB"), ("0MB", "is 0: it must be at least")],
)
def test_memory_that_is_none_is_refused(value: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        parse_train(["-s", "scene", "--image-memory", value])
