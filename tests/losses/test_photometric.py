"""The photometric loss and its map of dissimilarity, against torch, scipy's filters and finite differences."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor

from gns.losses.photometric import dissimilarity, photometric_loss
from gns.testing.comparison import Backend, assert_close
from gns.testing.reference_loss import (
    SIZES,
    expected_loss_and_gradient,
    images,
    reference_dissimilarity,
    reference_photometric_loss,
    ssim_map,
)
from gns.testing.scipy_ssim import scipy_ssim


def loss_and_gradient(
    image: Tensor, target: Tensor, mask: Tensor | None, dtype: torch.dtype, *, squared: bool = False
) -> tuple[Tensor, Tensor]:
    """Production loss and its gradient by the image, as float64."""
    leaf = image.detach().clone().to(dtype).requires_grad_()
    loss = photometric_loss(leaf, target, mask, squared=squared)
    torch.autograd.backward(3 * loss)
    assert leaf.grad is not None and loss.dtype == dtype and loss.shape == ()
    return loss.detach().double(), leaf.grad.double() / 3


LOSS_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
GRADIENT_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
MAP_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}


def assert_loss_agrees(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    error = (actual[0] - expected[0]).abs().item()
    assert error <= LOSS_TOLERANCE[dtype], f"loss is off by {error:.2e}"
    assert_close(actual[1], expected[1], GRADIENT_TOLERANCE[dtype], "gradient")


either = pytest.mark.parametrize("squared", [False, True], ids=["absolute", "squared"])


@either
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_loss_and_gradient_agree_with_the_reference(
    height: int, width: int, masked: bool, squared: bool, backend: Backend
) -> None:
    image, target, mask = images(height, width)
    mask_or_none = mask if masked else None
    actual = loss_and_gradient(image, target, mask_or_none, backend.dtype, squared=squared)
    assert_loss_agrees(actual, expected_loss_and_gradient(image, target, mask_or_none, squared=squared), backend.dtype)


def test_a_large_image_agrees_too(backend: Backend) -> None:
    image, target, mask = images(90, 130, seed=1)
    expected = expected_loss_and_gradient(image, target, mask)
    assert_loss_agrees(loss_and_gradient(image, target, mask, backend.dtype), expected, backend.dtype)


def test_flat_areas_agree(backend: Backend) -> None:
    """Where nothing varies, variances are differences of equal numbers."""
    target = torch.full((30, 40, 3), 200, dtype=torch.uint8)
    target[:, 20:] = 0
    image = torch.full((3, 30, 40), 0.5, dtype=torch.float64)
    expected = expected_loss_and_gradient(image, target, None)
    assert_loss_agrees(loss_and_gradient(image, target, None, backend.dtype), expected, backend.dtype)


@either
def test_a_perfect_image_has_no_loss(squared: bool, backend: Backend) -> None:
    _, target, _ = images(20, 30)
    image = target.movedim(-1, 0).double() / 255
    loss = photometric_loss(image.to(backend.dtype), target, None, squared=squared)
    assert abs(loss.item()) <= LOSS_TOLERANCE[backend.dtype]


def test_where_nothing_is_wrong_a_squared_error_has_no_gradient(backend: Backend) -> None:
    """A root has no slope at 0: the picture is black, and so is the photo."""
    black = torch.zeros(3, 20, 30, dtype=torch.float64)
    loss, gradient = loss_and_gradient(
        black, torch.zeros(20, 30, 3, dtype=torch.uint8), None, backend.dtype, squared=True
    )
    assert abs(loss) <= LOSS_TOLERANCE[backend.dtype] and torch.isfinite(gradient).all()
    assert gradient.abs().max() <= GRADIENT_TOLERANCE[backend.dtype]


@either
def test_masked_pixels_get_exactly_no_gradient_and_do_not_count(squared: bool, backend: Backend) -> None:
    image, target, mask = images(47, 33)
    loss, gradient = loss_and_gradient(image, target, mask, backend.dtype, squared=squared)
    assert not gradient[:, ~mask].any() and gradient[:, mask].all()
    other_image, other_target = image.clone(), target.clone()
    other_image[:, ~mask] = 7.0
    other_target[~mask] = 255 - other_target[~mask]
    other_loss, other_gradient = loss_and_gradient(other_image, other_target, mask, backend.dtype, squared=squared)
    assert torch.equal(loss, other_loss) and torch.equal(gradient, other_gradient)


def test_a_full_mask_is_no_mask(backend: Backend) -> None:
    image, target, mask = images(17, 16)
    loss, gradient = loss_and_gradient(image, target, torch.ones_like(mask), backend.dtype)
    plain_loss, plain_gradient = loss_and_gradient(image, target, None, backend.dtype)
    assert torch.equal(loss, plain_loss) and torch.equal(gradient, plain_gradient)


@either
def test_two_runs_give_the_same_bits(squared: bool, backend: Backend) -> None:
    image, target, mask = images(90, 130)
    first, second = (loss_and_gradient(image, target, mask, backend.dtype, squared=squared) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@either
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_equals_finite_differences(masked: bool, squared: bool) -> None:
    """In double precision; no pixel of the image equals its target, where L1 has a corner."""
    image, target, mask = images(13, 9)

    def loss(values: Tensor) -> Tensor:
        return photometric_loss(values, target, mask if masked else None, squared=squared)

    assert torch.autograd.gradcheck(loss, (image.requires_grad_(),), eps=1e-6, atol=1e-9, rtol=1e-6)


# ---- where it is unlike ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (90, 130)])
def test_dissimilarity_agrees_with_the_reference(height: int, width: int, masked: bool, backend: Backend) -> None:
    image, target, mask = images(height, width)
    mask_or_none = mask if masked else None
    found = dissimilarity(image.to(backend.dtype), target, mask_or_none)
    assert found.dtype == backend.dtype and found.shape == (height, width) and found.min() >= 0
    assert_close(
        found.double(), reference_dissimilarity(image, target, mask_or_none), MAP_TOLERANCE[backend.dtype], "map"
    )


@pytest.mark.parametrize("masked", [False, True])
def test_dissimilarity_agrees_with_scipy(masked: bool, backend: Backend) -> None:
    image, target, mask = images(47, 33, seed=2)
    weight = mask.numpy() if masked else np.ones((47, 33))
    expected = 1 - scipy_ssim(image.numpy() * weight, target.numpy().transpose(2, 0, 1) / 255 * weight).mean(0)
    found = dissimilarity(image.to(backend.dtype), target, mask if masked else None)
    assert_close(found.double(), torch.from_numpy(expected), MAP_TOLERANCE[backend.dtype], "map")


def test_a_perfect_image_is_nowhere_unlike(backend: Backend) -> None:
    _, target, _ = images(20, 30)
    unlike = dissimilarity((target.movedim(-1, 0).double() / 255).to(backend.dtype), target)
    assert unlike.min() >= 0 and unlike.max() <= LOSS_TOLERANCE[backend.dtype]


def test_dissimilarity_is_the_loss_without_its_error(backend: Backend) -> None:
    """0.8·L1 + 0.2·mean: two kernels, one SSIM. No gradient, and the image need not lie as one wants it."""
    image, target, mask = images(47, 33)
    leaf = image.to(backend.dtype).movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_()
    unlike = dissimilarity(leaf, target, mask)
    error = ((leaf - target.movedim(-1, 0).double() / 255) * mask).abs().mean()
    assert not unlike.requires_grad and not leaf.is_contiguous()
    expected = 0.8 * error + 0.2 * unlike.mean()
    assert abs(photometric_loss(leaf, target, mask) - expected) <= LOSS_TOLERANCE[backend.dtype]


def test_the_comparison_of_maps_fails_on_other_images(backend: Backend) -> None:
    image, target, mask = images(47, 33)
    expected, image = reference_dissimilarity(image, target, mask), image.to(backend.dtype)
    for given in ((image, target, None), (image, target.flip(-1), mask), (image.flip(-1), target, mask)):
        with pytest.raises(AssertionError, match="map"):
            assert_close(dissimilarity(*given).double(), expected, MAP_TOLERANCE[backend.dtype], "map")


# ---- an oracle from another library ----------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_loss_agrees_with_scipy(height: int, width: int, masked: bool, backend: Backend) -> None:
    image, target, mask = images(height, width, seed=2)
    weight = mask.numpy() if masked else np.ones((height, width))
    x, y = image.numpy() * weight, target.numpy().transpose(2, 0, 1) / 255 * weight
    wrong = 1 - scipy_ssim(x, y).mean()
    expected = 0.8 * np.abs(x - y).mean() + 0.2 * wrong
    loss = photometric_loss(image.to(backend.dtype), target, mask if masked else None)
    assert abs(loss.item() - expected) <= LOSS_TOLERANCE[backend.dtype]
    loss = photometric_loss(image.to(backend.dtype), target, mask if masked else None, squared=True)
    assert abs(loss.item() - (0.6 * np.sqrt(((x - y) ** 2).mean()) + 0.4 * wrong)) <= LOSS_TOLERANCE[backend.dtype]


def test_the_reference_agrees_with_scipy() -> None:
    image, target, mask = images(29, 31)
    y = target.movedim(-1, 0).double() / 255
    np.testing.assert_allclose(ssim_map(image, y).numpy(), scipy_ssim(image.numpy(), y.numpy()), atol=1e-13)
    x, y = image * mask, y * mask
    expected = 0.8 * (x - y).abs().mean() + 0.2 * (1 - scipy_ssim(x.numpy(), y.numpy()).mean())
    assert reference_photometric_loss(image, target, mask).item() == pytest.approx(expected.item(), abs=1e-14)


# ---- planted errors: each comparison must be able to fail ------------------------------------------------------------


def test_comparison_fails_on_a_brighter_image(backend: Backend) -> None:
    image, target, mask = images(47, 33)
    expected = expected_loss_and_gradient(image, target, mask)
    with pytest.raises(AssertionError, match="loss"):
        assert_loss_agrees(loss_and_gradient(image + 0.01, target, mask, backend.dtype), expected, backend.dtype)


def test_comparison_fails_on_the_other_error(backend: Backend) -> None:
    image, target, mask = images(47, 33)
    for squared in (False, True):
        expected = expected_loss_and_gradient(image, target, mask, squared=squared)
        actual = loss_and_gradient(image, target, mask, backend.dtype, squared=not squared)
        with pytest.raises(AssertionError, match="loss"):
            assert_loss_agrees(actual, expected, backend.dtype)
        with pytest.raises(AssertionError, match="gradient"):
            assert_loss_agrees((expected[0], actual[1]), expected, backend.dtype)


def test_comparison_fails_on_a_forgotten_or_inverted_mask(backend: Backend) -> None:
    image, target, mask = images(47, 33)
    expected = expected_loss_and_gradient(image, target, mask)
    for wrong in (None, ~mask):
        with pytest.raises(AssertionError, match="loss"):
            assert_loss_agrees(loss_and_gradient(image, target, wrong, backend.dtype), expected, backend.dtype)


def test_comparison_fails_on_one_gradient_entry_off_by_one_percent(backend: Backend) -> None:
    image, target, mask = images(47, 33)
    loss, gradient = expected_loss_and_gradient(image, target, mask)
    wrong = gradient.clone().reshape(-1)
    wrong[wrong.abs().argmax()] *= 1.01
    with pytest.raises(AssertionError, match="gradient"):
        assert_loss_agrees((loss, wrong.reshape(gradient.shape)), (loss, gradient), backend.dtype)


def test_comparison_fails_on_channels_in_other_order(backend: Backend) -> None:
    image, target, _ = images(47, 33)
    expected = expected_loss_and_gradient(image, target, None)
    with pytest.raises(AssertionError):
        assert_loss_agrees(loss_and_gradient(image, target.flip(-1), None, backend.dtype), expected, backend.dtype)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_an_image_of_another_dtype_is_refused(dtype: torch.dtype) -> None:
    image, target, _ = images(17, 16)
    with pytest.raises(TypeError, match=rf"is computed in float32 or float64, not {dtype}"):
        photometric_loss(image.to(dtype), target)


def test_photos_and_masks_of_another_dtype_are_refused() -> None:
    image, target, mask = images(17, 16)
    for wrong in (target / 255, target.double(), target.int()):
        with pytest.raises(TypeError, match=rf"photo must be uint8, .* not {wrong.dtype}"):
            photometric_loss(image, wrong)
    for wrong in (mask.to(torch.uint8), mask.float()):
        with pytest.raises(TypeError, match=rf"mask must be bool, .* not {wrong.dtype}"):
            photometric_loss(image, target, wrong)


def test_pictures_of_other_sizes_and_devices_are_refused() -> None:
    image, target, mask = images(17, 16)
    for wrong in (target[:-1], target.movedim(-1, 0), target[..., :2]):
        with pytest.raises(ValueError, match=r"a photo .* of its size"):
            photometric_loss(image, wrong)
    with pytest.raises(ValueError, match=r"an image \[3, H, W\]"):
        photometric_loss(image[None], target)
    with pytest.raises(ValueError, match="mask must be"):
        photometric_loss(image, target, mask[:, :-1])
    for photo, seen in ((target.to("meta"), mask), (target, mask.to("meta"))):
        with pytest.raises(ValueError, match="must be on the image's device, cpu"):
            photometric_loss(image, photo, seen)
    with pytest.raises(ValueError, match="tensors on meta"):
        photometric_loss(image.to("meta"), target.to("meta"))


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_a_loss_that_nobody_wants_is_gone_at_once(backend: Backend) -> None:
    """Its graph must not hold on to it in a circle, which would wait for the collector with an image in its hands."""
    image, target, _ = images(17, 16)
    loss = photometric_loss(image.to(backend.dtype).requires_grad_(), target)
    node = weakref.ref(loss.grad_fn)
    gc.disable()
    try:
        del loss
        assert node() is None
    finally:
        gc.enable()


def test_an_image_that_was_changed_since_is_noticed(backend: Backend) -> None:
    image, target, _ = images(17, 16)
    values = image.to(backend.dtype).contiguous().requires_grad_() * 1
    loss = photometric_loss(values, target)
    with torch.no_grad():
        values += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(loss)
