"""From the words of a command line to its configuration."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from gns import other_trainers
from gns.arguments.commands import InspectConfig, MetricsConfig, RenderConfig, SuiteConfig
from gns.arguments.shared import Budget
from gns.arguments.stored import CONFIG_FILE, read_config
from gns.arguments.training import TrainConfig
from gns.errors import UserError
from gns.rules import DEFAULT_METHOD, METHODS, all_rules
from gns.utils.option_table import build, check_choice, described_fields, flag, given_options, option_of
from gns.utils.torchrun import place

C = TypeVar("C")


def parse_train(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> TrainConfig:
    """The configuration that a command line of train.py asks for; `argv` is without the program's name.

    With `--resume` it is the stored one of the output folder, in which only options that leave the result as it is
    (where the scene lies, the machine, what is saved and tested) may change; where none is stored yet, a new one.
    Raises UserError.
    """
    given = given_options(
        [TrainConfig, *option_tables()],
        sys.argv[1:] if argv is None else argv,
        prog=prog,
        description="Train a compact 3D Gaussian Splatting model of exactly the size you ask for.",
        without_foreign=_answering(other_trainers.TRAIN),
    )
    given, of_rules = _parted(given)
    budget: Budget | None = given.get("final_budget")
    if budget is not None:
        given["final_budget"] = budget.gaussians(given.get("sh_degree", 3))
    if "source_path" in given:
        given["source_path"] = given["source_path"].expanduser().resolve()
    method = given.get("method", DEFAULT_METHOD)
    check_choice("method", method, METHODS)
    if "model_path" not in given and "source_path" in given:
        given["model_path"] = default_model_path(given["source_path"], budget.text if budget else "", method)
    if given.get("resume"):
        if "model_path" not in given:
            raise UserError("--resume needs the folder of the run to continue: name it with -m")
        if (given["model_path"] / CONFIG_FILE).exists():
            return _resumed(given, of_rules)
        if "source_path" not in given:
            raise UserError(f"there is no run to resume in {given['model_path']}: to start one there, give -s")
    # The folder's name needs the scene: where that is missing, it is the option to ask for.
    rules = {rule.name: rule.Options(**of_rules.pop(rule.name, {})) for rule in METHODS[method].rules}
    _refuse_options_of_others(of_rules, method)
    config: TrainConfig = build(TrainConfig, {"model_path": Path(), "rules": rules, **given})
    if given.get("iterations", -1) < 0:
        # Under torchrun an iteration learns from one view a process: as many views as one process would see.
        config = replace(config, iterations=math.ceil(config.iterations / place().size))
    return config


def parse_render(argv: Sequence[str], *, prog: str = "render.py") -> RenderConfig:
    """The configuration that a command line of render.py asks for. Raises UserError."""
    description = "Render the training and held-out views of a trained model."
    return _parsed(RenderConfig, argv, prog, description, other_trainers.RENDER)


def parse_metrics(argv: Sequence[str], *, prog: str = "metrics.py") -> MetricsConfig:
    """The configuration that a command line of metrics.py asks for. Raises UserError."""
    description = "Score rendered test views: PSNR, SSIM and LPIPS."
    return _parsed(MetricsConfig, argv, prog, description, other_trainers.METRICS)


def parse_suite(argv: Sequence[str], *, prog: str = "test.py") -> SuiteConfig:
    """The configuration that a command line of test.py asks for. Raises UserError."""
    description = "Train, render and score scenes × budgets × seeds, and print the tables."
    return _parsed(SuiteConfig, argv, prog, description, other_trainers.FULL_EVAL)


def _parsed(kind: type[C], argv: Sequence[str], prog: str, description: str, answers: other_trainers.Answers) -> C:
    given = given_options([kind], argv, prog=prog, description=description, without_foreign=_answering(answers))
    config: C = build(kind, given)
    return config


def parse_inspect(argv: Sequence[str], *, prog: str = "gns inspect") -> InspectConfig:
    """The configuration that a command line of `gns inspect` asks for; the scene may stand alone. Raises UserError."""
    description = "Say what a scene is, what was found and not used, and what looks wrong."
    words = list(argv)
    if words and not words[0].startswith("-"):
        words.insert(0, "-s")
    elif len(words) > 2 and not words[-1].startswith("-") and not words[-2].startswith("-"):
        words.insert(-1, "-s")
    config: InspectConfig = build(
        InspectConfig, given_options([InspectConfig], words, prog=prog, description=description)
    )
    return config


def option_tables() -> list[type]:
    """The options of all rules, as `gns.utils.option_table.given_options` takes them."""
    return [rule.Options for rule in all_rules()]


def _parted(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The options of the run itself, and those of rules by the rule's name."""
    own, of_rules = dict(given), dict[str, dict[str, Any]]()
    for rule in all_rules():
        if theirs := {field.name: own.pop(field.name) for field in fields(rule.Options) if field.name in own}:
            of_rules[rule.name] = theirs
    return own, of_rules


def _refuse_options_of_others(of_rules: Mapping[str, Mapping[str, Any]], method: str) -> None:
    for rule, options in of_rules.items():
        theirs = [name for name, other in METHODS.items() if rule in {kind.name for kind in other.rules}]
        raise UserError(
            f"{flag(next(iter(options)))} is an option of --method {' and '.join(theirs)}, and this run is {method}: "
            "leave it out"
        )


def default_model_path(source_path: Path, budget: str = "", method: str = DEFAULT_METHOD) -> Path:
    """The output folder of a run whose command line names none, such as `output/garden-600k`: the budget as typed."""
    parts = [source_path.name, budget, "" if method == DEFAULT_METHOD else method]
    return Path("output") / "-".join(filter(None, parts))


def _resumed(given: dict[str, Any], of_rules: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
    """The stored configuration of the run that `given` names, with the changes that are allowed."""
    stored = read_config(given["model_path"] / CONFIG_FILE)
    _refuse_options_of_others({name: of_rules[name] for name in of_rules if name not in stored.rules}, stored.method)
    _refuse_changes(given, stored, given["model_path"])
    for name, options in of_rules.items():
        _refuse_changes(options, stored.rules[name], given["model_path"])
    return replace(stored, **given)


def _refuse_changes(given: Mapping[str, Any], stored: Any, model_path: Path) -> None:
    """Raise UserError where a `given` option would change the result of a run that was started with `stored` ones."""
    for option_field in described_fields(type(stored)):
        name, described = option_field.name, option_of(option_field)
        if name not in given or described.session or described.changeable:
            continue
        if given[name] != getattr(stored, name):
            raise UserError(
                f"{flag(name)} is {given[name]}, but the run in {model_path} was started with "
                f"{getattr(stored, name)}: leave the option out, or start another run with another -m"
            )


def _answering(answers: other_trainers.Answers) -> Callable[[Sequence[str], Collection[str]], list[str]]:
    """What takes options of other trainers out of a command line, with a line for each."""

    def without_foreign(argv: Sequence[str], known: Collection[str]) -> list[str]:
        kept, notes = other_trainers.answered(argv, answers, known)
        other_trainers.tell(notes, kept)
        return kept

    return without_foreign
