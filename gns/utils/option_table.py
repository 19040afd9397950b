"""A frozen dataclass as the one description of a command line and of a JSON file.

Each field carries an `Option` in its metadata; the flag, the help text, the type conversion and the checks all follow
from the field. Rules of the command line, the same for every command:

- `--final-budget` and `--final_budget` are the same option;
- every switch `--x` has its opposite `--no-x`, and neither takes a value;
- nothing is abbreviated, and an unknown option is refused with the nearest one that exists.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from gns.errors import UserError
from gns.utils.quantities import parse_count, parse_number

LAST_GROUP = "machine"  # the group at the end of every --help
LARGEST = 2**31 - 1  # of every whole number: none of them counts more, and the kernels could not either


@dataclass(frozen=True, kw_only=True)
class Option:
    """How a dataclass field appears on the command line, and which values it takes."""

    help: str
    group: str = "options"
    short: str | None = None
    metavar: str | None = None
    choices: Collection[str] = ()
    convert: Callable[[str], Any] | None = None  # text to value, by default according to the field's type
    at_least: int | None = None  # bound of every number in the value
    at_most: int = LARGEST  # bound of every whole number in it
    session: bool = False  # concerns this call of the program only: not written to JSON
    changeable: bool = False  # may differ when a run is resumed
    needed: bool = True  # False: a field without default that the command itself fills in


def option(help: str, **details: Any) -> dict[str, Option]:
    """The `metadata` of a dataclass field; the arguments are the fields of `Option`."""
    return {"option": Option(help=help, **details)}


def option_of(field: Field[Any]) -> Option:
    """The `Option` of a field declared with `metadata=option(...)`."""
    described: Option = field.metadata["option"]
    return described


def described_fields(table: type) -> list[Field[Any]]:
    """The fields of a dataclass that are options; others are filled in by code."""
    return [field for field in fields(table) if "option" in field.metadata]


def flag(name: str) -> str:
    """The option of a field: `final_budget` → `--final-budget`."""
    return "--" + name.replace("_", "-")


def given_options(
    tables: Sequence[type],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    without_foreign: Callable[[Sequence[str], Collection[str]], Sequence[str]] = lambda argv, known: argv,
) -> dict[str, Any]:
    """The fields of the dataclasses `tables` that `argv` names, by field name; no two have a field of the same name.

    `without_foreign(argv, known)` may take words out of `argv` first; `known` are the options of `tables`. Raises
    UserError for an unknown option, a value of the wrong type or a missing one; `--help` prints and exits.
    """
    parser = _parser(tables, prog, description)
    # argparse keeps its options in a private table only; the public way would be to parse our own help text.
    argv = without_foreign(argv, parser._option_string_actions)
    switches = {flag(name) for table in tables for name, hint in get_type_hints(table).items() if _is_switch(hint)}
    words = [_with_hyphens(word) for word in argv]
    for word in words:
        name = word.partition("=")[0]
        if name != word and name.replace("--no-", "--") in switches:
            raise UserError(_no_value(name))
    namespace, unknown = parser.parse_known_args(words)
    if unknown:
        raise UserError(_unknown(unknown[0], words, parser, switches))
    return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(namespace).items()}


def build(table: type[Any], given: Mapping[str, Any]) -> Any:
    """`table(**given)`. Raises UserError where a field without default is not given."""
    for field in fields(table):
        if "option" in field.metadata and field.name not in given and field.default is MISSING:
            described = option_of(field)
            shown = f"{described.short} ({flag(field.name)})" if described.short else flag(field.name)
            raise UserError(f"{shown} is missing: {described.help}")
    return table(**given)


def check(config: Any) -> None:
    """Raise UserError where a field of `config` has the wrong type or a value its `Option` does not allow."""
    hints = get_type_hints(type(config))
    for field in described_fields(type(config)):
        value, described = getattr(config, field.name), option_of(field)
        if not _has_type(value, hints[field.name]):
            raise UserError(f"{flag(field.name)} cannot be {value!r}")
        if value is None:
            continue
        for entry in value if isinstance(value, tuple) else (value,):
            if described.choices:
                check_choice(field.name, entry, described.choices)
            if described.at_least is not None and entry < described.at_least:
                raise UserError(f"{flag(field.name)} is {entry}: it must be at least {described.at_least}")
            if type(entry) is int and entry > described.at_most:
                raise UserError(f"{flag(field.name)} is {entry:.3g}: it must be at most {described.at_most}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise UserError where the `value` of a field is none of its choices."""
    if value not in choices:
        raise UserError(f"{flag(name)} is {value!r}: choose one of {', '.join(choices)}")


def to_json(config: Any) -> dict[str, Any]:
    """The fields of `config` that outlive the program, with paths as strings and tuples as lists."""
    stored = (field for field in described_fields(type(config)) if not option_of(field).session)
    return {field.name: _jsonable(getattr(config, field.name)) for field in stored}


def from_json(table: type[Any], values: Mapping[str, Any], **others: Any) -> Any:
    """What `to_json` wrote, as a `table` again, with fields that are no options from `others`.

    Raises UserError for an unknown or missing key or a wrong type.
    """
    hints = get_type_hints(table)
    stored = [field.name for field in described_fields(table) if not option_of(field).session]
    if unknown := sorted(set(values) - set(stored)):
        raise UserError(f"unknown key {unknown[0]!r}")
    if missing := [name for name in stored if name not in values]:
        raise UserError(f"missing key {missing[0]!r}")
    return table(**{name: _from_jsonable(values[name], hints[name]) for name in stored}, **others)


class _Parser(argparse.ArgumentParser):
    """argparse that raises its complaints instead of printing usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def _parser(tables: Sequence[type], prog: str, description: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        usage=_usage(tables[0], prog),
        description=description,
        epilog="Hyphens and underscores in options are equal; every switch --x is turned off by --no-x.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # so that the result holds what was given, and nothing else
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32, width=110),
    )
    hints = {name: hint for table in tables for name, hint in get_type_hints(table).items()}
    groups: dict[str, Any] = {}
    # Dataclasses put inherited fields first, but what every command shares is what users look for last.
    listed = [field for table in tables for field in described_fields(table)]
    for field in sorted(listed, key=lambda field: option_of(field).group == LAST_GROUP):
        described = option_of(field)
        if described.group not in groups:
            groups[described.group] = parser.add_argument_group(described.group)
        names = [described.short, flag(field.name)] if described.short else [flag(field.name)]
        groups[described.group].add_argument(
            *names, dest=field.name, help=_help(field).replace("%", "%%"), **_action(hints[field.name], described)
        )
    return parser


def _usage(table: type, prog: str) -> str:
    """The usage line: what must be given; the rest is listed below it anyway."""
    required = [field for field in described_fields(table) if field.default is MISSING and option_of(field).needed]
    shown = [f"{option_of(field).short or flag(field.name)} {option_of(field).metavar or 'PATH'}" for field in required]
    return " ".join([prog, *shown, "[options]"])


def _action(hint: Any, described: Option) -> dict[str, Any]:
    """The keyword arguments of `add_argument` that depend on a field's type."""
    if _is_switch(hint):
        return {"action": argparse.BooleanOptionalAction}
    element, several = _element(hint)
    metavar = "{" + ",".join(described.choices) + "}" if described.choices else described.metavar
    names = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
    # A required list needs at least one value; an empty list is a way to say "none".
    return {
        "type": _complaining(described.convert or _CONVERTERS[element]),
        "metavar": metavar or names[element],
        **({"nargs": "*" if described.at_least is not None else "+"} if several else {}),
    }


def _help(field: Field[Any]) -> str:
    default = field.default
    if default is MISSING or default is None or default == ():
        return option_of(field).help
    shown = {True: "on", False: "off"}[default] if isinstance(default, bool) else str(default)
    if isinstance(default, tuple):
        shown = " ".join(map(str, default))
    return f"{option_of(field).help} (default: {shown})"


def _complaining(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """`convert` with a ValueError that argparse passes on: it replaces the text of every other kind of error."""

    def converted(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return converted


_CONVERTERS: dict[Any, Callable[[str], Any]] = {int: parse_count, float: parse_number, str: str, Path: Path}


def _element(hint: Any) -> tuple[Any, bool]:
    """The type of one value of a field, and whether the field is a tuple of them; `T | None` counts as T."""
    if get_origin(hint) is tuple:
        return get_args(hint)[0], True
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    return (kinds[0], False) if kinds else (hint, False)


def _is_switch(hint: Any) -> bool:
    return _element(hint) == (bool, False)


def _has_type(value: Any, hint: Any) -> bool:
    element, several = _element(hint)
    if value is None:
        return type(None) in get_args(hint)
    if several:
        return isinstance(value, tuple) and all(_has_type(entry, element) for entry in value)
    # bool is a kind of int in Python, but `true` is no number of iterations.
    return isinstance(value, Path) if element is Path else type(value) is element


def _jsonable(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_jsonable(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def _from_jsonable(value: Any, hint: Any) -> Any:
    element, several = _element(hint)
    if several and isinstance(value, list):
        return tuple(_from_jsonable(entry, element) for entry in value)
    return Path(value) if element is Path and isinstance(value, str) else value


def _with_hyphens(word: str) -> str:
    if not re.match(r"--\w", word):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _no_value(switch: str) -> str:
    on = switch.replace("--no-", "--")
    return f"{on} is a switch and takes no value: write {on} or {on.replace('--', '--no-')}"


def _unknown(word: str, words: list[str], parser: argparse.ArgumentParser, switches: set[str]) -> str:
    """The sentence for the first word that no option took."""
    if not word.startswith("-"):
        before = words[words.index(word) - 1] if words.index(word) else ""
        if before.replace("--no-", "--") in switches:
            return _no_value(before)
        return f"unexpected value {word!r}: every value needs an option in front, such as -s {word}"
    name = word.partition("=")[0]
    nearest = difflib.get_close_matches(name, parser._option_string_actions, n=1)
    return f"unknown option {name}" + (f": did you mean {nearest[0]}?" if nearest else ": see --help")
