"""Scenes in small units and far from the origin: the frame they are trained in, and the way back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gns.errors import UserError
from gns.gaussian_renderer import importance, render
from gns.scene import Camera, Gaussians, PointCloud
from gns.scene.frame import WORLD, LocalFrame, frame_for
from gns.scene.ply import load_ply, offset_path, save_ply, save_points
from gns.testing.tiny import cameras_on_an_arc, small_gaussians
from gns.utils.ply_file import read_comments, read_table

UTM = (448262.0, 5411932.0, 120.0)
FRAMES = {
    "small": LocalFrame(scale=2.0**-14),
    "far": LocalFrame(UTM),
    "small and far": LocalFrame((1e7, 1e7, -1e7), 2.0**-10),
}


@pytest.fixture(params=FRAMES)
def frame(request: pytest.FixtureRequest) -> LocalFrame:
    return FRAMES[request.param]


def model() -> Gaussians:
    return small_gaussians(300, torch.Generator().manual_seed(1), spread=0.5)


def world_camera(local: Camera, frame: LocalFrame) -> Camera:
    """The camera in the world that `local` is in the frame."""
    pose = local.world_to_camera.copy()
    pose[:3, 3] = frame.scale * local.translation - local.rotation @ np.array(frame.offset)
    return replace(local, world_to_camera=pose)


def test_which_scenes_get_a_frame() -> None:
    centers = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    assert frame_for(centers, 1.0) == WORLD
    assert frame_for(1e4 * centers, 1e4) == WORLD
    assert frame_for(centers + 60, 1.0) == WORLD
    far = frame_for(centers + 100, 1.0)
    assert far.scale == 1 and np.abs(np.array(far.offset) - 100).max() < 2


@pytest.mark.parametrize("exponent", range(1, 40, 3))
def test_small_scenes_become_of_usual_size_by_a_power_of_two(exponent: int) -> None:
    centers = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    for size in (1.0, 1.3, 1.99):
        extent = size * 2.0**-exponent
        scale = frame_for(centers * extent, extent).scale
        assert 4 <= extent / scale < 8
        assert math.frexp(scale)[0] == 0.5


def test_a_stray_camera_does_not_move_the_frame() -> None:
    centers = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    centers[7] = 1e9
    assert frame_for(centers, 1.0) == WORLD


def test_positions_and_cameras_see_the_same(frame: LocalFrame) -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3))
    local = cameras_on_an_arc(3, 40, 30)[2]
    camera = frame.camera(world_camera(local, frame))
    np.testing.assert_allclose(camera.world_to_camera, local.world_to_camera, atol=1e-4)
    world = frame.scale * points + np.array(frame.offset)
    np.testing.assert_allclose(frame.positions(world), points, atol=1e-4)
    assert camera.fx == local.fx and camera.name == local.name


def test_the_world_is_handed_through() -> None:
    gaussians, camera, points = model(), cameras_on_an_arc(1, 40, 30)[0], np.zeros((1, 3))
    assert gaussians.in_world(WORLD) is gaussians and gaussians.local() is gaussians
    assert WORLD.camera(camera) is camera and WORLD.positions(points) is points


def test_a_model_goes_to_the_world_and_back(frame: LocalFrame) -> None:
    local = model()
    world = local.in_world(frame)
    np.testing.assert_allclose(world.log_scales.exp() / frame.scale, local.log_scales.exp(), rtol=1e-5)
    expected = frame.scale * local.means.double() + torch.tensor(frame.offset, dtype=torch.float64)
    np.testing.assert_allclose(world.means, expected, rtol=1e-15)
    back = world.local()
    assert back.frame == WORLD and back.means.dtype == torch.float32
    # A double has 53 bits, of which (1e7 / 2^-10 as long as a Gaussian's cube) 34 go to the offset.
    np.testing.assert_allclose(back.means, local.means, atol=2e-6)
    np.testing.assert_allclose(back.log_scales, local.log_scales, atol=2e-6)


def test_float32_where_it_is_enough() -> None:
    """To a tenth of the smallest Gaussians, of which a hundredth does not count."""
    local = model()
    local.log_scales[:] = math.log(0.01)
    near, far = LocalFrame((10_000.0, 0.0, 0.0)), LocalFrame((20_000.0, 0.0, 0.0))  # rounded to 0.0006 and 0.0012
    assert local.in_world(near).means.dtype == torch.float32
    assert local.in_world(far).means.dtype == torch.float64
    local.log_scales[0] = -30
    assert local.in_world(near).means.dtype == torch.float32
    local.log_scales[:30] = -30
    assert local.in_world(near).means.dtype == torch.float64
    assert len(local.rows(torch.arange(0)).in_world(near)) == 0


def test_drawn_as_in_the_frame(frame: LocalFrame) -> None:
    local, camera = model(), cameras_on_an_arc(3, 40, 30)[0]
    expected = render(camera, local, (0, 0, 0)).image
    world, there = local.in_world(frame), world_camera(camera, frame)
    np.testing.assert_allclose(render(there, world, (0, 0, 0)).image, expected, atol=1e-3)
    assert expected.std() > 0.1
    edges = torch.ones(30, 40)
    np.testing.assert_allclose(importance(there, world, edges), importance(camera, local, edges), rtol=1e-2, atol=1e-2)
    without = replace(world, frame=WORLD, means=world.means.float())
    assert (render(there, without, (0, 0, 0)).image - expected).abs().max() > 0.1


def test_gradients_pass_through_the_frame(frame: LocalFrame) -> None:
    world = model().in_world(frame)
    world.opacity_logits.requires_grad_()
    camera = world_camera(cameras_on_an_arc(3, 40, 30)[0], frame)
    render(camera, world, (0, 0, 0)).image.sum().backward()  # type: ignore[no-untyped-call]
    assert world.opacity_logits.grad is not None and world.opacity_logits.grad.abs().max() > 0


def test_copies_keep_the_frame(frame: LocalFrame) -> None:
    world = model().in_world(frame)
    assert world.to(torch.device("cpu")).frame == frame
    assert world.rows(torch.tensor([3, 1])).frame == frame


def test_files_hold_what_float32_cannot(frame: LocalFrame, tmp_path: Path) -> None:
    local = model()
    path = tmp_path / "model.ply"
    save_ply(local.in_world(frame), path)
    loaded = load_ply(path)
    assert loaded.frame == frame
    np.testing.assert_allclose(loaded.local().means, local.means, atol=2e-6)
    np.testing.assert_allclose(loaded.local().log_scales, local.log_scales, atol=4e-6)
    table = read_table(path)
    if frame.offset == (0, 0, 0):
        np.testing.assert_array_equal(table["x"], frame.scale * local.means[:, 0].numpy())
        assert not offset_path(path).exists()
    else:
        np.testing.assert_allclose(table["x"], frame.scale * local.means[:, 0].numpy(), atol=2e-6)
        assert json.loads(offset_path(path).read_text())["offset"] == list(frame.offset)
        assert f"offset {frame.offset[0]!r} {frame.offset[1]!r} {frame.offset[2]!r}" in read_comments(path)


def test_the_offset_outlives_a_program_that_drops_comments(tmp_path: Path) -> None:
    frame, path = FRAMES["far"], tmp_path / "model.ply"
    save_ply(model().in_world(frame), path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(line for line in lines if not line.startswith(b"comment")))
    loaded = load_ply(path)
    assert loaded.frame == WORLD
    np.testing.assert_allclose(replace(loaded, frame=frame).local().means, model().means, atol=1e-6)


def test_an_old_offset_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "model.ply"
    save_ply(model().in_world(FRAMES["far"]), path)
    save_ply(model(), path)
    assert not offset_path(path).exists()
    assert torch.equal(load_ply(path).means, model().means)


@pytest.mark.parametrize("comment", [b"frame 1 2 3", b"frame 0 0 0 x", b"offset 1 2"])
def test_a_damaged_comment_is_refused(tmp_path: Path, comment: bytes) -> None:
    path = tmp_path / "model.ply"
    save_ply(model(), path)
    path.write_bytes(path.read_bytes().replace(b"element", b"comment " + comment + b"\nelement", 1))
    with pytest.raises(UserError, match="does not say where it lies"):
        load_ply(path)


def test_initial_points_far_away(tmp_path: Path) -> None:
    points = PointCloud(np.array(UTM) + np.random.default_rng(0).uniform(size=(9, 3)), np.zeros((9, 3), np.uint8))
    save_points(points, tmp_path / "input.ply", UTM)
    table = read_table(tmp_path / "input.ply")
    np.testing.assert_allclose(table["y"] + np.float64(UTM[1]), points.positions[:, 1], atol=1e-6)
    assert (tmp_path / "input.offset.json").exists()
