"""Depth maps as 3DGS reads them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from gns.errors import UserError
from gns.scene import Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import small_scene, write_colmap

SCALE, OFFSET = 0.5, 0.125


def _scene(folder: Path, *, distorted: bool = False) -> tuple[Path, list[str]]:
    """A COLMAP scene of nine photos with a depth map each, and their names without suffix."""
    scene = small_scene(count=9)
    lens = ("SIMPLE_RADIAL", (0.05,)) if distorted else ("PINHOLE", ())
    source = write_colmap(folder / "scene", scene, model=lens[0], coefficients=lens[1])
    (source / "depths").mkdir()
    names = sorted(path.stem for path in (source / "images").iterdir())
    across = np.linspace(0, 60_000, 40, dtype=np.uint16)
    for name in names:
        cv2.imwrite(str(source / "depths" / f"{name}.png"), np.tile(across, (30, 1)))
    _write_parameters(source, dict.fromkeys(names, (SCALE, OFFSET)))
    return source, names


def _write_parameters(source: Path, pairs: dict[str, tuple[float, float]]) -> None:
    entries = {name: {"scale": scale, "offset": offset} for name, (scale, offset) in pairs.items()}
    (source / "sparse/0/depth_params.json").write_text(json.dumps(entries))


def _read(source: Path, resolution: int = 1, folder: str = "depths") -> tuple[Scene, str]:
    lines: list[str] = []
    scene = read_scene(source, SceneOptions(depths=folder, resolution=resolution), lines.append)
    return scene, "\n".join(lines)


def test_values_are_scaled_and_shifted(tmp_path: Path) -> None:
    source, _ = _scene(tmp_path)
    scene, said = _read(source)
    expected = torch.linspace(0, 60_000, 40).floor() / 65_536 * SCALE + OFFSET
    for view in scene.train:
        assert view.inverse_depth is not None and view.inverse_depth.dtype == torch.float32
        torch.testing.assert_close(view.inverse_depth, expected.expand(30, 40))
    assert "7 of 7 photos have a depth map" in said
    assert all(view.inverse_depth is None for view in scene.test)


def test_without_the_option_no_map_is_read(tmp_path: Path) -> None:
    source, _ = _scene(tmp_path)
    (source / "sparse/0/depth_params.json").write_text("damaged")
    scene, _ = _read(source, folder="")
    assert all(view.inverse_depth is None for view in scene.train)


def test_maps_follow_the_photo_when_it_is_reduced(tmp_path: Path) -> None:
    source, _ = _scene(tmp_path)
    view = _read(source, resolution=2)[0].train[0]
    assert view.inverse_depth is not None and view.inverse_depth.shape == (15, 20)
    middle = torch.linspace(0, 60_000, 40).view(20, 2).mean(dim=1) / 65_536 * SCALE + OFFSET
    torch.testing.assert_close(view.inverse_depth[3], middle, rtol=0, atol=1e-4)


def test_maps_of_distorted_photos_are_undistorted(tmp_path: Path) -> None:
    source, _ = _scene(tmp_path, distorted=True)
    view = _read(source)[0].train[0]
    assert view.inverse_depth is not None and view.inverse_depth.shape == view.image.shape[:2]
    straight = torch.linspace(0, 60_000, 40) / 65_536 * SCALE + OFFSET
    width = view.inverse_depth.shape[1]
    row = view.inverse_depth[view.inverse_depth.shape[0] // 2]
    assert not torch.allclose(row, straight[:width], atol=1e-4) and (row.diff() > 0).all()


def test_a_map_aligned_with_hardly_any_point_is_not_used(tmp_path: Path) -> None:
    source, names = _scene(tmp_path)
    pairs = dict.fromkeys(names, (SCALE, OFFSET))
    pairs[names[1]] = (6 * SCALE, OFFSET)
    pairs[names[2]] = (-SCALE, OFFSET)
    _write_parameters(source, pairs)
    (source / "depths" / f"{names[3]}.png").unlink()
    scene, said = _read(source)
    assert [view.inverse_depth is None for view in scene.train] == [True, True, True, False, False, False, False]
    assert "4 of 7 photos have a depth map; 1 more" in said


# Sixteen bits in another format, which OpenCV would read: what it makes room for then is not looked after here.
TIFF = cv2.imencode(".tiff", np.zeros((30, 40), np.uint16))[1].tobytes()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda source: (source / "sparse/0/depth_params.json").unlink(), "make_depth_scale"),
        (lambda source: (source / "sparse/0/depth_params.json").write_text('{"a": 1}'), "is damaged"),
        (lambda source: _write_parameters(source, {"another": (SCALE, OFFSET)}), "no photo has both"),
        (lambda source: _write_parameters(source, {"another": (0.0, OFFSET)}), "no scale above 0"),
        (
            lambda source: [cv2.imwrite(str(p), np.zeros((30, 40), np.uint8)) for p in (source / "depths").iterdir()],
            "16 bits",
        ),
        (
            lambda source: [p.write_bytes(TIFF) for p in (source / "depths").iterdir()],
            "must be a PNG of one channel with 16 bits",
        ),
        (
            lambda source: [cv2.imwrite(str(p), np.zeros((40, 30), np.uint16)) for p in (source / "depths").iterdir()],
            "30 × 40 pixels",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, spoil: object, message: str) -> None:
    source, _ = _scene(tmp_path)
    spoil(source)  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        _read(source)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    source, _ = _scene(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        _read(source, folder="depth")
