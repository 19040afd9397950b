"""The half quadrants of its tile that each instance meets: all that it draws on, and little else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer.backends.kernel_table import TILE
from gns.testing.comparison import example
from gns.testing.shim import ShimLauncher
from tests.cuda.stages import Stages, prepared
from tests.cuda.test_kernels import dense_alphas

EVERY_HALF = 0xFF
NAMES = ["33x47, degree 2", "wide giants", "1x1"]


def _bits(stages: Stages) -> Tensor:
    """Whether each of the list meets each half quadrant of its tile, [C, 8]: column by column, top to bottom."""
    return (stages.halves[:, None].int() >> torch.arange(8)) & 1 == 1


def _strongest(stages: Stages, alphas: Tensor) -> Tensor:
    """The largest α of each of the list on each half quadrant of its tile, [C, 8]; `alphas` is [N, H, W]."""
    columns, down = stages.tiles
    height, width = alphas.shape[1:]
    padded = torch.nn.functional.pad(alphas, (0, columns * TILE - width, 0, down * TILE - height))
    by_half = padded.view(-1, down, 4, 4, columns, 2, 8).amax(dim=(3, 6))  # [N, down, 4, columns, 2]
    by_tile = by_half.permute(0, 1, 3, 4, 2).reshape(len(alphas), down * columns, 8)
    tiles = torch.repeat_interleave(torch.arange(down * columns), stages.tile_ranges[:, 1] - stages.tile_ranges[:, 0])
    return by_tile[stages.list.long(), tiles]


def _assert_complete(stages: Stages, alphas: Tensor) -> None:
    missing = (_strongest(stages, alphas) >= 1 / 255) & ~_bits(stages)
    assert not missing.any(), f"{int(missing.sum())} half quadrants that are drawn on are not among those met"


@pytest.mark.parametrize("name", NAMES)
def test_halves_hold_every_contribution_and_little_else(name: str, shim: ShimLauncher) -> None:
    stages = prepared(shim, example(name))
    alphas = dense_alphas(example(name))
    _assert_complete(stages, alphas)
    met = _bits(stages)
    if name == "33x47, degree 2":  # in others most of the halves lie outside the image
        assert (_strongest(stages, alphas)[met] >= 0.9 / 255).double().mean() > 0.75
        assert met.double().mean() < 0.7, "hardly anything is left out"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_out_changes_no_bit(name: str, shim: ShimLauncher) -> None:
    scene, stages = example(name), prepared(shim, example(name))
    found = []
    for every in (False, True):
        if every:
            assert name == "1x1" or (stages.halves != EVERY_HALF).any()
            stages.halves.fill_(EVERY_HALF)
        image, alpha, scores = stages.blend(scene.background.float(), scene.edges.float())
        assert scores is not None
        stages.blend_backward(image, alpha, scene.image_weights.float(), None)
        found.append((image, alpha, scores, stages.packets))
    for exact, all_looked_at in zip(*found, strict=True):
        assert torch.equal(exact, all_looked_at)


PLANTS = [
    ("tiles.cuh", "(2u << unsigned(last)", "(1u << unsigned(last)"),
    ("tiles.cuh", "rows.first > top ? rows.first - top : 0", "rows.first - top"),
    ("tiles.cu", "column * kTile + kQuadrant, kQuadrant)", "column * kTile, kQuadrant)"),
    ("tiles.cu", "list_halves[i] = halves[slot];", "list_halves[i] = halves[i];"),
]


@pytest.mark.parametrize(("file", "good", "bad"), PLANTS, ids=[bad for _, _, bad in PLANTS])
def test_a_half_that_is_missing_is_seen(file: str, good: str, bad: str, shim: ShimLauncher) -> None:
    faulty = ShimLauncher(edits={file: lambda text: text.replace(good, bad, 1)})
    name = "33x47, degree 2"
    _assert_complete(prepared(shim, example(name)), dense_alphas(example(name)))
    with pytest.raises(AssertionError, match="not among those met"):
        _assert_complete(prepared(faulty, example(name)), dense_alphas(example(name)))
