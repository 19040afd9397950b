"""The model in the page of its run: the viewer of `gns.exports.html`, inside it where small, else beside it."""

from __future__ import annotations

from dataclasses import dataclass

from gns.exports.html import page
from gns.run_folder import RunFolder
from gns.utils.atomic_files import write_text

PAGE = "model.html"  # the viewer as a file of its own, in the output folder
MOST_INSIDE = 12_000_000  # characters of a viewer inside the report: 180,000 Gaussians of SH degree 3


@dataclass(frozen=True)
class Viewer:
    """Where the reader finds the viewer: `inside` the report as a whole page, or in the file `beside` it."""

    size: int  # bytes
    inside: str = ""
    beside: str = ""


def viewer_of(run: RunFolder, iteration: int) -> Viewer:
    """The viewer of a saved model; one that is too large for the report is written beside it.

    Raises UserError where the model is damaged or cannot be packed.
    """
    level = 1.0 if run.config.white_background else 0.0
    title = run.path.resolve().name
    text = page(run.load_model(iteration), background=(level, level, level), title=title, views=run.cameras())
    if len(text) <= MOST_INSIDE:
        return Viewer(len(text), inside=text)
    write_text(run.path / PAGE, text)
    return Viewer(len(text), beside=PAGE)
