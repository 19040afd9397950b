"""The check against foreign viewers: its renderer follows their rules, and its mistakes are the ones it names."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import clients
from gns.errors import UserError
from gns.gaussian_renderer import reference
from gns.scene import Camera, Gaussians
from gns.scene.ply import save_ply
from gns.utils.ply_file import read_table


def camera(width: int = 40, height: int = 30) -> Camera:
    return Camera(width, height, 35.0, 35.0, width / 2, height / 2, np.eye(4), "view.png")


def some_gaussians(count: int, opacity: float, seed: int = 0) -> Gaussians:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Gaussians(
        means=0.5 * normal(count, 3) + torch.tensor([0.0, 0.0, 3.0]),
        log_scales=math.log(0.08) + 0.5 * normal(count, 3),
        quats=normal(count, 4),
        opacity_logits=torch.full((count,), math.log(opacity / (1 - opacity)), dtype=torch.float64),
        sh_dc=normal(count, 1, 3),
        sh_rest=0.2 * normal(count, 15, 3),
    )


def centred_stack(opacities: list[float]) -> Gaussians:
    """Wide grey Gaussians on the axis, one behind the other."""
    count = len(opacities)
    return Gaussians(
        means=torch.tensor([[0.0, 0.0, 2.0 + k] for k in range(count)], dtype=torch.float64),
        log_scales=torch.full((count, 3), math.log(0.3), dtype=torch.float64),
        quats=torch.tensor([[1.0, 0, 0, 0]] * count, dtype=torch.float64),
        opacity_logits=torch.logit(torch.tensor(opacities, dtype=torch.float64)),
        sh_dc=torch.zeros(count, 1, 3, dtype=torch.float64),
        sh_rest=torch.zeros(count, 0, 3, dtype=torch.float64),
    )


def test_without_its_ending_the_client_draws_what_the_reference_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    # Below an opacity of e^4.5 / 255 the client's box at 3 σ cuts nothing that α ≥ 1/255 would keep.
    gaussians = some_gaussians(60, opacity=0.3)
    monkeypatch.setattr(clients, "GAUSSIAN_FLOOR", 0.0)
    truth = reference.render(camera(), gaussians, torch.zeros(3)).image.permute(1, 2, 0)
    expected = (truth.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy()
    np.testing.assert_array_equal(clients.client_picture(camera(), gaussians), expected)
    assert expected.std() > 10


def test_the_ending_darkens_a_gaussian_by_what_it_subtracts() -> None:
    gaussians = centred_stack([0.8])
    picture = clients.client_picture(camera(), gaussians)
    # Variance in pixels: (0.3 · 35 / 2)² + 0.3; pixel (23, 15) lies (3.5, 0.5) from the centre. Colour 0.5.
    variance = (0.3 * 35 / 2) ** 2 + 0.3
    alpha = 0.8 * (math.exp(-0.5 * (3.5**2 + 0.5**2) / variance) - math.exp(-4.5))
    assert picture[15, 23, 0] == int(0.5 * alpha * 255 + 0.5)


def test_a_pixel_ends_after_the_gaussian_that_exhausts_it() -> None:
    # With α = 0.987 each, T falls to 0.013, 1.7e-4 and 2.2e-6. The client looks at T before it adds a Gaussian: the
    # third is still drawn, although it ends below 1e-4, and the fourth is not.
    for position, drawn in ((1, True), (2, True), (3, False)):
        stack = centred_stack([0.9999] * 4)
        stack.sh_dc[:] = -5.0  # black
        stack.sh_dc[position] = 2e4  # so glaring that a weight of 1e-4 shows
        assert bool(clients.client_picture(camera(), stack)[15, 20].max() > 100) is drawn


def test_gaussians_wider_than_the_picture_fade() -> None:
    covariances = torch.diag_embed(torch.tensor([[1.0, 4.0], [40.0**2, 1.0], [90.0**2, 1.0]], dtype=torch.float64))
    radii, fade = clients._client_radii(covariances, height=100)
    start, end = 100 * 1024 / 1080, 100 * 2048 / 1080
    assert radii.tolist() == [6, 120, math.ceil(end)]
    assert fade.tolist() == pytest.approx([1, (end - 120) / (end - start), 0])


def test_planted_rotation_is_stored_x_y_z_w(tmp_path: Path) -> None:
    gaussians = some_gaussians(5, 0.5)
    save_ply(clients.with_rotated_quaternions(gaussians), tmp_path / "model.ply")
    table = read_table(tmp_path / "model.ply")
    stored = np.stack([table[f"rot_{k}"] for k in range(4)], axis=1)
    w, x, y, z = gaussians.quats.float().unbind(dim=1)
    np.testing.assert_array_equal(stored, torch.stack([x, y, z, w], dim=1).numpy())


def test_planted_harmonics_are_stored_colour_by_colour(tmp_path: Path) -> None:
    gaussians = some_gaussians(5, 0.5)
    save_ply(clients.with_interleaved_harmonics(gaussians), tmp_path / "model.ply")
    table = read_table(tmp_path / "model.ply")
    stored = np.stack([table[f"f_rest_{k}"] for k in range(45)], axis=1)
    np.testing.assert_array_equal(stored, gaussians.sh_rest.float().reshape(5, 45).numpy())


def test_camera_is_turned_with_the_model() -> None:
    turned = np.eye(4)
    turned[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]  # rolled by 90°: the world's x points down in the picture
    turned[:3, 3] = -turned[:3, :3] @ [1.0, 2.0, -3.0]
    view = Camera(96, 60, 40.0, 40.0, 48.0, 30.0, turned, "view.png")
    options = dict(option.split("=") for option in clients.camera_options(view))
    vectors = {name: [float(value) for value in text.split(",")] for name, text in options.items() if "," in text}
    assert vectors["--camera"] == pytest.approx([-1, -2, -3])
    assert vectors["--look-at"] == pytest.approx([-1, -2, -2])
    # Down in the picture is world +x, so up is −x, and +x after the turn.
    assert vectors["--up"] == pytest.approx([1, 0, 0])
    assert float(options["--fov"]) == pytest.approx(2 * math.degrees(math.atan(30 / 40)))
    assert options["--resolution"] == "96x60"


def test_cameras_json_is_read_and_its_faults_are_sentences(tmp_path: Path) -> None:
    angle = np.cos(0.3), np.sin(0.3)
    to_world = [[angle[0], 0, angle[1]], [0, 1, 0], [-angle[1], 0, angle[0]]]
    record = {"img_name": "a.png", "width": 64, "height": 48, "position": [1, 2, 3], "rotation": to_world}
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps([{**record, "fx": 51.0, "fy": 50.0}]))
    view = clients.read_camera(path, 0)
    np.testing.assert_allclose(view.center, [1, 2, 3])
    np.testing.assert_allclose(view.rotation, np.array(to_world).T)
    assert (view.fx, view.fy, view.cx, view.cy) == (50, 50, 32, 24)
    with pytest.raises(UserError, match="no view 1"):
        clients.read_camera(path, 1)
    with pytest.raises(UserError, match="--cameras"):
        clients.read_camera(tmp_path / "missing.json", 0)


def test_psnr_of_one_level() -> None:
    a = np.full((4, 4, 3), 100, np.uint8)
    assert clients.psnr(a, a) == math.inf
    assert clients.psnr(a, a + 1) == pytest.approx(20 * math.log10(255))


def test_wrong_values_are_counted() -> None:
    summary = "\n".join(
        [
            "**Row Count:** 3",
            "| Column | min | nans | infs | histogram |",
            "|--------|-----|------|------|-----------|",
            "| x      | 0   | 0    | 2    | ▁▁        |",
            "| y      | 0   | 5    | 0    | ▁▁        |",
        ]
    )
    assert clients.wrong_values(summary) == 7
