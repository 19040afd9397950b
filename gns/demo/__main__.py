"""`python -m gns.demo scene FOLDER` writes the scene; `python -m gns.demo compare MODEL PICTURE` shows the result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from gns.demo.capture import write_demo_scene
from gns.demo.comparison import write_comparison
from gns.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run one of the two commands; the exit status is 0, or 2 after a `UserError`."""
    parser = argparse.ArgumentParser(prog="python -m gns.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    scene = commands.add_parser("scene", help="ray-trace the demo scene in COLMAP's format")
    scene.add_argument("folder", type=Path)
    compare = commands.add_parser("compare", help="put held-out photos and their renders side by side")
    compare.add_argument("model", type=Path)
    compare.add_argument("picture", type=Path)
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "scene":
            write_demo_scene(arguments.folder)
        else:
            write_comparison(arguments.model, arguments.picture)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
