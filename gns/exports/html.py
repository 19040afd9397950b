"""A page that shows a model: one file, with the viewer and the model in it, that needs no network and no server."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from gns.errors import UserError
from gns.exports.packing import read_whole
from gns.exports.spz import FINE_BUCKETS, read_spz, spz_bytes
from gns.scene.camera import Camera
from gns.scene.frame import LocalFrame
from gns.scene.gaussians import Gaussians
from gns.scene.viewpoint import distance_seen, opening_camera, overview_camera, up_direction
from gns.utils.atomic_files import write_text
from gns.utils.untrusted_json import parse_json

_TO_SPZ = np.diag([1.0, -1.0, -1.0])  # from the axes of 3DGS models to those of SPZ: right, up, back
NEAR = 0.2  # of the renderer
_LARGEST_EXTENT = 16.0  # units of the page; SPZ holds Gaussians of up to 380
_SETTINGS = re.compile(r'<script id="settings" type="application/json">([^<]*)</script>')
_MODEL = re.compile(r'<script id="model" type="application/octet-stream">([^<]*)</script>')


def page(
    gaussians: Gaussians,
    camera: Camera | None = None,
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
    title: str = "Gaussians",
    views: Sequence[Camera] = (),
) -> str:
    """A page of HTML that shows a model, complete in itself.

    Args:
        gaussians: the model, of any SH degree.
        camera: where the page begins; None: at that of `views` from which most is seen, or before the model.
        background: RGB in [0, 1] behind the scene.
        title: of the page; any text.
        views: cameras through which the keys N and P go.

    Raises UserError where a value of the model is not finite. The picture alone, without buttons, is at the address
    with `#bare`. Where the page has drawn all it will, `document.documentElement.dataset.state` is "drawn".
    """
    frame = _frame(gaussians)
    local = replace(gaussians, frame=frame).local()
    if camera is None:
        camera = opening_camera(views, gaussians) if views else overview_camera(gaussians)
    cameras = [frame.camera(view) for view in (camera, *(view for view in views if view.name != camera.name))]
    settings = {
        "frame": {"offset": frame.offset, "scale": frame.scale},
        "near": NEAR * gaussians.frame.scale / frame.scale,
        "background": [float(level) for level in background],
        "up": (_TO_SPZ @ up_direction(cameras)).tolist(),
        "cameras": [_camera(view, local) for view in cameras],
    }
    files = resources.files("gns.exports") / "viewer"
    model = base64.b64encode(spz_bytes(local, Path("page.html"), FINE_BUCKETS)).decode()
    return Template((files / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        background="#" + "".join(f"{round(255 * min(1, max(0, level))):02x}" for level in background),
        settings=json.dumps(settings).replace("<", "\\u003c"),
        model=model,
        script=(files / "viewer.js").read_text(encoding="utf-8"),
    )


def save_html(gaussians: Gaussians, path: Path) -> None:
    """Write the page of a model of which nothing else is known; `page` has more to say where it is."""
    write_text(path, page(gaussians, title=path.stem))


def load_html(path: Path) -> Gaussians:
    """The model in a page that `page` made. Raises UserError where there is none."""
    text = read_whole(path).decode(errors="replace")
    settings, model = _SETTINGS.search(text), _MODEL.search(text)
    if settings is None or model is None:
        raise UserError(f"{path} is no page of gns: it has no model in it")
    try:
        noted = parse_json(settings[1])["frame"]
        x, y, z = (float(value) for value in noted["offset"])
        frame = LocalFrame((x, y, z), float(noted["scale"]))
        return read_spz(base64.b64decode(model[1]), path).in_world(frame)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: its model cannot be read ({error})") from None


def _frame(gaussians: Gaussians) -> LocalFrame:
    """Coordinates in which float32 and SPZ hold the model: its own frame, or one of larger units for large models."""
    frame, means = gaussians.frame, gaussians.local().means.detach().double()
    extent = float((means - means.median(dim=0).values).abs().median()) if len(means) else 0.0
    if extent <= _LARGEST_EXTENT:
        return frame
    return replace(frame, scale=frame.scale * 2.0 ** math.ceil(math.log2(extent / _LARGEST_EXTENT)))


def _camera(camera: Camera, gaussians: Gaussians) -> dict[str, Any]:
    """A camera as the viewer takes it, in SPZ's axes, and how far away that is which it looks at."""
    return {
        "name": camera.name,
        **{name: getattr(camera, name) for name in ("width", "height", "fx", "fy", "cx", "cy")},
        "rotation": (camera.rotation @ _TO_SPZ).tolist(),
        "center": (_TO_SPZ @ camera.center).tolist(),
        "distance": distance_seen(camera, gaussians),
    }
