"""Show a trained model in the browser."""

from __future__ import annotations

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
from gns.utils.console import say
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
        say(f"{error}; showing a page instead", config.quiet)
        return False
    return True


def _open_page(given: GivenModel, config: ViewConfig) -> None:
    path = Path(tempfile.mkdtemp(prefix="gns-view-")) / "model.html"
    camera = given.opening_camera()
    write_text(path, page(given.gaussians, camera, background=given.background, title=given.title, views=given.cameras))
    say(f"the model is in {path}: open it in a browser", config.quiet)
    if config.open:
        webbrowser.open(path.as_uri())


def _serve(given: GivenModel, config: ViewConfig) -> None:
    camera = given.opening_camera() or overview_camera(given.gaussians)
    window = Window(config.port, given.title, camera, given.gaussians, given.background, given.cameras or [camera])
    say(f"{given.title} is at {window.address}: Ctrl-C ends it", config.quiet)
    if config.open:
        webbrowser.open(window.address)
    try:
        window.wait()
    finally:
        window.close()
