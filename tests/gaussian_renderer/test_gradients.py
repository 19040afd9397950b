"""Derivatives of the production renderer, against the reference, finite differences and properties."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

from gns.gaussian_renderer import ScreenGradients, reference, render, set_threads
from gns.losses.photometric import photometric_loss
from gns.scene import Gaussians
from gns.scene.gaussians import GROUPS
from gns.testing.comparison import (
    Backend,
    Renderer,
    assert_close,
    assert_gradients_agree,
    assert_same_bits,
    drawn,
    evaluate,
    example,
    gradients_of,
    judgement,
    outside_band,
    trainable,
)
from gns.testing.examples import Example, converted, gaussians_seen, joined, rows, smooth_example
from gns.testing.reference_loss import reference_photometric_loss
from gns.utils.workspace import Workspace


def differentiated(scene: Example, gaussians: Gaussians, *, accumulate: bool = False) -> tuple[Tensor, Tensor]:
    """Render and go back from the example's weighted image and alpha; returns the image and the screen gradient."""
    dtype = gaussians.means.dtype
    output = render(
        scene.camera, gaussians, scene.background.to(dtype), sh_degree=scene.sh_degree, accumulate=accumulate
    )
    loss = (output.image * scene.image_weights.to(dtype)).sum() + (output.alpha * scene.alpha_weights.to(dtype)).sum()
    torch.autograd.backward(loss)
    return output.image.detach(), output.abs_grad


# ---- against the reference -------------------------------------------------------------------------------------------


def test_gradients_agree_with_the_reference(example_name: str, backend: Backend) -> None:
    found, expected = drawn(example_name, backend).gradients, judgement(example_name).gradients
    assert_gradients_agree(found, expected, backend.gradient)


@pytest.mark.parametrize("output", ["image", "alpha"])
def test_gradients_of_one_output_alone_agree(output: str, backend: Backend) -> None:
    """Autograd hands the backward pass no gradient at all for the output that the loss leaves out."""
    scene, inside = example("16x16, degree 1"), outside_band("16x16, degree 1")
    weights = scene.image_weights if output == "image" else scene.alpha_weights

    def gradients(renderer: Renderer, dtype: torch.dtype) -> dict[str, Tensor]:
        gaussians = trainable(scene.gaussians, dtype)
        values: Tensor = getattr(renderer(scene.camera, gaussians, scene.background.to(dtype)), output)
        torch.autograd.backward((values * (weights * inside).to(values.dtype)).sum())
        return gradients_of(gaussians)

    assert_gradients_agree(
        gradients(render, backend.dtype), gradients(reference.render, torch.float64), backend.gradient
    )


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_through_the_photometric_loss_agree(masked: bool, backend: Backend) -> None:
    scene, inside = example("16x16, degree 1"), outside_band("16x16, degree 1")
    generator = torch.Generator().manual_seed(4)
    target = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8)
    mask = (torch.rand(16, 16, generator=generator) < 0.7) & inside if masked else None

    def gradients(renderer: Renderer, loss: Callable[..., Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        gaussians = trainable(scene.gaussians, dtype)
        image = renderer(scene.camera, gaussians, scene.background.to(dtype)).image
        torch.autograd.backward(loss(image, target, mask))
        return gradients_of(gaussians)

    expected = gradients(reference.render, reference_photometric_loss, torch.float64)
    assert_gradients_agree(gradients(render, photometric_loss, backend.dtype), expected, backend.gradient)


# ---- planted errors: the comparison must be able to fail -------------------------------------------------------------


@pytest.mark.parametrize("group", [*GROUPS, "abs_grad", "signed_grad"])
def test_gradient_comparison_fails_on_one_entry_off_by_one_percent(group: str, backend: Backend) -> None:
    name = "33x47, degree 2"
    gradients = drawn(name, backend).gradients
    wrong = gradients[group].clone().reshape(-1)
    wrong[wrong.abs().argmax()] *= 1.01
    with pytest.raises(AssertionError, match=group):
        assert_gradients_agree(
            gradients | {group: wrong.reshape(gradients[group].shape)}, judgement(name).gradients, backend.gradient
        )


def test_gradient_comparison_fails_on_an_output_left_out() -> None:
    name = "33x47, degree 2"
    scene, nothing = example(name), torch.zeros(47, 33, dtype=torch.float64)
    for wrong in (replace(scene, image_weights=nothing.expand(3, -1, -1)), replace(scene, alpha_weights=nothing)):
        without = evaluate(reference.render, wrong, torch.float64, outside_band(name))
        with pytest.raises(AssertionError):
            assert_gradients_agree(without.gradients, judgement(name).gradients, 1e-3)


def swap_columns(gradient: Tensor) -> Tensor:
    return gradient.roll(1, dims=-1)


def next_gaussian(gradient: Tensor) -> Tensor:
    return gradient.roll(1, dims=0)


def negated(gradient: Tensor) -> Tensor:
    return -gradient


def missing(gradient: Tensor) -> Tensor:
    return torch.zeros_like(gradient)


@pytest.mark.parametrize("group", [*GROUPS, "abs_grad", "signed_grad"])
@pytest.mark.parametrize("plant", [swap_columns, next_gaussian, negated, missing])
def test_gradient_comparison_fails_on_mixed_up_entries(plant: Callable[[Tensor], Tensor], group: str) -> None:
    expected = judgement("33x47, degree 2").gradients
    with pytest.raises(AssertionError, match=group):
        assert_gradients_agree(expected | {group: plant(expected[group])}, expected, 1e-3)


def one_opacity(gaussians: Gaussians) -> None:
    gaussians.opacity_logits[7] = torch.logit(1.01 * torch.sigmoid(gaussians.opacity_logits[7]))


def quaternion_order(gaussians: Gaussians) -> None:
    gaussians.quats[:] = gaussians.quats[:, [1, 2, 3, 0]]


def means_x_and_y(gaussians: Gaussians) -> None:
    gaussians.means[:] = gaussians.means[:, [1, 0, 2]]


@pytest.mark.parametrize("plant", [one_opacity, quaternion_order, means_x_and_y])
def test_gradient_comparison_fails_on_a_changed_model(plant: Callable[[Gaussians], None], backend: Backend) -> None:
    name = "33x47, degree 2"
    wrong = converted(example(name).gaussians, torch.float64)
    plant(wrong)
    changed = evaluate(render, replace(example(name), gaussians=wrong), backend.dtype, outside_band(name))
    with pytest.raises(AssertionError):
        assert_gradients_agree(changed.gradients, judgement(name).gradients, backend.gradient)


def test_gradient_comparison_fails_on_nan() -> None:
    expected = {"means": torch.ones(4, 3, dtype=torch.float64)}
    wrong = {"means": torch.ones(4, 3, dtype=torch.float64)}
    wrong["means"][2, 1] = torch.nan
    with pytest.raises(AssertionError):
        assert_gradients_agree(wrong, expected, 1e-3)


# ---- finite differences ----------------------------------------------------------------------------------------------


def function_of(group: str, scene: Example) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Image and alpha as a function of one group of parameters."""

    def pictures(values: Tensor) -> tuple[Tensor, Tensor]:
        gaussians = converted(scene.gaussians, torch.float64)
        setattr(gaussians, group, values)
        output = render(scene.camera, gaussians, scene.background)
        return output.image, output.alpha

    return pictures


@pytest.mark.parametrize("group", GROUPS)
def test_gradients_equal_finite_differences(group: str) -> None:
    """On the production kernels in double precision; rotated, anisotropic, overlapping Gaussians, off every cut-off."""
    scene = smooth_example()
    values = getattr(trainable(scene.gaussians, torch.float64), group)
    assert torch.autograd.gradcheck(function_of(group, scene), (values,), eps=1e-6, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("group", GROUPS)
def test_finite_differences_notice_one_percent(group: str) -> None:
    scene = smooth_example()
    values = getattr(trainable(scene.gaussians, torch.float64), group)

    def off_by_one_percent(values: Tensor) -> tuple[Tensor, Tensor]:
        # Same values, 1.01 times the derivative.
        return function_of(group, scene)(1.01 * values - (0.01 * values).detach())

    with pytest.raises(GradcheckError):
        torch.autograd.gradcheck(off_by_one_percent, (values,), eps=1e-6, atol=1e-8, rtol=1e-6)


# ---- properties ------------------------------------------------------------------------------------------------------


def test_gaussians_that_are_not_drawn_get_exactly_zero(backend: Backend) -> None:
    scene = example("33x47, degree 2")
    hidden = gaussians_seen(scene.camera, 30, seed=11, sh_degree=2, depth=(-3.0, -1.0))
    faint = gaussians_seen(scene.camera, 30, seed=12, sh_degree=2, logits=(-9.0, -6.0))
    aside = gaussians_seen(scene.camera, 30, seed=13, sh_degree=2, margin=1.0)
    gaussians = trainable(joined(joined(hidden, scene.gaussians), joined(faint, aside)), backend.dtype)
    output = render(scene.camera, gaussians, scene.background.to(backend.dtype))
    torch.autograd.backward(output.image.sum())
    unseen = output.radii == 0
    assert unseen[:30].all() and unseen[130:160].all() and unseen[160:].any()
    for name, values in gaussians.named_tensors():
        assert values.grad is not None and values.grad.shape == values.shape
        assert not values.grad[unseen].any(), name
        assert values.grad[~unseen].any(), name
    assert not output.abs_grad[unseen].any() and output.abs_grad[~unseen].any()


def test_coefficients_above_the_active_degree_get_exactly_zero(backend: Backend) -> None:
    scene = example("active degree 1 of 3")
    gaussians = trainable(scene.gaussians, backend.dtype)
    differentiated(scene, gaussians)
    assert gaussians.sh_rest.grad is not None
    assert gaussians.sh_rest.grad[:, :3].any() and not gaussians.sh_rest.grad[:, 3:].any()


def test_screen_gradient_is_zero_before_backward(backend: Backend) -> None:
    scene = example("16x16, degree 1")
    output = render(scene.camera, trainable(scene.gaussians, backend.dtype), scene.background.to(backend.dtype))
    assert not output.abs_grad.any()
    torch.autograd.backward(output.image.sum())
    assert output.abs_grad.any()


def test_screen_gradients_can_be_left_out(backend: Backend) -> None:
    scene = example("130x70, degree 3")
    background = scene.background.to(backend.dtype)
    absolute, signed = ScreenGradients(absolute=True), ScreenGradients(signed=True)
    found = []
    for asked in (absolute | signed, absolute, signed, ScreenGradients()):
        gaussians = trainable(scene.gaussians, backend.dtype)
        output = render(scene.camera, gaussians, background, screen_gradients=asked)
        torch.autograd.backward(output.image.square().sum())
        found.append((asked, output, gradients_of(gaussians)))
    _, everything, gradients = found[0]
    assert everything.abs_grad.any() and everything.signed_grad.any()
    for asked, output, others in found[1:]:
        assert torch.equal(output.abs_grad, everything.abs_grad if asked.absolute else torch.empty(0, 2))
        assert torch.equal(output.signed_grad, everything.signed_grad if asked.signed else torch.empty(0, 2))
        for name, gradient in gradients.items():
            assert torch.equal(others[name], gradient), name


def test_screen_gradients_are_asked_for_together() -> None:
    absolute, signed = ScreenGradients(absolute=True), ScreenGradients(signed=True)
    assert absolute | signed == ScreenGradients(absolute=True, signed=True)
    assert absolute | absolute == absolute and absolute and signed and not ScreenGradients()


def test_a_workspace_is_used_again_and_changes_nothing(backend: Backend) -> None:
    """Three iterations in the same memory against three in fresh memory, of other views and other numbers of rows."""
    space = Workspace(torch.device("cpu"))
    places = []
    for name in ("130x70, degree 3", "33x47, degree 2", "130x70, degree 3"):
        scene = example(name)
        photo = torch.full((scene.camera.height, scene.camera.width, 3), 90, dtype=torch.uint8)
        results = []
        for workspace in (None, space):
            gaussians = trainable(scene.gaussians, backend.dtype)
            seen = render(scene.camera, gaussians, scene.background.to(backend.dtype), workspace=workspace)
            loss = photometric_loss(seen.image, photo, workspace=workspace)
            torch.autograd.backward(loss)
            results.append([seen.image, seen.alpha, seen.radii, seen.abs_grad, loss, *gradients_of(gaussians).values()])
        assert all(torch.equal(fresh, reused) for fresh, reused in zip(*results, strict=True))
        places.append([seen.image.data_ptr(), seen.alpha.data_ptr(), seen.radii.data_ptr(), seen.abs_grad.data_ptr()])
    assert places[0] == places[1] == places[2]


def test_permuting_gaussians_permutes_gradients(backend: Backend) -> None:
    scene = example("130x70, degree 3")
    order = torch.randperm(len(scene.gaussians), generator=torch.Generator().manual_seed(0))
    straight, permuted = (
        trainable(scene.gaussians, backend.dtype),
        trainable(rows(scene.gaussians, order), backend.dtype),
    )
    _, screen = differentiated(scene, straight)
    _, permuted_screen = differentiated(scene, permuted)
    assert_close(permuted_screen, screen[order], backend.rounding, "abs_grad")
    for name, gradient in gradients_of(straight).items():
        assert_close(gradients_of(permuted)[name], gradient[order], backend.rounding, name)


def test_memory_layout_does_not_change_gradients(backend: Backend) -> None:
    scene = example("33x47, degree 2")
    planes = trainable(scene.gaussians, backend.dtype)
    by_row = Gaussians(*(v.detach().contiguous().requires_grad_() for _, v in planes.named_tensors()))
    differentiated(scene, planes)
    differentiated(scene, by_row)
    for name, gradient in gradients_of(planes).items():
        assert torch.equal(gradients_of(by_row)[name], gradient), name


def test_renderings_may_overlap_in_time(backend: Backend) -> None:
    """Each keeps its own intermediate results: a second rendering before the first one's backward disturbs nothing."""
    names = ["33x47, degree 2", "opaque stacks", "16x16, degree 1"]
    scenes = [example(name) for name in names]
    models = [trainable(scene.gaussians, backend.dtype) for scene in scenes]
    outputs = [render(scene.camera, model, scene.background) for scene, model in zip(scenes, models, strict=True)]
    for i in (1, 0, 2):
        torch.autograd.backward((outputs[i].image * scenes[i].image_weights.to(backend.dtype)).sum())
    for scene, model in zip(scenes, models, strict=True):
        alone = trainable(scene.gaussians, backend.dtype)
        image = render(scene.camera, alone, scene.background).image
        torch.autograd.backward((image * scene.image_weights.to(backend.dtype)).sum())
        for name, gradient in gradients_of(alone).items():
            assert torch.equal(gradients_of(model)[name], gradient), name


BUSY = ["130x70, degree 3", "2000 in one tile", "opaque stacks"]


@pytest.mark.parametrize("name", BUSY)
def test_two_runs_give_the_same_bits(name: str, backend: Backend) -> None:
    again = evaluate(render, example(name), backend.dtype, outside_band(name))
    assert_same_bits(again, drawn(name, backend))


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Leave the renderer with a thread for every core."""
    yield
    set_threads(0)


@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("name", BUSY)
def test_any_number_of_threads_gives_the_same_bits(name: str, backend: Backend) -> None:
    for count in (1, 2, 3):
        set_threads(count)
        assert_same_bits(evaluate(render, example(name), backend.dtype, outside_band(name)), drawn(name, backend))


def test_accumulate_adds_to_the_gradients_in_place(backend: Backend) -> None:
    """Two backward passes with accumulate=True leave the sum of two ordinary ones in the buffers that were there."""
    first, second = example("130x70, degree 3"), example("33x47, degree 2")
    both = [
        first,
        replace(first, camera=second.camera, image_weights=second.image_weights, alpha_weights=second.alpha_weights),
    ]
    summed = trainable(first.gaussians, backend.dtype)
    for _, values in summed.named_tensors():
        values.grad = torch.zeros_like(values)
    buffers = {name: values.grad for name, values in summed.named_tensors()}
    expected = {name: torch.zeros_like(values).double() for name, values in summed.named_tensors()}
    for scene in both:
        separate = trainable(first.gaussians, backend.dtype)
        image, screen = differentiated(scene, separate)
        accumulated_image, accumulated_screen = differentiated(scene, summed, accumulate=True)
        assert torch.equal(accumulated_image, image) and torch.equal(accumulated_screen, screen)
        for name, gradient in gradients_of(separate).items():
            expected[name] += gradient
    for name, values in summed.named_tensors():
        assert values.grad is buffers[name]
        assert expected[name].any()
        assert_close(gradients_of(summed)[name], expected[name], backend.rounding, name)


def test_accumulate_needs_gradients_to_add_to(backend: Backend) -> None:
    scene = example("16x16, degree 1")
    gaussians = trainable(scene.gaussians, backend.dtype)
    with pytest.raises(ValueError, match=r"means\.grad"):
        render(scene.camera, gaussians, scene.background, accumulate=True)


def test_no_gradients_are_left_where_none_are_asked(backend: Backend) -> None:
    scene = example("16x16, degree 1")
    gaussians = trainable(scene.gaussians, backend.dtype)
    gaussians.quats.requires_grad_(False)
    expected = trainable(scene.gaussians, backend.dtype)
    differentiated(scene, gaussians)
    differentiated(scene, expected)
    assert gaussians.quats.grad is None
    for name, gradient in gradients_of(expected).items():
        if name != "quats":
            assert torch.equal(gradients_of(gaussians)[name], gradient), name
