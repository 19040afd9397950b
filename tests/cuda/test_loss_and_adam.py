"""The shipped CUDA kernels of the loss and the optimiser, run on the CPU, against torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer.backends.kernel_table import KERNELS, Launchable
from gns.testing.comparison import assert_close
from gns.testing.reference_loss import SIZES, expected_loss_and_gradient, images, reference_dissimilarity
from gns.testing.shim import ShimLauncher
from tests.cuda.stages import poisoned

LOSS_TOLERANCE = 1e-6  # absolute
GRADIENT_TOLERANCE = 1e-5  # of the largest entry


def launch_loss(launcher: ShimLauncher, name: str, width: int, height: int, *arguments: Launchable) -> None:
    grid = (1, 1, 1) if name == "loss_sum" else (-(-width // 16), -(-height // 16), 3)
    launcher.launch(name, grid, KERNELS[name].block, (width, height, *arguments))


def loss_and_gradient(
    launcher: ShimLauncher,
    image: Tensor,
    target: Tensor,
    mask: Tensor | None,
    scale: float | None = None,
    *,
    squared: bool = False,
) -> tuple[Tensor, Tensor]:
    """The kernels' loss [1] and gradient [3, H, W]."""
    height, width = target.shape[:2]
    blocks = 3 * -(-width // 16) * -(-height // 16)
    partial, loss = poisoned(blocks, 2), poisoned(1)
    maps, gradient = poisoned(3, 3, height, width), poisoned(3, height, width)
    pictures = (image.float().contiguous(), target, None if mask is None else mask.to(torch.uint8))
    slope = poisoned(1) if squared else None
    launch_loss(launcher, "loss_maps", width, height, *pictures, int(squared), maps, partial)
    launch_loss(launcher, "loss_sum", width, height, partial, loss, slope)
    factor = None if scale is None else torch.tensor([scale])
    launch_loss(launcher, "loss_gradient", width, height, *pictures, slope, maps, factor, gradient)
    return loss, gradient


@pytest.mark.parametrize("squared", [False, True], ids=["absolute", "squared"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (40, 70)])
def test_loss_and_gradient_agree_with_the_reference(
    height: int, width: int, masked: bool, squared: bool, shim: ShimLauncher
) -> None:
    image, target, mask = images(height, width)
    mask_or_none = mask if masked else None
    loss, gradient = loss_and_gradient(shim, image, target, mask_or_none, squared=squared)
    expected_loss, expected_gradient = expected_loss_and_gradient(image, target, mask_or_none, squared=squared)
    assert abs(loss.item() - expected_loss.item()) <= LOSS_TOLERANCE
    assert_close(gradient.double(), expected_gradient, GRADIENT_TOLERANCE, "gradient")


def test_flat_areas_agree(shim: ShimLauncher) -> None:
    """Where nothing varies, variances are differences of equal numbers."""
    target = torch.full((30, 40, 3), 200, dtype=torch.uint8)
    target[:, 20:] = 0
    image = torch.full((3, 30, 40), 0.5, dtype=torch.float64)
    loss, gradient = loss_and_gradient(shim, image, target, None)
    expected_loss, expected_gradient = expected_loss_and_gradient(image, target, None)
    assert abs(loss.item() - expected_loss.item()) <= 1e-5
    assert_close(gradient.double(), expected_gradient, 1e-4, "gradient")


def test_masked_pixels_get_exactly_no_gradient(shim: ShimLauncher) -> None:
    image, target, mask = images(47, 33)
    _, gradient = loss_and_gradient(shim, image, target, mask)
    assert not gradient[:, ~mask].any() and gradient[:, mask].all()


def test_the_scale_multiplies_the_gradient_only(shim: ShimLauncher) -> None:
    image, target, _ = images(17, 16)
    loss, gradient = loss_and_gradient(shim, image, target, None)
    scaled_loss, scaled = loss_and_gradient(shim, image, target, None, scale=0.25)
    assert torch.equal(loss, scaled_loss) and torch.equal(scaled, 0.25 * gradient)


def test_the_loss_alone_needs_no_maps(shim: ShimLauncher) -> None:
    image, target, mask = images(17, 40)
    partial, loss = poisoned(3 * 2 * 3, 2), poisoned(1)
    launch_loss(shim, "loss_maps", 40, 17, image.float().contiguous(), target, mask.to(torch.uint8), 0, None, partial)
    launch_loss(shim, "loss_sum", 40, 17, partial, loss, None)
    assert torch.equal(loss, loss_and_gradient(shim, image, target, mask)[0])


def test_the_order_of_threads_changes_no_bit(shim: ShimLauncher, backwards: ShimLauncher) -> None:
    image, target, mask = images(47, 33)
    for squared in (False, True):
        first, second = (
            loss_and_gradient(launcher, image, target, mask, squared=squared) for launcher in (shim, backwards)
        )
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def unlike(launcher: ShimLauncher, image: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """The kernel's map, [H, W]."""
    height, width = target.shape[:2]
    out, seen = poisoned(height, width), None if mask is None else mask.to(torch.uint8)
    grid, block = (-(-width // 16), -(-height // 16), 1), KERNELS["dissimilarity"].block
    launcher.launch("dissimilarity", grid, block, (width, height, image.float().contiguous(), target, seen, out))
    return out


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("height", "width"), [*SIZES, (40, 70)])
def test_dissimilarity_agrees_with_the_reference(height: int, width: int, masked: bool, shim: ShimLauncher) -> None:
    image, target, mask = images(height, width)
    mask_or_none = mask if masked else None
    found = unlike(shim, image, target, mask_or_none)
    assert found.min() >= 0
    assert_close(found.double(), reference_dissimilarity(image, target, mask_or_none), GRADIENT_TOLERANCE, "map")
    with pytest.raises(AssertionError, match="map"):
        assert_close(unlike(shim, 0.9 * image, target, mask_or_none).double(), found.double(), 1e-3, "map")


def test_the_order_of_threads_changes_no_bit_of_the_map(shim: ShimLauncher, backwards: ShimLauncher) -> None:
    image, target, mask = images(47, 33)
    assert torch.equal(unlike(shim, image, target, mask), unlike(backwards, image, target, mask))


def launch_adam(launcher: ShimLauncher, tensors: Sequence[tuple[Launchable, ...]], epsilon: float) -> None:
    """One step of up to six tensors: count, parameter, gradient, two moments, step, inverse root, 1 − decay of each."""
    absent = (0, None, None, None, None, math.nan, math.nan, math.nan)
    given = [*tensors, *[absent] * (6 - len(tensors))]
    blocks = sum(-(-int(tensor[0] or 0) // 1024) for tensor in tensors)
    scalars = (0.9, 1 - 0.9, 0.999, 1 - 0.999, epsilon)
    launcher.launch("adam", (blocks, 1, 1), (256, 1, 1), (*(value for tensor in given for value in tensor), *scalars))


def adam_steps(
    launcher: ShimLauncher, gradients: Tensor, start: Tensor, rate: float, epsilon: float, decay: float = 0.0
) -> Tensor:
    """The parameter after one step for each row of `gradients` [steps, count]; alone in each launch."""
    parameter, first, second = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step, values in enumerate(gradients, start=1):
        gradient = values.clone()
        factors = (rate / (1 - 0.9**step), (1 - 0.999**step) ** -0.5, 1 - decay)
        launch_adam(launcher, [(len(start), parameter, gradient, first, second, *factors)], epsilon)
        assert not gradient.any(), "the gradient is zeroed"
    return parameter


@pytest.mark.parametrize("count", [1, 255, 1024, 1025, 3000])
@pytest.mark.parametrize("size", [1.0, 1e-8])
@pytest.mark.parametrize("decay", [0.0, 0.003])
def test_adam_is_that_of_torch(count: int, size: float, decay: float, shim: ShimLauncher) -> None:
    generator = torch.Generator().manual_seed(count)
    gradients = size * torch.randn(5, count, generator=generator)
    gradients[2] = 0.0  # momentum alone
    start = torch.randn(count, generator=generator)
    leaf = start.double().requires_grad_()
    # torch's decay is in units of the rate
    optimizer = torch.optim.AdamW([leaf], lr=0.01, betas=(0.9, 0.999), eps=1e-15, weight_decay=decay / 0.01)
    for values in gradients:
        leaf.grad = values.double()
        optimizer.step()
    moved = adam_steps(shim, gradients, start, 0.01, 1e-15, decay).double() - start.double()
    assert_close(moved, leaf.detach() - start.double(), 1e-4, "step")


SIZES_TOGETHER = (1, 1024, 0, 1025, 3000, 7)


def adam_together(launcher: ShimLauncher, sizes: Sequence[int]) -> list[tuple[Tensor, ...]]:
    """Parameter, gradient and moments of tensors of these sizes after one launch for all of them."""
    generator = torch.Generator().manual_seed(0)
    tensors = [tuple(torch.rand(size, generator=generator) for _ in range(4)) for size in sizes]
    steps = [(0.01 * (k + 1), 1.0 + k, 1 - 0.01 * k) for k in range(len(sizes))]
    launch_adam(launcher, [(len(t[0]), *t, *step) for t, step in zip(tensors, steps, strict=True)], 1e-15)
    return tensors


def test_six_tensors_in_one_launch_are_as_six_launches(shim: ShimLauncher, backwards: ShimLauncher) -> None:
    together = adam_together(shim, SIZES_TOGETHER)
    generator = torch.Generator().manual_seed(0)
    for k, (size, found) in enumerate(zip(SIZES_TOGETHER, together, strict=True)):
        alone = tuple(torch.rand(size, generator=generator) for _ in range(4))
        if size:
            launch_adam(shim, [(size, *alone, 0.01 * (k + 1), 1.0 + k, 1 - 0.01 * k)], 1e-15)
        assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True)), size
        assert not found[1].any()
    for first, second in zip(together, adam_together(backwards, SIZES_TOGETHER), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
