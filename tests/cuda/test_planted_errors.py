"""Errors planted in the kernels' text, one at a time: the checks of the other tests must see each of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from gns.testing.comparison import (
    assert_maps_agree,
    assert_outcomes_agree,
    assert_same_bits,
    example,
    judgement,
    judgement_of_maps,
    outside_band,
)
from gns.testing.reference_loss import images
from gns.testing.shim import ShimError, ShimLauncher
from tests.cuda.stages import KERNEL_TOLERANCE, evaluate_stages
from tests.cuda.test_loss_and_adam import SIZES_TOGETHER, adam_steps, adam_together, loss_and_gradient


@dataclass(frozen=True)
class Plant:
    """`good` becomes `bad` once in a source; `name` is the example on which the comparison must fail."""

    file: str
    good: str
    bad: str
    name: str = "33x47, degree 2"
    maps: bool = False  # whether it must fail on inverse depth and counts

    def launcher(self, *, backwards: bool = False) -> ShimLauncher:
        return ShimLauncher(edits={self.file: self._edit}, backwards=backwards)

    def _edit(self, text: str) -> str:
        assert self.good in text, f"{self.file} no longer holds {self.good!r}"
        return text.replace(self.good, self.bad, 1)


# Each changes one number or one line. None may write out of bounds: that is for test_sanitized.
WRONG_RESULTS = [
    Plant("splat_math.h", "p.view.z > R(T(kNear))", "p.view.z > R(T(0.1))", "all behind"),
    Plant("splat_math.h", "right = left + R(T(columns - 1))", "right = left + R(T(columns - 9))"),
    Plant("tiles.cu", "Id(row * out.tiles_x + column)", "Id(span.first * out.tiles_x + column)", "wide giants"),
    Plant(
        "splat_math.h", "select(drawn, negative_abs(transmittance), transmittance)", "transmittance", "opaque stacks"
    ),
    Plant("blend.cuh", "warp % 2 * kHalves + warp / 2 * 2", "warp % 2 * kHalves + warp / 2"),
    Plant("blend.cu", "sum += score[k];", "sum = score[k];"),
    Plant("blend_backward.cu", "value[k + kKept] : 0.0f;", "value[k + kKept - 1] : 0.0f;"),
    Plant("blend_backward.cu", "sum < kScreenSums ? sum - 3 : sum", "sum < kScreenSums ? 17 - sum : sum"),
    Plant(
        "blend_backward.cu",
        "for (int i = begin + thread; i < range.y; i += kBlendThreads)",
        "for (int i = 0; i < 0;)",
        "deep opaque stack",
    ),
    Plant("splat_math.h", "half * packet[9]", "packet[9]"),
    Plant("splat_math.h", "-(half * p.b)", "half * p.b", "antialiased, 33x47"),
    Plant("splat_math.h", "packet[11], packet[3]", "packet[10], packet[3]", maps=True),
    Plant("blend.cu", "count[p] += c.kept;", "count[p] += c.drawn;", "opaque stacks", maps=True),
    Plant("blend.cu", "reciprocal(shade.w), inverse_depth[p]", "shade.w, inverse_depth[p]", maps=True),
    Plant("project_backward.cu", "sum[5] * (-0.5f * float(camera.height))", "sum[5] * (-0.5f * float(camera.width))"),
    Plant("project_backward.cu", "sum[4] * (-0.5f", "sum[4] * (0.5f"),
    Plant("project_backward.cu", "k += kWarp) add_packet(part", "k += kWarp + 1) add_packet(part", "wide giants"),
]


@pytest.mark.parametrize("plant", WRONG_RESULTS, ids=lambda plant: f"{plant.file}: {plant.bad}")
def test_a_wrong_result_is_seen(plant: Plant, shim: ShimLauncher) -> None:
    launcher, inside = plant.launcher(), outside_band(plant.name)
    with pytest.raises((AssertionError, ShimError)):
        outcome = evaluate_stages(launcher, example(plant.name), inside, maps=plant.maps)
        expected = judgement_of_maps(plant.name) if plant.maps else judgement(plant.name)
        assert_outcomes_agree(outcome, expected, inside, KERNEL_TOLERANCE)
        if plant.maps:
            assert_maps_agree(outcome, expected, inside, KERNEL_TOLERANCE)


# A barrier that is missing may do no harm in one order of the threads; it must in one of the two.
MISSING_BARRIERS = [
    Plant("blend.cu", "    __syncthreads();\n\n    for (int group", "\n    for (int group"),
    Plant("blend_backward.cu", "      __syncthreads();\n      store_group", "      store_group"),
    Plant("blend_backward.cu", "      __syncthreads();  // before", "      // before", "2000 in one tile"),
]


@pytest.mark.parametrize("plant", MISSING_BARRIERS, ids=lambda plant: f"{plant.file}: {plant.good.split()[-1]}")
def test_a_missing_barrier_is_seen(plant: Plant, shim: ShimLauncher) -> None:
    scene, inside = example(plant.name), outside_band(plant.name)
    with pytest.raises((AssertionError, ShimError)):
        first, second = (evaluate_stages(plant.launcher(backwards=order), scene, inside) for order in (False, True))
        assert_same_bits(first, second)
        assert_outcomes_agree(first, judgement(plant.name), inside, KERNEL_TOLERANCE)


# What a GPU answers with anything at all, or by hanging.
FORBIDDEN = [
    (
        Plant("tiles.cu", "  if (fits && rank < count) {", "  if (rank >= count) return;\n  if (fits) {"),
        "after some thread has ended|while others wait",
    ),
    (
        Plant("blend_backward.cu", "if (!__any_sync(kAllLanes, contributed)) continue;", "if (!contributed) continue;"),
        "different places|wait for ever",
    ),
    (
        Plant("blend.cu", "    __syncthreads();\n\n", "    if (pixels.warp) __syncthreads();\n\n"),
        "different places|wait for ever",
    ),
    (
        Plant("blend_backward.cu", "__shfl_xor_sync(kAllLanes, value[0],", "__shfl_xor_sync(1u << lane, value[0],"),
        "only whole warps",
    ),
]


@pytest.mark.parametrize(("plant", "message"), FORBIDDEN, ids=lambda value: getattr(value, "file", ""))
def test_what_no_gpu_has_to_accept_is_refused(plant: Plant, message: str, shim: ShimLauncher) -> None:
    with pytest.raises(ShimError, match=message):
        evaluate_stages(plant.launcher(), example(plant.name), outside_band(plant.name))


@pytest.mark.parametrize(
    ("plant", "squared"),
    [
        (Plant("loss_math.h", "kSsimShare = 0.2;", "kSsimShare = 0.21;"), False),
        (Plant("loss_math.h", "0.26601172486179436", "0.265"), False),
        (Plant("loss_math.h", "kSquaredSsimShare = 0.4;", "kSquaredSsimShare = 0.41;"), True),
        (Plant("loss_math.h", "::sqrt(squares * elements)", "::sqrt(squares)"), True),
    ],
    ids=lambda value: getattr(value, "bad", str(value)),
)
def test_an_error_in_the_loss_is_seen(plant: Plant, squared: bool, shim: ShimLauncher) -> None:
    image, target, mask = images(47, 33)
    loss, gradient = loss_and_gradient(shim, image, target, mask, squared=squared)
    wrong_loss, wrong_gradient = loss_and_gradient(plant.launcher(), image, target, mask, squared=squared)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(wrong_gradient, gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))
        assert abs(float(wrong_loss - loss)) <= 1e-6


@pytest.mark.parametrize(
    "plant",
    [
        Plant("adam_math.h", "one_minus_beta2 * gradient * gradient", "one_minus_beta2 * gradient"),
        Plant("adam_math.h", "f.keep * e.parameter", "e.parameter"),
    ],
    ids=lambda plant: plant.bad,
)
def test_an_error_in_adam_is_seen(plant: Plant, shim: ShimLauncher) -> None:
    gradients, start = torch.rand(3, 10) + 0.5, torch.ones(10)
    expected = adam_steps(shim, gradients, start, 0.01, 1e-15, decay=0.003)
    wrong = adam_steps(plant.launcher(), gradients, start, 0.01, 1e-15, decay=0.003)
    assert not torch.allclose(wrong, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "plant",
    [
        Plant("adam.cu", "rest -= gns::adam_blocks(count##k);", "rest -= gns::adam_blocks(count##k) + 1;"),
        Plant("adam.cu", "block = rest; ", "block = int(blockIdx.x);"),
        Plant("adam.cu", "second_moment##k, step##k,", "second_moment##k, step0,"),
        Plant("adam.cu", " keep##k};", " keep0};"),
    ],
    ids=lambda plant: plant.bad,
)
def test_an_error_in_the_tensors_of_adam_is_seen(plant: Plant, shim: ShimLauncher) -> None:
    right, wrong = (adam_together(launcher, SIZES_TOGETHER) for launcher in (shim, plant.launcher()))
    assert not all(torch.equal(a, b) for pair in zip(right, wrong, strict=True) for a, b in zip(*pair, strict=True))


def test_a_plant_that_changes_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to change"):
        ShimLauncher(edits={"adam.cu": lambda text: text})
