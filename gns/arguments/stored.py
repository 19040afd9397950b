"""config.json: the options of a run, as they are written and read again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gns import __version__
from gns.arguments.training import TrainConfig
from gns.errors import UserError
from gns.rules import all_rules
from gns.utils.option_table import described_fields, flag, from_json, option_of, to_json
from gns.utils.untrusted_json import parse_json

CONFIG_FILE = "config.json"
CONFIG_FORMAT = 4  # raise it when a field is added, removed or changes its meaning


def config_text(config: TrainConfig) -> str:
    """The text of config.json."""
    options = {**to_json(config), "rules": {name: to_json(options) for name, options in config.rules.items()}}
    return json.dumps({"format": CONFIG_FORMAT, "gns": __version__, "options": options}, indent=2) + "\n"


def decisive_options(config: TrainConfig) -> dict[str, Any]:
    """The options that decide what a run ends in, by their flags; those of all its rules among them."""
    tables = [config, *config.rules.values()]
    return {
        flag(option_field.name): to_json(table)[option_field.name]
        for table in tables
        for option_field in described_fields(type(table))
        if not (option_of(option_field).session or option_of(option_field).changeable)
    }


def read_config(path: Path) -> TrainConfig:
    """The configuration in the file config.json at `path`.

    Raises UserError where the file is missing, damaged or of another version, or holds an unknown key, lacks one, or
    has one of the wrong type.
    """
    try:
        document = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}): restore it, or start a run in another folder") from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != CONFIG_FORMAT or not isinstance(document.get("options"), dict):
        raise UserError(
            f"{path} has format {found!r}, and this version of gns reads {CONFIG_FORMAT}: use the version that wrote it"
        )
    try:
        return _config_of(document["options"])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _config_of(stored: Mapping[str, Any]) -> TrainConfig:
    own = dict(stored)
    if "rules" not in own:
        raise UserError("missing key 'rules'")
    by_rule = own.pop("rules")
    if not isinstance(by_rule, dict) or not all(isinstance(options, dict) for options in by_rule.values()):
        raise UserError(f"'rules' cannot be {by_rule!r}")
    kinds = {rule.name: rule.Options for rule in all_rules()}
    if strays := sorted(set(by_rule) - set(kinds)):
        raise UserError(f"unknown rule {strays[0]!r}")
    rules = {name: from_json(kinds[name], options) for name, options in by_rule.items()}
    config: TrainConfig = from_json(TrainConfig, own, rules=rules)
    if missing := [name for name in config.rules if name not in by_rule]:
        raise UserError(f"missing key {missing[0]!r} in 'rules'")
    return config
