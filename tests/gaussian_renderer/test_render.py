"""What the production renderer draws, against the reference and against properties that need none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import importance, reference, release_memory, render
from gns.gaussian_renderer.backends import backend_of
from gns.scene import Gaussians
from gns.scene.gaussians import SH_C0
from gns.testing.comparison import (
    Backend,
    Outcome,
    assert_close,
    assert_images_agree,
    assert_radii_agree,
    drawn,
    evaluate,
    example,
    judgement,
    outside_band,
    trainable,
)
from gns.testing.examples import (
    Example,
    camera_at,
    converted,
    example_of,
    gaussians_seen,
    joined,
    rows,
    to_world,
)

# ---- against the reference -------------------------------------------------------------------------------------------


def test_image_and_alpha_agree_with_the_reference(example_name: str, backend: Backend) -> None:
    inside = outside_band(example_name)
    assert_images_agree(drawn(example_name, backend), judgement(example_name), inside, backend)


def test_radii_agree_with_the_reference(example_name: str, backend: Backend) -> None:
    assert_radii_agree(drawn(example_name, backend).radii, judgement(example_name).radii, backend.gradient)


def test_importance_agrees_with_the_reference(example_name: str, backend: Backend) -> None:
    found, expected = drawn(example_name, backend).importance, judgement(example_name).importance
    assert_close(found, expected, backend.gradient, "importance")


def test_the_importance_pass_gives_the_bits_of_the_render(example_name: str, backend: Backend) -> None:
    scene = example(example_name)
    edges = (scene.edges * outside_band(example_name)).to(backend.dtype)
    alone = importance(scene.camera, converted(scene.gaussians, backend.dtype), edges)
    assert torch.equal(alone.double(), drawn(example_name, backend).importance)


# ---- planted errors: each comparison must be able to fail ------------------------------------------------------------


def changed(scene: Example, change: Callable[[Gaussians], None]) -> Example:
    gaussians = converted(scene.gaussians, torch.float64)
    change(gaussians)
    return replace(scene, gaussians=gaussians)


def one_opacity_by_one_percent(gaussians: Gaussians) -> None:
    gaussians.opacity_logits[7] = torch.logit(1.01 * torch.sigmoid(gaussians.opacity_logits[7]))


def quaternion_written_xyzw(gaussians: Gaussians) -> None:
    gaussians.quats[:] = gaussians.quats[:, [1, 2, 3, 0]]


def one_scale_by_one_percent(gaussians: Gaussians) -> None:
    gaussians.log_scales[7, 0] += 0.01


def first_band_x_and_y_swapped(gaussians: Gaussians) -> None:
    gaussians.sh_rest[:, [0, 2]] = gaussians.sh_rest[:, [2, 0]]


def sh_stored_channel_major(gaussians: Gaussians) -> None:
    shape = gaussians.sh_rest.shape
    gaussians.sh_rest[:] = gaussians.sh_rest.clone().reshape(shape[0], 3, shape[1]).mT


PLANTED_IN_THE_MODEL = [
    one_opacity_by_one_percent,
    quaternion_written_xyzw,
    one_scale_by_one_percent,
    first_band_x_and_y_swapped,
    sh_stored_channel_major,
]


@pytest.mark.parametrize("plant", PLANTED_IN_THE_MODEL)
def test_image_comparison_fails_on_a_changed_model(plant: Callable[[Gaussians], None], backend: Backend) -> None:
    name = "33x47, degree 2"
    inside = outside_band(name)
    wrong = evaluate(render, changed(example(name), plant), backend.dtype, inside)
    with pytest.raises(AssertionError):
        assert_images_agree(wrong, judgement(name), inside, backend)


def mirrored(scene: Example) -> Example:
    return replace(scene, camera=replace(scene.camera, cx=scene.camera.width - scene.camera.cx))


def principal_point_ignored(scene: Example) -> Example:
    return replace(scene, camera=replace(scene.camera, cx=scene.camera.width / 2, cy=scene.camera.height / 2))


def focal_lengths_swapped(scene: Example) -> Example:
    return replace(scene, camera=replace(scene.camera, fx=scene.camera.fy, fy=scene.camera.fx))


def half_a_pixel_off(scene: Example) -> Example:
    return replace(scene, camera=replace(scene.camera, cx=scene.camera.cx - 0.5, cy=scene.camera.cy - 0.5))


def background_written_bgr(scene: Example) -> Example:
    return replace(scene, background=scene.background.flip(0))


def all_degrees_active(scene: Example) -> Example:
    return replace(scene, sh_degree=3)


@pytest.mark.parametrize(
    "plant",
    [
        mirrored,
        principal_point_ignored,
        focal_lengths_swapped,
        half_a_pixel_off,
        background_written_bgr,
        all_degrees_active,
    ],
)
def test_image_comparison_fails_on_a_changed_view(plant: Callable[[Example], Example], backend: Backend) -> None:
    name = "active degree 1 of 3"
    inside = outside_band(name)
    wrong = evaluate(render, plant(example(name)), backend.dtype, inside)
    with pytest.raises(AssertionError):
        assert_images_agree(wrong, judgement(name), inside, backend)


def test_image_comparison_fails_on_a_wrong_alpha_nan_or_shape(backend: Backend) -> None:
    name = "16x16, degree 1"
    expected, inside = judgement(name), outside_band(name)

    def outcome(image: Tensor = expected.image, alpha: Tensor = expected.alpha) -> Outcome:
        return replace(expected, image=image, alpha=alpha)

    brighter, nan = expected.alpha.clone(), expected.image.clone()
    brighter[9, 3] += 2 * backend.image
    nan[1, 2, 3] = math.nan
    assert_images_agree(outcome(), expected, inside, backend)
    for wrong in (outcome(alpha=brighter), outcome(image=nan), outcome(image=expected.image[:1])):
        with pytest.raises(AssertionError):
            assert_images_agree(wrong, expected, inside, backend)


def test_radii_and_importance_comparisons_fail_on_one_percent(backend: Backend) -> None:
    expected = judgement("33x47, degree 2")
    radii, scores = expected.radii.clone(), expected.importance.clone()
    radii[radii.argmin() if radii.min() > 0 else radii.argmax()] *= 1.01
    scores[scores.argmax()] *= 1.01
    undrawn = expected.radii.clone()
    undrawn[undrawn.argmax()] = 0
    for wrong in (radii, undrawn):
        with pytest.raises(AssertionError):
            assert_radii_agree(wrong, expected.radii, backend.gradient)
    with pytest.raises(AssertionError):
        assert_close(scores, expected.importance, backend.gradient, "importance")


def test_importance_comparison_fails_on_transposed_edges(backend: Backend) -> None:
    name = "16x16, degree 1"
    scene = replace(example(name), edges=example(name).edges.T)
    wrong = evaluate(render, scene, backend.dtype, outside_band(name))
    with pytest.raises(AssertionError):
        assert_close(wrong.importance, judgement(name).importance, backend.gradient, "importance")


# ---- properties ------------------------------------------------------------------------------------------------------


def test_outputs_have_the_promised_shapes_and_dtype(backend: Backend) -> None:
    scene = example("33x47, degree 2")
    output = render(scene.camera, converted(scene.gaussians, backend.dtype), scene.background.to(backend.dtype))
    assert output.image.shape == (3, 47, 33) and output.image.dtype == backend.dtype
    assert output.alpha.shape == (47, 33) and output.alpha.dtype == backend.dtype
    assert output.radii.shape == (100,) and output.abs_grad.shape == (100, 2)
    assert output.importance is None
    assert not output.image.requires_grad


def test_kept_buffers_can_be_released() -> None:
    scene = example("33x47, degree 2")
    backend = backend_of(torch.device("cpu"))
    release_memory()
    kept = [backend.kept_bytes()]
    for dtype in (torch.float32, torch.float64):
        render(scene.camera, converted(scene.gaussians, dtype), scene.background.to(dtype))
        kept.append(backend.kept_bytes())
    assert 0 == kept[0] < kept[1] < kept[2]
    release_memory()
    assert backend.kept_bytes() == 0


def test_weights_and_the_transmittance_left_sum_to_one(backend: Backend) -> None:
    """White Gaussians on black show alpha; on white, an image that is white to the last bits."""
    scene = example("130x70, degree 3")
    white = converted(scene.gaussians, backend.dtype)
    white.sh_dc.fill_(0.5 / SH_C0)
    white.sh_rest.zero_()
    ones = torch.ones(scene.camera.height, scene.camera.width, dtype=backend.dtype)
    on_black = render(scene.camera, white, torch.zeros(3, dtype=backend.dtype), edges=ones)
    on_white = render(scene.camera, white, torch.ones(3, dtype=backend.dtype))
    assert_close(on_black.image, on_black.alpha.expand(3, -1, -1), backend.rounding, "image on black")
    assert_close(on_white.image, torch.ones_like(on_white.image), backend.rounding, "image on white")
    assert on_black.importance is not None
    assert_close(on_black.importance.sum(), on_black.alpha.sum(), 10 * backend.rounding, "sum of weights")


def test_permuted_gaussians_draw_the_same_bits(backend: Backend) -> None:
    scene = example("130x70, degree 3")
    gaussians, background = converted(scene.gaussians, backend.dtype), scene.background.to(backend.dtype)
    order = torch.randperm(len(gaussians), generator=torch.Generator().manual_seed(0))
    output = render(scene.camera, gaussians, background)
    permuted = render(scene.camera, rows(gaussians, order), background)
    assert torch.equal(permuted.image, output.image) and torch.equal(permuted.alpha, output.alpha)
    assert torch.equal(permuted.radii, output.radii[order])


def test_the_memory_layout_of_parameters_does_not_matter(backend: Backend) -> None:
    scene = example("33x47, degree 2")
    planes, background = converted(scene.gaussians, backend.dtype), scene.background.to(backend.dtype)
    by_row = Gaussians(*(values.contiguous().requires_grad_() for _, values in planes.named_tensors()))
    assert by_row.sh_rest.is_contiguous() and not planes.sh_rest.is_contiguous()
    image = render(scene.camera, by_row, background).image
    assert torch.equal(image, render(scene.camera, planes, background).image)


def test_gaussians_that_are_not_drawn_change_nothing(backend: Backend) -> None:
    scene = example("33x47, degree 2")
    hidden = gaussians_seen(scene.camera, 30, seed=11, sh_degree=2, depth=(-3.0, -1.0))
    faint = gaussians_seen(scene.camera, 30, seed=12, sh_degree=2, logits=(-9.0, -6.0))
    crowd = converted(joined(joined(hidden, scene.gaussians), faint), backend.dtype)
    alone = converted(scene.gaussians, backend.dtype)
    background = scene.background.to(backend.dtype)
    together = render(scene.camera, crowd, background)
    assert torch.equal(together.image, render(scene.camera, alone, background).image)
    assert not together.radii[:30].any() and not together.radii[-30:].any()


def test_wrong_requests_are_refused(backend: Backend) -> None:
    scene = example("16x16, degree 1")
    gaussians, background = converted(scene.gaussians, backend.dtype), scene.background
    for degree in (-1, 2, 4):
        with pytest.raises(ValueError, match="sh_degree"):
            render(scene.camera, gaussians, background, sh_degree=degree)
    with pytest.raises(TypeError, match="float16"):
        render(scene.camera, converted(scene.gaussians, torch.float16), background)


def test_near_plane_is_exclusive_at_a_fifth(backend: Backend) -> None:
    camera = camera_at(9, 7, moved=False, off_centre=False)
    depths = torch.tensor([0.1999, 0.2, 0.2001], dtype=torch.float64)
    gaussians = gaussians_seen(camera, 3, size=(1.0, 1.1), logits=(0.0, 0.1))
    gaussians.means[:] = torch.stack([torch.zeros(3), torch.zeros(3), depths], dim=1)
    visible = render(camera, converted(gaussians, backend.dtype), torch.zeros(3, dtype=backend.dtype)).radii > 0
    assert not visible[0] and visible[2]
    if backend.dtype == torch.float64:  # 0.2 has no float32
        assert not visible[1]


def test_zero_quaternion_is_the_identity(backend: Backend) -> None:
    scene = example("16x16, degree 1")
    for components in ((0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)):
        gaussians = converted(scene.gaussians, torch.float64)
        gaussians.quats[5] = torch.tensor(components)
        inside = outside_band("16x16, degree 1")
        flat = replace(scene, gaussians=gaussians)
        expected = evaluate(reference.render, flat, torch.float64, inside)
        assert_images_agree(evaluate(render, flat, backend.dtype, inside), expected, inside, backend)


# ---- bad values ------------------------------------------------------------------------------------------------------

SPOILT = 13


def spoilt_example(group: str, value: float) -> Example:
    camera = camera_at(33, 20, seed=3)
    gaussians = gaussians_seen(camera, 40, seed=9, margin=-0.1)
    getattr(gaussians, group)[SPOILT].view(-1)[-1] = value
    return example_of(camera, gaussians)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("group", ["means", "log_scales", "quats", "opacity_logits", "sh_dc", "sh_rest"])
def test_a_gaussian_that_is_not_finite_is_simply_not_drawn(group: str, value: float, backend: Backend) -> None:
    scene = spoilt_example(group, value)
    gaussians, background = trainable(scene.gaussians, backend.dtype), scene.background.to(backend.dtype)
    output = render(scene.camera, gaussians, background)
    torch.autograd.backward(output.image.sum())
    assert output.radii[SPOILT] == 0
    others = rows(converted(scene.gaussians, backend.dtype), torch.arange(40) != SPOILT)
    assert torch.equal(output.image, render(scene.camera, others, background).image)
    for name, values in gaussians.named_tensors():
        assert values.grad is not None and torch.isfinite(values.grad).all(), name
        assert not values.grad[SPOILT].any(), name


def far_log_scales(gaussians: Gaussians, value: float) -> None:
    gaussians.log_scales[SPOILT] = value


def one_far_log_scale(gaussians: Gaussians, value: float) -> None:
    gaussians.log_scales[SPOILT, 1] = value


def far_logit(gaussians: Gaussians, value: float) -> None:
    gaussians.opacity_logits[SPOILT] = value


def long_quaternion(gaussians: Gaussians, value: float) -> None:
    gaussians.quats[SPOILT] *= math.exp(value / 2)


def far_mean(gaussians: Gaussians, value: float) -> None:
    gaussians.means[SPOILT] *= math.exp(abs(value) / 4)


def far_colour(gaussians: Gaussians, value: float) -> None:
    gaussians.sh_dc[SPOILT] = math.copysign(1e6, value)


@pytest.mark.parametrize("value", [80.0, -80.0, 30.0, -30.0])
@pytest.mark.parametrize("spoil", [far_log_scales, one_far_log_scale, far_logit, long_quaternion, far_mean, far_colour])
def test_extreme_parameters_make_no_nan(
    spoil: Callable[[Gaussians, float], None], value: float, backend: Backend
) -> None:
    scene = spoilt_example("opacity_logits", 0.0)
    spoil(scene.gaussians, value)
    assert_finite(scene, backend)


@pytest.mark.parametrize("depth", [0.0, 1e-30, -1e-30, 0.2, 0.2000001, 0.1999999])
def test_means_at_the_camera_centre_and_the_near_plane_make_no_nan(depth: float, backend: Backend) -> None:
    scene = spoilt_example("opacity_logits", 0.0)
    scene.gaussians.means[SPOILT] = to_world(scene.camera, torch.tensor([[0.0, 0.0, depth]]).double())[0]
    assert_finite(scene, backend)


def test_zero_and_denormal_quaternions_make_no_nan(backend: Backend) -> None:
    for length in (0.0, 1e-300, 1e-40, 1e-20):
        scene = spoilt_example("opacity_logits", 0.0)
        scene.gaussians.quats[SPOILT] = length
        assert_finite(scene, backend)


def assert_finite(scene: Example, backend: Backend) -> None:
    """No pixel and no gradient is NaN or infinite."""
    everywhere = torch.ones(scene.camera.height, scene.camera.width, dtype=torch.bool)
    outcome = evaluate(render, scene, backend.dtype, everywhere)
    assert torch.isfinite(outcome.image).all() and torch.isfinite(outcome.alpha).all()
    assert torch.isfinite(outcome.importance).all()
    for name, gradient in outcome.gradients.items():
        assert torch.isfinite(gradient).all(), name
