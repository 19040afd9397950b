"""The judge is judged by hand-computed values, other libraries and a renderer that walks pixel by pixel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import lpmv
from torch import Tensor

from gns.gaussian_renderer import reference
from gns.gaussian_renderer.reference import render
from gns.scene import Camera, Gaussians
from gns.scene.gaussians import SH_C0
from gns.testing.comparison import BOTH, Outcome, evaluate, example, judgement, outside_band, trainable
from gns.testing.examples import (
    Example,
    camera_at,
    converted,
    gaussians_seen,
    joined,
    rows,
    smooth_example,
)

BLACK = torch.zeros(3, dtype=torch.float64)
Array = npt.NDArray[np.float64]


def plain_camera(width: int = 9, height: int = 7, focal: float = 10.0) -> Camera:
    """At the origin, looking along +z, the principal point at the centre of the pixel in the middle."""
    return Camera(width, height, focal, focal, width / 2, height / 2, np.eye(4), "plain")


def ball(
    position: tuple[float, float, float] = (0.0, 0.0, 2.0),
    *,
    scale: float = 0.2,
    opacity: float = 0.5,
    color: tuple[float, float, float] = (1.0, 0.5, 0.25),
) -> Gaussians:
    """One isotropic Gaussian of a colour that does not depend on the view."""
    return Gaussians(
        means=torch.tensor([position], dtype=torch.float64),
        log_scales=torch.full((1, 3), math.log(scale), dtype=torch.float64),
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64),
        opacity_logits=torch.tensor([math.log(opacity / (1 - opacity))], dtype=torch.float64),
        sh_dc=(torch.tensor([[color]], dtype=torch.float64) - 0.5) / SH_C0,
        sh_rest=torch.zeros(1, 0, 3, dtype=torch.float64),
    )


# ---- values ----------------------------------------------------------------------------------------------------------


def test_one_ball_has_the_alpha_computed_by_hand() -> None:
    output = render(plain_camera(), ball(), torch.tensor([0.0, 0.0, 1.0]), edges=torch.full((7, 9), 2.0))
    variance = (10 * 0.2 / 2) ** 2 + 0.3  # on the optical axis the Jacobian is focal / depth on both axes
    expected = 0.5 * math.exp(-0.5 * (2**2 + 1**2) / variance)
    assert output.alpha[3, 4].item() == pytest.approx(0.5, abs=1e-15)
    assert output.alpha[4, 6].item() == pytest.approx(expected, abs=1e-15)
    assert output.image[:, 4, 6].tolist() == pytest.approx([expected, expected * 0.5, 1 - 0.75 * expected], abs=1e-15)
    assert output.importance is not None
    assert output.importance.item() == pytest.approx(2 * output.alpha.sum().item())
    assert output.radii.item() == pytest.approx(math.sqrt(2 * math.log(255 * 0.5) * variance))


def test_the_nearer_of_two_lies_in_front_whatever_their_order() -> None:
    near = ball((0, 0, 1.5), opacity=0.75, color=(1.0, 0.0, 0.0))
    far = ball((0, 0, 3.0), opacity=0.5, color=(0.0, 1.0, 0.0))
    for pair in (joined(near, far), joined(far, near)):
        image = render(plain_camera(), pair, torch.ones(3)).image
        assert image[:, 3, 4].tolist() == pytest.approx([0.75 + 0.125, 0.125 + 0.125, 0.125], abs=1e-14)


def test_of_equal_depths_the_lower_index_lies_in_front() -> None:
    red, green = ball(color=(1.0, 0.0, 0.0)), ball(color=(0.0, 1.0, 0.0))
    assert render(plain_camera(), joined(red, green), BLACK).image[:2, 3, 4].tolist() == pytest.approx([0.5, 0.25])
    assert render(plain_camera(), joined(green, red), BLACK).image[:2, 3, 4].tolist() == pytest.approx([0.25, 0.5])


def test_principal_point_moves_the_picture() -> None:
    camera = plain_camera()
    image = render(camera, ball(), BLACK).image
    moved = render(replace(camera, cx=camera.cx + 2, cy=camera.cy - 1), ball(), BLACK).image
    torch.testing.assert_close(moved[:, :-1, 2:], image[:, 1:, :-2], rtol=0, atol=1e-15)


def walk(scene: Example) -> Outcome:
    """The example drawn pixel by pixel and Gaussian by Gaussian in plain Python, from the projected splats."""
    degree = scene.gaussians.sh_degree if scene.sh_degree is None else scene.sh_degree
    splats = reference.visible_splats(scene.camera, scene.gaussians, degree)
    conics = torch.linalg.inv(splats.covariances).numpy()
    means, opacities, colors = splats.means.numpy(), splats.opacities.numpy(), splats.colors.numpy()
    height, width = scene.camera.height, scene.camera.width
    image, alphas = np.zeros((3, height, width)), np.zeros((height, width))
    importance = np.zeros(len(scene.gaussians))
    for row in range(height):
        for column in range(width):
            color, transmittance = np.zeros(3), 1.0
            for i, index in enumerate(splats.ids.tolist()):
                offset = means[i] - (column + 0.5, row + 0.5)
                alpha = min(0.99, opacities[i] * math.exp(-0.5 * offset @ conics[i] @ offset))
                if alpha < 1 / 255:
                    continue
                if transmittance * (1 - alpha) < 1e-4:
                    break
                color += transmittance * alpha * colors[i]
                importance[index] += transmittance * alpha * scene.edges[row, column].item()
                transmittance *= 1 - alpha
            image[:, row, column] = color + transmittance * scene.background.numpy()
            alphas[row, column] = 1 - transmittance
    return Outcome(torch.from_numpy(image), torch.from_numpy(alphas), torch.empty(0), torch.from_numpy(importance), {})


@pytest.mark.parametrize("name", ["16x16, degree 1", "opaque stacks", "active degree 1 of 3", "equal depths"])
def test_dense_blending_equals_a_walk_along_each_pixel(name: str) -> None:
    inside = outside_band(name)
    walked, dense = walk(replace(example(name), edges=example(name).edges * inside)), judgement(name)
    torch.testing.assert_close(dense.image * inside, walked.image * inside, rtol=0, atol=1e-12)
    torch.testing.assert_close(dense.alpha * inside, walked.alpha * inside, rtol=0, atol=1e-12)
    torch.testing.assert_close(dense.importance, walked.importance, rtol=0, atol=1e-12)


def test_chunks_of_pixels_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "33x47, degree 2"
    whole = judgement(name)
    monkeypatch.setattr(reference, "_PAIRS_AT_ONCE", 9_999)
    chunked = evaluate(render, example(name), torch.float64, outside_band(name))
    torch.testing.assert_close(chunked.image, whole.image, rtol=0, atol=1e-13)
    torch.testing.assert_close(chunked.importance, whole.importance, rtol=1e-12, atol=0)
    for group, gradient in whole.gradients.items():
        torch.testing.assert_close(chunked.gradients[group], gradient, rtol=1e-9, atol=1e-9)


# ---- parts -----------------------------------------------------------------------------------------------------------


def test_sh_basis_is_the_real_spherical_harmonics_with_condon_shortley_phase() -> None:
    directions = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    x, y, z = directions.T.numpy()
    azimuth = np.arctan2(y, x)
    expected: list[Array] = []
    for band in range(4):
        for order in range(-band, band + 1):
            m = abs(order)
            norm = math.sqrt((2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m))
            turn = 1.0 if m == 0 else math.sqrt(2) * (np.sin(m * azimuth) if order < 0 else np.cos(m * azimuth))
            expected.append(norm * turn * lpmv(m, band, z))
    basis = reference.sh_basis(directions, 3).numpy()
    np.testing.assert_allclose(basis, np.stack(expected, axis=1), atol=1e-14)


def test_colour_is_clamped_at_zero_without_gradient() -> None:
    dc = torch.tensor([[[-5.0, 0.0, 5.0]]], dtype=torch.float64, requires_grad=True)
    color = reference.sh_colors(torch.tensor([[0.0, 0.0, 1.0]]).double(), dc, 0)
    torch.autograd.backward(color.sum())
    assert color.tolist() == [pytest.approx([0.0, 0.5, 0.5 + 5 * SH_C0])]
    assert dc.grad is not None and dc.grad.flatten().tolist() == pytest.approx([0.0, SH_C0, SH_C0])


def test_rotation_matrices_agree_with_scipy() -> None:
    quats = torch.randn(20, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = Rotation.from_quat(quats.numpy()[:, [1, 2, 3, 0]]).as_matrix()
    np.testing.assert_allclose(reference.rotation_matrices(quats).numpy(), expected, atol=1e-14)
    assert torch.equal(reference.rotation_matrices(torch.zeros(1, 4))[0], torch.eye(3))


def test_projected_covariance_is_that_of_projected_samples() -> None:
    camera = camera_at(40, 30, seed=4)
    gaussians = gaussians_seen(camera, 6, size=(0.3, 1.0), margin=-0.1, seed=2)
    splats = reference.project(camera, gaussians, torch.arange(6), 0)
    generator = torch.Generator().manual_seed(3)
    for i in range(6):
        turn = torch.from_numpy(Rotation.from_quat(gaussians.quats[i, [1, 2, 3, 0]].numpy()).as_matrix())
        noise = torch.randn(200_000, 3, generator=generator, dtype=torch.float64) * gaussians.log_scales[i].exp()
        points = (gaussians.means[i] + noise @ turn.T) @ torch.from_numpy(camera.rotation).T
        x, y, z = (points + torch.from_numpy(camera.translation)).T
        seen = torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy])
        expected = torch.cov(seen) + 0.3 * torch.eye(2)
        torch.testing.assert_close(splats.covariances[i], expected, rtol=0.02, atol=0.01)
        torch.testing.assert_close(splats.means[i], seen.mean(dim=1), rtol=0, atol=0.02)


def test_jacobian_is_the_derivative_of_the_projection_inside_the_margin() -> None:
    camera = camera_at(40, 30)
    view = torch.tensor([[0.3, -0.4, 2.0], [-0.9, 0.5, 1.7]], dtype=torch.float64)

    def position(point: Tensor) -> Tensor:
        return torch.stack([camera.fx * point[0] / point[2], camera.fy * point[1] / point[2]])

    expected = torch.stack([torch.autograd.functional.jacobian(position, point) for point in view])  # type: ignore[no-untyped-call]
    torch.testing.assert_close(reference.projection_jacobians(camera, view), expected)


def test_jacobian_beyond_the_margin_is_clamped_and_differentiated_as_published() -> None:
    camera = camera_at(40, 30)
    x, y, z = -7.0, 0.3, 2.0
    view = torch.tensor([[x, y, z]], dtype=torch.float64, requires_grad=True)
    jacobian = reference.projection_jacobians(camera, view)
    tx = -1.3 * 0.5 * 40 / camera.fx * z
    fx, fy = camera.fx, camera.fy
    expected = [[fx / z, 0.0, -fx * tx / z**2], [0.0, fy / z, -fy * y / z**2]]
    torch.testing.assert_close(jacobian[0], torch.tensor(expected, dtype=torch.float64))

    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad((jacobian[0] * weights).sum(), view)
    by_x = 0.0
    by_y = -fy / z**2 * 6
    by_z = -fx / z**2 * 1 - fy / z**2 * 5 + 2 * fx * tx / z**3 * 3 + 2 * fy * y / z**3 * 6
    assert gradient[0].tolist() == pytest.approx([by_x, by_y, by_z])


# ---- who is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gaussian", "drawn"),
    [
        (ball((0, 0, 0.21), scale=0.01), True),
        (ball((0, 0, 0.2), scale=0.01), False),
        (ball((0, 0, -2)), False),
        (ball(opacity=1.001 / 255), True),
        (ball(opacity=0.999 / 255), False),
        (ball((0.1, 0.1, 2), scale=0.001, opacity=1.1 / 255), False),  # between four pixel centres, too small for any
        (ball((0.1, 0.1, 2), scale=0.001, opacity=0.5), True),
        (ball((1.4, 0, 2)), True),
        (ball((1.4, 0, 2), opacity=0.01), False),
    ],
)
def test_drawn_means_in_front_opaque_enough_and_around_a_pixel_centre(gaussian: Gaussians, drawn: bool) -> None:
    assert bool(render(plain_camera(), gaussian, BLACK).radii > 0) is drawn


def test_an_edge_of_the_box_on_a_pixel_centre_counts() -> None:
    opacity, variance = 0.5, 0.3
    extent = math.sqrt(2 * math.log(255 * opacity) * variance)
    for nudge, drawn in ((1e-9, False), (-1e-9, True)):
        u = -(extent - 0.5) + (-nudge)  # the right edge of the box lies at u + extent, the first centre at 0.5
        x = (u - 4.5) / 10 * 2
        gaussian = ball((x, 0, 2), scale=1e-9, opacity=opacity)
        assert bool(render(plain_camera(), gaussian, BLACK).radii > 0) is drawn


def test_radius_is_the_longest_extent_of_the_visible_ellipse() -> None:
    camera = camera_at(40, 30, seed=7)
    gaussians = gaussians_seen(camera, 5, seed=1, margin=-0.2)
    splats = reference.visible_splats(camera, gaussians, 3)
    radii = render(camera, gaussians, BLACK).radii
    angles = torch.linspace(0, math.pi, 20_001, dtype=torch.float64)
    around = torch.stack([angles.cos(), angles.sin()], dim=1)
    for i, index in enumerate(splats.ids.tolist()):
        falling = (around @ torch.linalg.inv(splats.covariances[i]) * around).sum(dim=1)
        extent = torch.sqrt(2 * torch.log(255 * splats.opacities[i]) / falling).max()
        assert radii[index].item() == pytest.approx(extent.item(), rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("group", ["means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest"])
def test_a_gaussian_that_is_not_finite_is_not_drawn(group: str, value: float) -> None:
    camera = camera_at(20, 15)
    gaussians = gaussians_seen(camera, 10, margin=-0.1)
    getattr(gaussians, group)[3].view(-1)[-1] = value
    others = torch.tensor([i for i in range(10) if i != 3])
    spoilt = trainable(gaussians, torch.float64)
    output = render(camera, spoilt, BLACK)
    torch.autograd.backward(output.image.sum())
    assert output.radii[3] == 0
    assert torch.equal(output.image, render(camera, rows(gaussians, others), BLACK).image)
    for _, values in spoilt.named_tensors():
        assert values.grad is not None and torch.isfinite(values.grad).all() and not values.grad[3].any()


# ---- derivatives -----------------------------------------------------------------------------------------------------


def test_gradients_equal_finite_differences_away_from_the_cut_offs() -> None:
    scene = smooth_example()

    def drawn(*groups: Tensor) -> tuple[Tensor, Tensor]:
        output = render(scene.camera, Gaussians(*groups), scene.background)
        return output.image, output.alpha

    groups = [values for _, values in trainable(scene.gaussians, torch.float64).named_tensors()]
    assert torch.autograd.gradcheck(drawn, groups, fast_mode=True, check_undefined_grad=False)


def test_the_cap_passes_the_gradient_as_if_absent() -> None:
    gaussians = trainable(ball(opacity=0.999, color=(0.75, 0.0, 0.0)), torch.float64)
    output = render(plain_camera(), gaussians, BLACK)
    red = output.image[0, 3, 4]
    torch.autograd.backward(red)
    assert red.item() == pytest.approx(0.75 * 0.99, abs=1e-15)
    assert gaussians.opacity_logits.grad is not None
    assert gaussians.opacity_logits.grad.item() == pytest.approx(0.75 * 0.999 * 0.001)


def test_screen_gradients_are_the_sums_of_pixel_gradients() -> None:
    camera, gaussians = plain_camera(), ball((0.05, -0.07, 2.0))
    weights = torch.randn(3, 7, 9, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def pixel_losses(dx: float, dy: float) -> Tensor:
        moved = replace(camera, cx=camera.cx + dx, cy=camera.cy + dy)  # moves the 2D mean and nothing else
        return (render(moved, gaussians, BLACK).image * weights).sum(dim=0)

    step = 1e-5
    by_u = (pixel_losses(step, 0) - pixel_losses(-step, 0)) / (2 * step)
    by_v = (pixel_losses(0, step) - pixel_losses(0, -step)) / (2 * step)
    output = render(camera, trainable(gaussians, torch.float64), BLACK, screen_gradients=BOTH)
    assert not output.abs_grad.any() and not output.signed_grad.any()
    torch.autograd.backward((output.image * weights).sum())
    expected = [by_u.abs().sum().item() * 4.5, by_v.abs().sum().item() * 3.5]
    assert output.abs_grad[0].tolist() == pytest.approx(expected, rel=1e-7)
    expected = [by_u.sum().item() * 4.5, by_v.sum().item() * 3.5]
    assert output.signed_grad[0].tolist() == pytest.approx(expected, rel=1e-7)


def test_active_degree_ignores_higher_coefficients() -> None:
    scene = example("active degree 1 of 3")
    cut = converted(scene.gaussians, torch.float64)
    cut.sh_rest = cut.sh_rest[:, :3]
    expected = render(scene.camera, cut, scene.background).image
    assert torch.equal(render(scene.camera, scene.gaussians, scene.background, sh_degree=1).image, expected)
    with pytest.raises(ValueError, match="sh_degree is 2"):
        render(scene.camera, cut, scene.background, sh_degree=2)


# ---- the examples and the boundary band ------------------------------------------------------------------------------


@pytest.mark.parametrize(("nudge", "doubtful"), [(5e-6, True), (-5e-6, True), (1e-4, False), (-1e-4, False)])
def test_band_holds_pixels_at_the_faintness_limit(nudge: float, doubtful: bool) -> None:
    # The pixel lies at a corner of the Gaussian's bounding box, so that the Gaussian counts as drawn on either side.
    offset = math.sqrt(1.3 * math.log(0.5 * 255 / (1 + nudge)))
    camera = replace(plain_camera(1, 1), cx=0.5 + offset, cy=0.5 + offset)
    assert bool(reference.near_cutoff(camera, ball())) is doubtful


@pytest.mark.parametrize(("nudge", "doubtful"), [(5e-5, True), (-5e-5, True), (1e-3, False), (-1e-3, False)])
def test_band_holds_pixels_at_the_end_of_transmittance(nudge: float, doubtful: bool) -> None:
    stack = joined(ball((0, 0, 2), opacity=0.98), joined(ball((0, 0, 3), opacity=0.9), ball((0, 0, 4), opacity=0.95)))
    stack.opacity_logits[2] = torch.logit(1 - 1e-4 * (1 + nudge) / (0.02 * 0.1 * torch.ones((), dtype=torch.float64)))
    assert bool(reference.near_cutoff(plain_camera(1, 1), stack)) is doubtful


def test_examples_are_what_their_names_say() -> None:
    def alphas(name: str) -> tuple[Tensor, Tensor]:
        scene = example(name)
        splats = reference.visible_splats(scene.camera, scene.gaussians, scene.gaussians.sh_degree)
        pixels = reference.pixel_centers(scene.camera)
        full = reference.falloff(splats, splats.means, pixels)
        return full, reference.contributions(splats, splats.means, pixels)

    for name in ("no Gaussians", "all outside the view", "all behind"):
        assert not judgement(name).radii.any()
    assert (judgement("2000 in one tile").radii > 0).sum() == 2000
    assert (alphas("one giant")[0] > 1 / 255).all()
    full, kept = alphas("opaque stacks")
    assert (full > 0.99).any() and (kept == 0.99).any()
    assert ((full > 1 / 255) & (kept == 0)).any(), "no pixel ends early"
    wide = example("beyond the frustum margin")
    view = wide.gaussians.means @ torch.from_numpy(wide.camera.rotation).T + torch.from_numpy(wide.camera.translation)
    slope = (view[:, 0] / view[:, 2]).abs() / (0.5 * wide.camera.width / wide.camera.fx)
    assert ((slope > 1.3) & (judgement("beyond the frustum margin").radii > 0)).sum() >= 3
    colours = reference.visible_splats(
        example("130x70, degree 3").camera, example("130x70, degree 3").gaussians, 3
    ).colors
    assert (colours == 0).any() and (colours > 0).any()
    assert len(set(example("equal depths").gaussians.means[:, 2].tolist())) == 3

    smooth = smooth_example()
    splats = reference.visible_splats(smooth.camera, smooth.gaussians, 3)
    alpha = reference.falloff(splats, splats.means, reference.pixel_centers(smooth.camera))
    assert len(splats.ids) == 4 and alpha.min() > 0.1 and alpha.max() < 0.9 and splats.colors.min() > 0.1
