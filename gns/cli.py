"""The commands: `gns train`, `gns render` and so on; the top-level scripts call the same functions.

A command is a function from its arguments to an exit status. Its heavy imports come after its options are read, so
that `--help` and a wrong option answer at once.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import Any

from gns import __version__, other_trainers
from gns.errors import UserError, is_lack_of_memory
from gns.utils.streams import escape_what_cannot_be_written

Command = Callable[[Sequence[str]], int]

STOPPED = 130  # the shell's status for a program ended by Ctrl-C: 128 and the number of its signal
REFUSED = 2
BUDGET_MISSED = 3


def train(argv: Sequence[str]) -> int:
    """Train a model of exactly the size you ask for."""
    from gns.arguments import parse_train

    config = parse_train(argv, prog=_program("train"))
    from gns.commands.train import run_training, training_told

    return _answered(config.json, lambda: run_training(config), lambda: training_told(config))


def render(argv: Sequence[str]) -> int:
    """Render the training and held-out views of a trained model."""
    from gns.arguments import parse_render

    config = parse_render(argv, prog=_program("render"))
    from gns.commands.render import render_run, rendering_told

    return _answered(config.json, lambda: render_run(config), lambda: rendering_told(config))


def metrics(argv: Sequence[str]) -> int:
    """Score rendered test views: PSNR, SSIM and LPIPS."""
    from gns.arguments import parse_metrics

    config = parse_metrics(argv, prog=_program("metrics"))
    from gns.commands.metrics import evaluate_models
    from gns.commands.report import refresh_reports

    results: dict[str, Any] = {}

    def score() -> int:
        status = evaluate_models(config, results)
        refresh_reports(results)
        return status

    return _answered(config.json, score, lambda: {"results": results})


def test(argv: Sequence[str]) -> int:
    """Train, render and score scenes × budgets × seeds, here or on a cluster."""
    from gns.arguments import parse_suite

    config = parse_suite(argv, prog=_program("test"))
    from gns.commands.test import run_suite, suite_told

    return _answered(config.json, lambda: run_suite(config), lambda: suite_told(config))


def inspect(argv: Sequence[str]) -> int:
    """Say what a scene is and what looks wrong with it, and draw it."""
    from gns.arguments import parse_inspect

    config = parse_inspect(argv)
    from gns.commands.inspect import inspect_scene

    rows: list[tuple[str, str]] = []
    return _answered(config.json, lambda: inspect_scene(config, rows), lambda: {"rows": [list(row) for row in rows]})


def report(argv: Sequence[str]) -> int:
    """Write the page about a trained model."""
    from gns.commands.options import parse_report

    config = parse_report(argv)
    from gns.commands.report import REPORT, report_run

    return _answered(config.json, lambda: report_run(config), lambda: {"page": str(config.model_path / REPORT)})


def compare(argv: Sequence[str]) -> int:
    """Write one page about several trained models."""
    from gns.commands.options import parse_compare

    config = parse_compare(argv)
    from gns.commands.report import compare_runs

    return _answered(config.json, lambda: compare_runs(config), lambda: {"page": str(config.output)})


def convert(argv: Sequence[str]) -> int:
    """Make a scene of photos or of a video."""
    from gns.sfm.options import parse_convert

    config = parse_convert(argv, prog=_program("convert"))
    from gns.commands.convert import run_convert

    return run_convert(config)


def make(argv: Sequence[str]) -> int:
    """Go all the way from photos or a video to a trained and scored model."""
    from gns.commands.make import parse_make, run_make

    return run_make(parse_make(argv))


def export(argv: Sequence[str]) -> int:
    """Write a trained model as other programs read it, or as a page that shows it."""
    from gns.commands.options import parse_export

    config = parse_export(argv)
    from gns.commands.export import export_model

    told: list[dict[str, Any]] = []
    return _answered(config.json, lambda: export_model(config, told), lambda: {"model": told[0], "files": told[1:]})


def view(argv: Sequence[str]) -> int:
    """Show a trained model in the browser."""
    from gns.commands.options import parse_view

    config = parse_view(argv)
    from gns.commands.view import view_model

    view_model(config)  # which answers --json itself: when there is something to see, not when it has been closed
    return 0


def _answered(as_json: bool, work: Callable[[], int | None], told: Callable[[], Any]) -> int:
    """Do the `work` and return its exit status, 0 for None.

    With `--json`, stdout has what is `told` of it afterwards and nothing else: what it prints goes to stderr.
    """
    if not as_json:
        return work() or 0
    with redirect_stdout(sys.stderr):
        status = work() or 0
    print(json.dumps({"status": status, **told()}), flush=True)
    return status


COMMANDS: dict[str, Command] = {
    "train": train,
    "render": render,
    "metrics": metrics,
    "test": test,
    "inspect": inspect,
    "report": report,
    "compare": compare,
    "convert": convert,
    "make": make,
    "export": export,
    "view": view,
}


def run(command: Command, argv: Sequence[str] | None = None) -> int:
    """Run a command on `argv` (by default the program's own arguments) and return its exit status.

    A UserError becomes one sentence on stderr and status 2, and so does what the operating system refuses or lacks;
    Ctrl-C becomes status 130, without a traceback. A name that the terminal's encoding lacks is written with escapes.
    """
    escape_what_cannot_be_written()
    words = sys.argv[1:] if argv is None else argv
    try:
        return command(words)
    except UserError as error:
        sentence = str(error)
    except OSError as error:
        if error.filename is None:
            raise
        sentence = f"{error.filename} cannot be used: {error.strerror}"
    except (MemoryError, RuntimeError) as error:
        if not is_lack_of_memory(error):
            raise
        sentence = "the main memory is used up: close other programs, or give -r a smaller width"
    except KeyboardInterrupt:
        return STOPPED
    print(f"error: {sentence}", file=sys.stderr)
    if "--json" in words:
        print(json.dumps({"status": REFUSED, "error": sentence}), flush=True)
    return REFUSED


def main(argv: Sequence[str] | None = None) -> int:
    """The program `gns`: run the command that the first argument names, and return the exit status."""
    return run(_dispatch, argv)


def _dispatch(argv: Sequence[str]) -> int:
    name, *rest = argv or ["--help"]
    if name in COMMANDS:
        return COMMANDS[name](rest)
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name == "--version":
        print(f"gns {__version__}")
        return 0
    if name.removesuffix(".py") in other_trainers.SCRIPTS:
        raise UserError(other_trainers.SCRIPTS[name.removesuffix(".py")])
    nearest = difflib.get_close_matches(name, COMMANDS, n=1)
    raise UserError(
        f"unknown command {name}: " + (f"did you mean {nearest[0]}?" if nearest else f"choose {', '.join(COMMANDS)}")
    )


def _overview() -> str:
    listed = "\n".join(f"  {name:<10}{command.__doc__}" for name, command in COMMANDS.items())
    return f"usage: gns COMMAND [options]\n\n{listed}\n\ngns COMMAND --help lists the options of a command."


def _program(command: str) -> str:
    """The name that --help shows: the script's, or the sub-command of `gns`."""
    called = sys.argv[0].replace("\\", "/").rpartition("/")[2]
    return called if called == f"{command}.py" else f"gns {command}"


if __name__ == "__main__":
    raise SystemExit(main())
