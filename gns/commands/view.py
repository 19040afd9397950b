"""Show a trained model in the browser."""

from __future__ import annotations

import json
import tempfile
import webbrowser
from pathlib import Path

from gns.commands.models import GivenModel
from gns.commands.options import ViewConfig
from gns.errors import UserError
from gns.exports.html import page
from gns.gaussian_renderer.threads import renderer_threads
from gns.scene.viewpoint import overview_camera
from gns.utils.atomic_files import write_text
from gns.utils.console import say, warn
from gns.viewer.window import Window, viser_or_sentence


def view_model(config: ViewConfig) -> None:
    """Serve the model until Ctrl-C; as a page that stays, where viser is not installed or a page is asked for.

    Raises UserError where the model cannot be read or the port is taken.
    """
    with renderer_threads(config.threads):
        given = GivenModel.of(config)
        if config.page or not _has_viser(config):
            _open_page(given, config)
        else:
            _serve(given, config)


def _has_viser(config: ViewConfig) -> bool:
    try:
        viser_or_sentence()
    except UserError as error:
        if not config.quiet:
            warn(f"{error}; showing a page instead")
        return False
    return True


def _open_page(given: GivenModel, config: ViewConfig) -> None:
    path = Path(tempfile.mkdtemp(prefix="gns-view-")) / "model.html"
    write_text(path, page(given.gaussians, background=given.background, title=given.title, views=given.cameras))
    _tell(config, f"the model is in {path}: open it in a browser", page=str(path))
    if config.open:
        webbrowser.open(path.as_uri())


def _serve(given: GivenModel, config: ViewConfig) -> None:
    camera = given.opening_camera() or overview_camera(given.gaussians)
    window = Window(config.port, given.title, camera, given.gaussians, given.background, given.cameras or [camera])
    _tell(config, f"{given.title} is at {window.address}: Ctrl-C ends it", address=window.address)
    if config.open:
        webbrowser.open(window.address)
    try:
        window.wait()
    finally:
        window.close()


def _tell(config: ViewConfig, line: str, **where: str) -> None:
    """Say where the model is to be seen, with `--json` as one object on stdout."""
    if config.json:
        print(json.dumps({"status": 0, "model": str(config.model_path), **where}), flush=True)
    else:
        say(line, config.quiet)
