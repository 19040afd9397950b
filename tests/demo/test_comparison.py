"""The side-by-side picture: the right pixels on the right side, and a sentence where there is nothing to show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gns.demo import comparison
from gns.demo.__main__ import main
from gns.demo.comparison import MARGIN, TITLE_HEIGHT, write_comparison
from gns.errors import UserError

WIDTH, HEIGHT = 160, 40


def colour(kind: str, index: int) -> tuple[int, int, int]:
    return (200 if kind == "gt" else 30, 40 * index + 10, 77)


def rendered_model(folder: Path, iteration: int, views: int) -> Path:
    for kind in ("gt", "renders"):
        target = folder / "test" / f"ours_{iteration}" / kind
        target.mkdir(parents=True)
        for k in range(views):
            Image.new("RGB", (WIDTH, HEIGHT), colour(kind, k)).save(target / f"{k:05d}.png")
    return folder


def test_truth_is_left_of_render_for_spread_out_views(tmp_path: Path) -> None:
    model = rendered_model(tmp_path / "model", 300, views=6)
    write_comparison(model, tmp_path / "deep" / "picture.png")
    sheet = np.asarray(Image.open(tmp_path / "deep" / "picture.png"))
    row = HEIGHT + TITLE_HEIGHT + MARGIN
    assert sheet.shape == (3 * row, 2 * WIDTH + 3 * MARGIN, 3)
    for k, index in enumerate((0, 2, 4)):
        y = k * row + TITLE_HEIGHT + HEIGHT // 2
        assert tuple(sheet[y, MARGIN + WIDTH // 2]) == colour("gt", index)
        assert tuple(sheet[y, 2 * MARGIN + WIDTH + WIDTH // 2]) == colour("renders", index)


def test_newest_iteration_is_shown(tmp_path: Path) -> None:
    rendered_model(tmp_path, 900, views=1)
    newest = rendered_model(tmp_path, 3000, views=2)
    assert comparison._latest_renders(newest).name == "ours_3000"


def test_score_is_written_above_the_render(tmp_path: Path) -> None:
    model = rendered_model(tmp_path / "model", 300, views=1)
    write_comparison(model, tmp_path / "without.png")
    (model / "per_view.json").write_text(json.dumps({"ours_300": {"PSNR": {"00000.png": 31.25}}}))
    write_comparison(model, tmp_path / "with.png")
    without, scored = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("without", "with"))
    changed = np.argwhere((without != scored).any(axis=-1))
    assert len(changed) > 20
    assert changed[:, 0].max() < TITLE_HEIGHT
    assert changed[:, 1].min() > WIDTH


def test_a_model_without_renders_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"run render\.py"):
        write_comparison(tmp_path, tmp_path / "picture.png")
    assert main(["compare", str(tmp_path), str(tmp_path / "picture.png")]) == 2
    assert "run render.py" in capsys.readouterr().err
    assert not (tmp_path / "picture.png").exists()
