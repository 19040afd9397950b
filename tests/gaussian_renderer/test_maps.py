"""Inverse depth and counts beside the image, and opacities of antialiased models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from gns.gaussian_renderer import importance, render
from gns.scene import Gaussians
from gns.scene.frame import LocalFrame
from gns.scene.gaussians import GROUPS
from gns.testing.comparison import (
    Backend,
    Outcome,
    assert_gradients_agree,
    assert_maps_agree,
    assert_same_bits,
    drawn,
    evaluate,
    example,
    judgement,
    judgement_of_maps,
    outside_band,
    trainable,
)
from gns.testing.examples import Example, camera_at, converted, example_of, gaussians_seen, smooth_example


@cache
def with_maps(name: str, backend: Backend) -> Outcome:
    """What the production renderer makes of the named example with maps."""
    return evaluate(render, example(name), backend.dtype, outside_band(name), maps=True)


def test_maps_agree_with_the_reference(example_name: str, backend: Backend) -> None:
    inside, expected = outside_band(example_name), judgement_of_maps(example_name)
    found = with_maps(example_name, backend)
    assert_maps_agree(found, expected, inside, backend)
    assert_gradients_agree(found.gradients, expected.gradients, backend.gradient)


def test_maps_change_no_bit_of_what_is_drawn_without(example_name: str, backend: Backend) -> None:
    found, plain = with_maps(example_name, backend), drawn(example_name, backend)
    for name in ("image", "alpha", "radii", "importance"):
        assert torch.equal(getattr(found, name), getattr(plain, name)), name


def test_a_loss_without_the_inverse_depth_has_the_gradients_of_a_rendering_without(backend: Backend) -> None:
    scene = example("33x47, degree 2")
    unweighted = replace(scene, depth_weights=torch.zeros_like(scene.depth_weights))
    name = "33x47, degree 2"
    found = evaluate(render, unweighted, backend.dtype, outside_band(name), maps=True)
    assert_gradients_agree(found.gradients, judgement(name).gradients, backend.gradient)
    gaussians = trainable(scene.gaussians, backend.dtype)
    output = render(scene.camera, gaussians, scene.background.to(backend.dtype), inverse_depth=True, counts=True)
    torch.autograd.backward((output.image * scene.image_weights.to(backend.dtype)).sum())
    plain = trainable(scene.gaussians, backend.dtype)
    image = render(scene.camera, plain, scene.background.to(backend.dtype)).image
    torch.autograd.backward((image * scene.image_weights.to(backend.dtype)).sum())
    for (group, values), (_, others) in zip(gaussians.named_tensors(), plain.named_tensors(), strict=True):
        assert values.grad is not None and others.grad is not None and torch.equal(values.grad, others.grad), group


def test_what_nobody_asks_for_is_not_there(backend: Backend) -> None:
    scene = example("16x16, degree 1")
    output = render(scene.camera, converted(scene.gaussians, backend.dtype), scene.background.to(backend.dtype))
    assert output.inverse_depth is None and output.counts is None


def test_one_opaque_gaussian_has_its_own_inverse_depth() -> None:
    camera = camera_at(8, 8, focal=10.0, off_centre=False, moved=False)
    gaussians = gaussians_seen(camera, 1, depth=(2.5, 2.5), size=(90.0, 90.0), logits=(12.0, 12.0), margin=-0.5)
    depth = float(gaussians.means[0, 2])
    output = render(camera, gaussians, (0, 0, 0), inverse_depth=True, counts=True)
    assert output.inverse_depth is not None and output.counts is not None
    torch.testing.assert_close(output.inverse_depth, output.alpha / depth)
    assert output.counts.dtype == torch.int32 and (output.counts == 1).all()


def test_inverse_depth_is_in_units_of_the_world() -> None:
    """A model in a frame of small units shows the inverse depth that the same model shows without one."""
    scene = example("33x47, degree 2")
    small = converted(scene.gaussians, torch.float64)
    framed = replace(small, frame=LocalFrame(scale=0.25))
    background = scene.background
    plain, inside = (render(scene.camera, model, background, inverse_depth=True) for model in (small, framed))
    assert plain.inverse_depth is not None and inside.inverse_depth is not None
    torch.testing.assert_close(inside.inverse_depth, plain.inverse_depth, rtol=1e-9, atol=1e-9)


# ---- planted errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["inverse_depth", "counts"])
def test_the_comparison_of_maps_fails_on_one_wrong_pixel(what: str, backend: Backend) -> None:
    name = "33x47, degree 2"
    found, inside = with_maps(name, backend), outside_band(name)
    wrong = getattr(found, what).clone()
    row, column = inside.nonzero()[len(inside.nonzero()) // 2].tolist()
    wrong[row, column] += 1 if what == "counts" else 1e-4
    with pytest.raises(AssertionError, match=what.replace("_", " ")):
        assert_maps_agree(replace(found, **{what: wrong}), judgement_of_maps(name), inside, backend)


def test_gradients_without_those_of_the_inverse_depth_are_seen() -> None:
    name = "33x47, degree 2"
    with pytest.raises(AssertionError):
        assert_gradients_agree(judgement(name).gradients, judgement_of_maps(name).gradients, 1e-3)


def test_an_antialiased_model_drawn_as_another_is_seen(backend: Backend) -> None:
    scene = example("antialiased, 33x47")
    plain = replace(scene, gaussians=replace(scene.gaussians, antialiased=False))
    with pytest.raises(AssertionError):
        wrong = evaluate(render, plain, backend.dtype, outside_band("antialiased, 33x47"))
        assert_gradients_agree(wrong.gradients, judgement("antialiased, 33x47").gradients, backend.gradient)


# ---- finite differences ----------------------------------------------------------------------------------------------


def function_of(group: str, scene: Example, *, antialiased: bool) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Image, alpha and inverse depth as a function of one group of parameters."""

    def pictures(values: Tensor) -> tuple[Tensor, ...]:
        gaussians = replace(converted(scene.gaussians, torch.float64), antialiased=antialiased)
        setattr(gaussians, group, values)
        output = render(scene.camera, gaussians, scene.background, inverse_depth=True)
        assert output.inverse_depth is not None
        return output.image, output.alpha, output.inverse_depth

    return pictures


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("group", GROUPS)
def test_gradients_equal_finite_differences(group: str, antialiased: bool) -> None:
    scene = smooth_example()
    values = getattr(trainable(scene.gaussians, torch.float64), group)
    function = function_of(group, scene, antialiased=antialiased)
    assert torch.autograd.gradcheck(function, (values,), eps=1e-6, atol=1e-8, rtol=1e-6)


def test_finite_differences_notice_one_percent_of_the_depth() -> None:
    scene = smooth_example()
    values = trainable(scene.gaussians, torch.float64).means
    function = function_of("means", scene, antialiased=False)

    def off_by_one_percent(values: Tensor) -> Tensor:
        return function(1.01 * values - (0.01 * values).detach())[2]

    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(off_by_one_percent, (values,), eps=1e-6, atol=1e-8, rtol=1e-6)


# ---- antialiased models ----------------------------------------------------------------------------------------------


def test_importance_is_that_of_the_antialiased_picture(backend: Backend) -> None:
    scene = example("antialiased, 33x47")
    edges = (scene.edges * outside_band("antialiased, 33x47")).to(backend.dtype)
    alone = importance(scene.camera, converted(scene.gaussians, backend.dtype), edges)
    assert torch.equal(alone.double(), drawn("antialiased, 33x47", backend).importance)


def _brightness(gaussians: Gaussians, factor: int) -> float:
    """What a small Gaussian adds to the mean of a picture whose sides are divided by `factor`."""
    camera = camera_at(64, 64, focal=64.0, off_centre=False, moved=False).resized(64 // factor, 64 // factor)
    return float(render(camera, gaussians, (0, 0, 0)).alpha.mean())


def test_an_antialiased_gaussian_is_as_bright_at_a_quarter_of_the_size() -> None:
    """Without the filter one of half a pixel would be several times as bright in a reduced picture."""
    camera = camera_at(64, 64, focal=64.0, off_centre=False, moved=False)
    gaussians = gaussians_seen(camera, 1, depth=(2.0, 2.0), size=(0.5, 0.5), logits=(1.0, 1.0), margin=-0.49)
    filtered = replace(gaussians, antialiased=True)
    assert _brightness(filtered, 4) == pytest.approx(_brightness(filtered, 1), rel=0.15)
    assert _brightness(gaussians, 4) > 3 * _brightness(gaussians, 1)


def test_the_filter_hides_what_is_far_thinner_than_a_pixel() -> None:
    camera = camera_at(16, 16, focal=16.0, off_centre=False, moved=False)
    gaussians = gaussians_seen(camera, 1, depth=(2.0, 2.0), size=(0.004, 0.004), logits=(5.0, 5.0), margin=-0.49)
    filtered = replace(trainable(gaussians, torch.float64), antialiased=True)
    output = render(camera, filtered, (0, 0, 0))
    torch.autograd.backward(output.alpha.sum())
    assert not output.alpha.any() and not output.radii.any()
    assert all(values.grad is None or not values.grad.any() for _, values in filtered.named_tensors())
    assert render(camera, gaussians, (0, 0, 0)).alpha.any()


def test_two_antialiased_runs_give_the_same_bits(backend: Backend) -> None:
    name = "antialiased needles"
    again = evaluate(render, example(name), backend.dtype, outside_band(name), maps=True)
    assert_same_bits(again, with_maps(name, backend))


def test_a_copy_of_an_antialiased_model_is_one() -> None:
    model = replace(example("33x47, degree 2").gaussians, antialiased=True)
    copies = [model.to(torch.device("cpu")), model.rows(torch.arange(3)), model.in_world(LocalFrame(scale=0.5))]
    assert all(copy.antialiased for copy in copies)
    assert example_of(example("33x47, degree 2").camera, model).gaussians.antialiased
