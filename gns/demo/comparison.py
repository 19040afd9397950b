"""One picture that shows held-out photos beside the renders of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from gns.errors import UserError

ROWS = 3
MARGIN = 6
TITLE_HEIGHT = 18


def write_comparison(model: Path, picture: Path) -> None:
    """Write truth | render pairs of evenly chosen held-out views, each with its PSNR where that is known.

    Reads `model`/test/ours_N/{gt,renders} of the largest N, and per_view.json once the model has been scored.

    Raises:
        UserError: nothing has been rendered yet.
    """
    folder = _latest_renders(model)
    names = sorted(path.name for path in (folder / "renders").glob("*.png"))
    if not names:
        raise UserError(f"{folder / 'renders'} holds no pictures: run render.py -m {model} first.")
    step = max(1, len(names) // ROWS)
    chosen = names[::step][:ROWS]
    scores = _psnr_by_name(model, folder.name)
    rows = [_pair(folder, name, scores.get(name)) for name in chosen]

    picture.parent.mkdir(parents=True, exist_ok=True)
    stacked(rows).save(picture)


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width below each other."""
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _latest_renders(model: Path) -> Path:
    folders = [path for path in (model / "test").glob("ours_*") if path.name.removeprefix("ours_").isdigit()]
    if not folders:
        raise UserError(f"{model / 'test'} holds no renders: run render.py -m {model} first.")
    return max(folders, key=lambda path: int(path.name.removeprefix("ours_")))


def _psnr_by_name(model: Path, method: str) -> dict[str, float]:
    path = model / "per_view.json"
    if not path.is_file():
        return {}
    scores: dict[str, float] = json.loads(path.read_text())[method]["PSNR"]
    return scores


def _pair(folder: Path, name: str, psnr: float | None) -> Image.Image:
    """A photo, its render and a line of text above each."""
    truth, render = (Image.open(folder / kind / name).convert("RGB") for kind in ("gt", "renders"))
    row = Image.new("RGB", (2 * truth.width + 3 * MARGIN, truth.height + TITLE_HEIGHT + MARGIN), "white")
    score = "" if psnr is None else f": {psnr:.2f} dB"
    for left, image, title in ((MARGIN, truth, f"held-out photo: {name}"), (0, render, f"render{score}")):
        x = left or 2 * MARGIN + truth.width
        row.paste(image, (x, TITLE_HEIGHT))
        ImageDraw.Draw(row).text((x, 3), title, fill="black")
    return row
