"""The class that nerfbaselines drives, on dictionaries shaped as its datasets are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gns.errors import UserError
from gns.gaussian_renderer import render
from gns.integrations.nerfbaselines import GnsMethod, camera_of, scene_of
from gns.scene import Camera
from gns.testing.tiny import cameras_on_an_arc, grey_points, photographed, same_state, small_gaussians

OPTIONS = {"final_budget": "100", "iterations": "40", "sh_degree": 1, "threads": 1}


@dataclass
class Cameras:
    """The fields of nerfbaselines.Cameras that are read."""

    poses: Any
    intrinsics: Any
    camera_models: Any
    image_sizes: Any

    def __getitem__(self, index: int) -> Cameras:
        return Cameras(*(values[index] for values in vars(self).values()))

    def item(self) -> Cameras:
        return self


def cameras_like(cameras: list[Camera]) -> Cameras:
    return Cameras(
        np.stack([np.linalg.inv(camera.world_to_camera)[:3] for camera in cameras]).astype(np.float32),
        np.array([[camera.fx, camera.fy, camera.cx, camera.cy] for camera in cameras], np.float32),
        np.zeros(len(cameras), np.int32),
        np.array([[camera.width, camera.height] for camera in cameras], np.int32),
    )


def dataset(**changes: Any) -> dict[str, Any]:
    truth = small_gaussians(200, torch.Generator().manual_seed(0))
    cameras = [replace(camera, cx=17.0, cy=16.5) for camera in cameras_on_an_arc(4, 40, 30)]
    return {
        "cameras": cameras_like(cameras),
        "image_paths": [f"/data/images/{camera.name}" for camera in cameras],
        "image_paths_root": "/data/images",
        "images": [view.image.numpy() for view in photographed(truth, cameras)],
        "masks": None,
        "points3D_xyz": truth.means[::2].numpy(),
        "points3D_rgb": None,
        "metadata": {"color_space": "srgb"},
        **changes,
    }


def trained(steps: range, **given: Any) -> GnsMethod:
    method = GnsMethod(**given)
    for step in steps:
        method.train_iteration(step)
    return method


def test_resumed_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole = trained(range(40), train_dataset=dataset(), config_overrides=OPTIONS)
    trained(range(17), train_dataset=dataset(), config_overrides=OPTIONS).save(str(tmp_path / "first"))
    resumed = GnsMethod(checkpoint=str(tmp_path / "first"), train_dataset=dataset(), config_overrides=OPTIONS)
    assert resumed.get_info()["loaded_step"] == 17
    for step in range(17, 40):
        resumed.train_iteration(step)
    assert whole._state is not None and resumed._state is not None
    assert same_state(whole._state.state_dict(), resumed._state.state_dict())


def test_a_checkpoint_alone_renders_the_same_picture(tmp_path: Path) -> None:
    method = trained(range(20), train_dataset=dataset(), config_overrides=OPTIONS)
    camera = dataset()["cameras"][1]
    method.save(str(tmp_path / "first"))
    loaded = GnsMethod(checkpoint=str(tmp_path / "first"))
    np.testing.assert_array_equal(method.render(camera)["color"], loaded.render(camera)["color"])
    loaded.save(str(tmp_path / "second"))
    files = [path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    with pytest.raises(UserError, match="cannot be trained"):
        loaded.train_iteration(20)


def test_off_centre_cameras_see_what_the_photos_show() -> None:
    given = dataset()
    truth = small_gaussians(200, torch.Generator().manual_seed(0))
    for index in range(4):
        camera = camera_of(given["cameras"][index], "x")
        errors = [
            float(np.abs(255 * render(seen, truth, torch.zeros(3)).image.permute(1, 2, 0).numpy() - photo).mean())
            for seen in (camera, replace(camera, cx=camera.width / 2, cy=camera.height / 2))
            for photo in [given["images"][index]]
        ]
        # The poses are float32: a Gaussian at a threshold may be drawn here and not there.
        assert errors[0] < 0.3 and errors[1] > 5 * errors[0]


def test_blender_is_composed_on_white_and_drawn_on_white() -> None:
    clear = [np.dstack([image, np.zeros((30, 40), np.uint8)]) for image in dataset()["images"]]
    metadata = {"color_space": "srgb", "background_color": np.full(3, 255, np.uint8)}
    white = dataset(images=clear, metadata=metadata)
    assert all((view.image == 255).all() for view in scene_of(white).train)
    away = white["cameras"][0]
    away.poses[:, 3] += 100  # past the model
    color = GnsMethod(train_dataset=white, config_overrides=OPTIONS).render(away)["color"]
    assert (color == 1).all()


def test_masks_and_padded_photos() -> None:
    padded = np.zeros((4, 50, 60, 3), np.uint8)
    masks = np.zeros((4, 50, 60), bool)
    for index, image in enumerate(dataset()["images"]):
        padded[index, :30, :40] = image
        masks[index, :30, :20] = True
    views = scene_of(dataset(images=padded, masks=masks)).train
    for view, image in zip(views, dataset()["images"], strict=True):
        np.testing.assert_array_equal(view.image.numpy(), image)
        assert view.mask is not None and view.mask.shape == (30, 40)
        assert view.mask[:, :20].all() and not view.mask[:, 20:].any()


def test_what_cannot_be_is_refused_with_a_sentence() -> None:
    distorted = dataset()
    distorted["cameras"].camera_models[2] = 1
    with pytest.raises(UserError, match="no pinhole"):
        scene_of(distorted)
    with pytest.raises(UserError, match="color space"):
        scene_of(dataset(metadata={"color_space": "linear"}))
    with pytest.raises(UserError, match="nerfbaselines reads"):
        GnsMethod(train_dataset=dataset(), config_overrides={"resolution": "2"})
    with pytest.raises(UserError, match="next one is 0"):
        GnsMethod(train_dataset=dataset(), config_overrides=OPTIONS).train_iteration(1)


def test_depth_and_exported_arrays() -> None:
    method = GnsMethod(train_dataset=dataset(), config_overrides=OPTIONS)
    pictures = method.render(dataset()["cameras"][0], options={"outputs": ("depth", "accumulation")})
    assert set(pictures) == {"depth", "accumulation"}
    seen = pictures["depth"][pictures["accumulation"] > 0.5]
    assert len(seen) and seen.min() > 2 and seen.max() < 6  # a cube of side 2, four units away
    arrays = method.export_gaussian_splats()
    count = len(arrays["means"])
    assert arrays["spherical_harmonics"].shape == (count, 3, 4) and arrays["scales"].min() > 0
    np.testing.assert_allclose(np.linalg.norm(arrays["quaternions"], axis=1), 1, rtol=1e-6)
    assert len(grey_points(torch.from_numpy(arrays["means"])).positions) == count


def test_nerfbaselines_finds_the_method() -> None:
    nerfbaselines = pytest.importorskip("nerfbaselines", reason="nerfbaselines is not installed")
    spec = nerfbaselines.get_method_spec("gns")
    with nerfbaselines.build_method_class(spec, backend="python") as method:
        assert method.get_method_info()["method_id"] == "gns"
