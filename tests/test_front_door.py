"""`import gns`: cheap, and enough for a notebook."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gns
import gns.api
from gns.testing.scene_files import small_scene, write_colmap
from gns.testing.tiny import tiny_config, tiny_scene


def test_importing_it_imports_nothing_else() -> None:
    program = (
        "import sys, gns; assert gns.__version__; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names() -> None:
    assert {"train", "render", "Scene", "Camera", "Gaussians", "Config", "load", "save"} <= set(dir(gns))
    assert sorted(gns._FRONT_DOOR) == sorted(gns.api.__all__)
    with pytest.raises(AttributeError, match="module 'gns' has no attribute 'trian'"):
        gns.trian  # noqa: B018


def _arrays() -> tuple[list[gns.Camera], list[np.ndarray]]:
    views = tiny_scene().train
    return [view.camera for view in views], [view.image.numpy() for view in views]


def test_a_scene_of_arrays_is_that_of_a_reader() -> None:
    scene = tiny_scene()
    views = [*scene.train, *scene.test]
    made = gns.Scene.from_arrays(
        [view.camera for view in views], [view.image for view in views], scene.points, held_out=[4, 5], name="tiny"
    )
    made = replace(made, extent=scene.extent)
    first, second = (gns.train(given, tiny_config(iterations=60)).gaussians for given in (scene, made))
    assert torch.equal(first.means, second.means)
    assert [view.camera for view in made.test] == [view.camera for view in scene.test]


def test_extent_and_points_are_made() -> None:
    cameras, images = _arrays()
    scene = gns.Scene.from_arrays(cameras, images, seed=3)
    centers = np.stack([camera.center for camera in cameras])
    assert scene.extent == pytest.approx(1.1 * np.linalg.norm(centers - centers.mean(axis=0), axis=1).max())
    again = gns.Scene.from_arrays(cameras, images, seed=3)
    assert len(scene.points.positions) > 1000 and np.array_equal(scene.points.positions, again.points.positions)


def test_alpha_is_composed_on_the_background() -> None:
    cameras, images = _arrays()
    alpha = np.full((*images[0].shape[:2], 1), 51, np.uint8)  # a fifth
    clear = [np.concatenate([image, alpha], axis=2) for image in images]
    scene = gns.Scene.from_arrays(cameras, clear, background=(1.0, 0.5, 0.0))
    expected = 0.2 * images[0] + 0.8 * np.array([255, 128, 0])
    assert np.abs(scene.train[0].image.numpy() - expected).max() <= 0.51


def test_masks_and_arrays_are_copied() -> None:
    cameras, images = _arrays()
    images = [image.copy() for image in images]
    masks = [np.ones(image.shape[:2], bool) for image in images]
    masks[1][:5] = False
    scene = gns.Scene.from_arrays(cameras, images, masks=[None, *masks[1:]])
    images[0][:] = 7
    assert scene.train[0].mask is None and int((scene.train[0].image != 7).sum()) > 0
    mask = scene.train[1].mask
    assert mask is not None and mask.dtype == torch.bool and int((~mask).sum()) == 5 * mask.shape[1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": 3}, "4 cameras, 3 images and 3 masks"),
        ({"floats": True}, r"image of camera '00.png' must be uint8 \[30, 40, 3 or 4\], not float64 \[30, 40, 3\]"),
        ({"turned": True}, r"must be uint8 \[30, 40, 3 or 4\], not uint8 \[40, 30, 3\]"),
        ({"held_out": [4]}, "held_out names photo 4, and there are 4"),
        ({"held_out": [0, 1, 2, 3]}, "no photo is left"),
        (
            {"masks": [np.ones((30, 40), np.uint8)] * 4},
            r"mask of camera '00.png' must be bool \[30, 40\], not torch.uint8",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, object], sentence: str) -> None:
    cameras, images = _arrays()
    images = images[: int(str(change.pop("images", 4)))]
    if change.pop("floats", False):
        images = [image / 255 for image in images]
    if change.pop("turned", False):
        images = [image.transpose(1, 0, 2) for image in images]
    with pytest.raises(ValueError, match=sentence):
        gns.Scene.from_arrays(cameras, images, **change)  # type: ignore[arg-type]


def test_a_folder_is_read(tmp_path: Path) -> None:
    write_colmap(tmp_path / "scene", small_scene(count=9))
    assert [len(views) for views in (gns.read_scene(tmp_path / "scene").test,)] == [2]
    assert gns.read_scene(str(tmp_path / "scene"), hold_out=False, white_background=True).background == (1.0, 1.0, 1.0)


def test_doubts_of_a_reader_are_warnings(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path / "scene", small_scene(count=9))
    (folder / "masks").mkdir()
    Image.new("L", (8, 8)).save(folder / "masks" / "nobody.png")
    with pytest.warns(UserWarning, match="nobody"):
        gns.read_scene(folder)


def test_a_model_is_written_and_read(tmp_path: Path) -> None:
    state = gns.train(tiny_scene(), tiny_config(iterations=20))
    gns.save(state.gaussians, str(tmp_path / "model.ply"))
    assert torch.equal(gns.load(str(tmp_path / "model.ply")).quats, state.gaussians.quats)


def test_the_state_hands_out_copies() -> None:
    state = gns.train(tiny_scene(), tiny_config(iterations=5))
    before = state.gaussians
    before.means += 1
    assert not torch.equal(before.means, state.gaussians.means)
    assert not before.means.requires_grad


def test_a_configuration_has_no_paths() -> None:
    config = gns.Config(final_budget=100, iterations=10, quiet=True)
    assert not [name for name in vars(config) if "path" in name]
    assert gns.train(tiny_scene(), config).iteration == 10


def test_background_may_be_a_tuple() -> None:
    view, state = tiny_scene().train[0], gns.train(tiny_scene(), tiny_config(iterations=5))
    image = gns.render(view.camera, state.gaussians, (0.25, 0.5, 1.0)).image
    assert torch.equal(image, gns.render(view.camera, state.gaussians, torch.tensor([0.25, 0.5, 1.0])).image)
