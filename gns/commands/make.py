"""From photos to a trained and scored model in one call: convert, train, render, metrics.

Every step is the command of its name, in a process of its own, and does only what is not done: a second start goes on
where the first one stopped.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gns.arguments import MachineConfig, TrainConfig, option_tables, parse_train
from gns.commands.child import call
from gns.sfm.options import PhotosConfig, parse_convert, with_source_flag
from gns.utils.console import say, warn
from gns.utils.option_table import described_fields, given_options, option, option_of

if TYPE_CHECKING:
    from gns.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class _PhotosOrScene:
    """What `gns make` reads and prints."""

    source_path: Path = field(
        metadata=option(
            "folder of photos, a video, or a scene; -s may be left out", group="photos", short="-s", metavar="PHOTOS"
        )
    )


@dataclass(frozen=True, kw_only=True)
class _Training(TrainConfig):
    """The options of train.py; -s, which means something else here, is none of them."""

    source_path: Path = field(default=Path())


@dataclass(frozen=True)
class MakeConfig:
    """What `gns make` was asked for: the words of its command line, by the command that they are for."""

    source: Path
    convert: list[str]
    train: list[str]
    machine: list[str]
    quiet: bool
    json: bool


def parse_make(argv: Sequence[str], *, prog: str = "gns make") -> MakeConfig:
    """The configuration that a command line of `gns make` asks for; the photos may stand alone in front.

    Raises UserError, also for what only a later step would refuse: hours may go into poses before.
    """
    words = with_source_flag(argv)
    given = given_options(
        [_PhotosOrScene, PhotosConfig, _Training, *option_tables()],
        words,
        prog=prog,
        description="Make a model of photos or of a video: find their poses, train, render and score.",
    )
    # --json is for the whole: the steps tell what they do on stderr.
    machine, of_photos = _names(MachineConfig) - {"json"}, _names(PhotosConfig) - {"json"}
    own = _names(_PhotosOrScene) | {"json"}
    config = MakeConfig(
        source=given.get("source_path", Path()),
        convert=_words_of(words, lambda name: name in of_photos | {"threads", "quiet"}),
        train=_words_of(words, lambda name: name not in of_photos | own),
        machine=_words_of(words, lambda name: name in machine),
        quiet=given.get("quiet", False),
        json=given.get("json", False),
    )
    source = ["-s", str(config.source)] if "source_path" in given else []
    parse_convert([*source, *config.convert], prog=prog)
    parse_train([*source, *config.train], prog=prog)
    return config


def run_make(config: MakeConfig) -> int:
    """What `gns make` does. Returns the exit status 0. Raises UserError, and KeyboardInterrupt where it was stopped."""
    from gns.commands.convert import find_source, is_ready
    from gns.report.page import REPORT
    from gns.report.viewer import PAGE
    from gns.run_folder import RunFolder

    scene, seconds = config.source, dict[str, float]()
    steps: list[tuple[str, list[str]]] = []
    if not is_ready(scene):
        converting = ["-s", str(config.source), *config.convert]
        scene = find_source(parse_convert(converting)).scene
        steps.append(("convert", converting))
    # --resume starts where there is nothing yet, and is content where all is done.
    training = ["-s", str(scene), *config.train, "--resume"]
    trained = parse_train(training)
    model = ["-m", str(trained.model_path), *config.machine]
    steps.append(("train", training))
    if trained.eval:
        steps += [("render", [*model, "--skip-train"]), ("metrics", model)]
    page = trained.model_path / PAGE
    steps.append(("export", [*model, "-o", str(page), "--no-score"]))
    for number, (command, arguments) in enumerate(steps, start=1):
        if not config.quiet:
            warn(f"[{number}/{len(steps)}] gns {command} {shlex.join(arguments)}")
        started = time.monotonic()
        call(command, arguments, to_stderr=config.json)
        seconds[command] = round(time.monotonic() - started, 1)
    run = RunFolder.open(trained.model_path)
    path = run.model_path(run.resolve_iteration(None))
    if config.json:
        print(json.dumps(_result(scene, run, path, seconds)), flush=True)
    else:
        minutes = sum(seconds.values()) / 60
        say(f"the model is {path}, after {minutes:.1f} minutes; to look at it, open {page}", config.quiet)
        if (report := run.path / REPORT).exists():
            say(f"how it came about and what it scores: {report}", config.quiet)
    return 0


def _result(scene: Path, run: RunFolder, model: Path, seconds: Mapping[str, float]) -> dict[str, Any]:
    """What `--json` prints. `scores` has no key for a model of which nothing was held out."""
    from gns.commands.convert import FINISHED_FILE
    from gns.report.viewer import PAGE
    from gns.utils.ply_file import count_rows

    result: dict[str, Any] = {
        "status": 0,
        "scene": str(scene),
        "model_path": str(run.path),
        "model": str(model),
        "page": str(run.path / PAGE),
        "gaussians": count_rows(model),
        "bytes": model.stat().st_size,
        "seconds": dict(seconds),
    }
    for key, path in (("photos", scene / FINISHED_FILE), ("scores", run.results_path)):
        if path.exists():
            result[key] = json.loads(path.read_text(encoding="utf-8"))
    if "photos" in result:
        result["photos"].pop("inputs")
    return result


def _names(table: type) -> set[str]:
    return {described.name for described in described_fields(table)}


def _words_of(words: Sequence[str], wanted: Callable[[str], bool]) -> list[str]:
    """Those of a command line's options, with their values, whose field is wanted."""
    tables: tuple[type, ...] = (_PhotosOrScene, PhotosConfig, TrainConfig)
    shorts = {option_of(each).short: each.name for table in tables for each in described_fields(table)}
    kept, keeping = list[str](), False
    for word in words:
        if re.match(r"--?[A-Za-z]", word):  # and no value, such as -1
            name = word.partition("=")[0]
            field_name = shorts.get(name) or name.removeprefix("--").replace("-", "_").removeprefix("no_")
            keeping = wanted(field_name)
        if keeping:
            kept.append(word)
    return kept
