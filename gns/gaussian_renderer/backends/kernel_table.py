"""The CUDA kernels (gns/csrc/cuda/*.cu) as a table: what a launcher and the host code must know of each.

A launcher offers `launch(name, grid, block, arguments)`. Arguments come in the order of the table: contiguous tensors
for arrays (their address is passed; None where the table says `optional`), numbers for scalars (float32 or int32). The
host leaves out launches whose grid has a zero in it: zero Gaussians, zero instances.

One rendering, and its way back; N Gaussians, M tile instances, room for C of them, T = ceil(W/16)·ceil(H/16) tiles:

    project                       splats, footprints, depth_keys, tile_counts, radii
    host: order = sort(depth_keys, stable), ends = cumsum(tile_counts[order]) in int64, M = ends[-1]
    emit (emit_wide)              slot_begin, tile_ids, owners, halves: one instance a slot, near to far; nothing
                                  where C < M
    host: sorted_ids, sort_index = sort(tile_ids, stable); tile_ranges zeroed
    ranges (ranges_wide)          tile_ranges, list, slots, list_halves
    blend | blend_score | score   image, alpha | + scores | scores alone;  sum_scores: importance
      | blend_maps                image, alpha, inverse_depth, counts
    loss_maps, loss_sum, loss_gradient;  dissimilarity
    blend_backward                packets, one a slot; every slot is written
      | blend_backward_screen       … with the sums for abs_mean2d, which are zero without
      | blend_backward_depth        … and with that of a gradient by the inverse depth
    project_backward              sums each Gaussian's packets in a fixed order; ADDS to the gradients
      | project_backward_step       … or spends them at once, in one step of Adam: they never come to memory
    adam                          all groups in one launch; clears the gradients

Nothing uses a floating-point atomic: the same input gives the same bits. Limits that the host must refuse beyond:
W, H ≤ 65535; M, C < 2³¹, C = 0 without Gaussians; elements of one tensor < 2³¹.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gns.scene.camera import Camera
from gns.scene.gaussians import GROUPS

SOURCE_FOLDER = Path(__file__).parents[2] / "csrc" / "cuda"
INCLUDE_FOLDERS = (SOURCE_FOLDER, SOURCE_FOLDER.parent)
# No contraction: what is computed in two kernels (tile counts, transmittances) must come out with the same bits.
COMPILE_OPTIONS = ("--std=c++17", "--fmad=false")

TILE = 16  # pixels, both ways
MOST_SHORT_TILES = 32767  # with more tiles use emit_wide and ranges_wide, whose tile ids are int32
PACKET = 12  # floats of gradient sums a tile instance
SPLAT = 12  # floats a Gaussian: (x, y, pixel columns, pixel rows), (qa, qb, qc, ql), (red, green, blue, depth)
FOOTPRINT = 8  # floats a Gaussian, see tiles.cuh
ADAM_TENSORS = 6  # that one launch of `adam` takes
ADAM_PART = 1024  # elements of a tensor that one block of `adam` takes
FRUSTUM_MARGIN = 1.3  # kFrustumMargin of splat_math.h

Launchable = Tensor | int | float | None


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel."""

    name: str
    dtype: torch.dtype
    shape: str  # of an array, in words; "" for a scalar
    optional: bool = False  # None may be passed


@dataclass(frozen=True)
class Kernel:
    """One kernel, by the name that it has in its source."""

    name: str
    source: str  # file in SOURCE_FOLDER
    block: tuple[int, int, int]
    grid: str  # blocks needed, in words
    arguments: tuple[Argument, ...]


def _scalars(dtype: torch.dtype, names: str) -> tuple[Argument, ...]:
    return tuple(Argument(name, dtype, "") for name in names.split())


def _integers(names: str) -> tuple[Argument, ...]:
    return _scalars(torch.int32, names)


def _floats(name: str, shape: str, optional: bool = False) -> Argument:
    return Argument(name, torch.float32, shape, optional)


def _ints(name: str, shape: str, optional: bool = False) -> Argument:
    return Argument(name, torch.int32, shape, optional)


_CAMERA = (
    *_integers("width height"),
    *_scalars(torch.float32, "fx fy cx cy r0 r1 r2 r3 r4 r5 r6 r7 r8 tx ty tz center_x center_y center_z"),
    *_scalars(torch.float32, "limit_x limit_y"),
    *_integers("antialiased"),
)
_SHAPES = dict(zip(GROUPS, ("[3, N]", "[3, N]", "[4, N]", "[N]", "[1, 3, N]", "[K, 3, N]"), strict=True))
_PARAMETERS = tuple(_floats(name, shape) for name, shape in _SHAPES.items())
_GRADIENTS = tuple(_floats(f"{name}_gradient", shape + ", added to") for name, shape in _SHAPES.items())
_SPLATS = _floats("splats", "[N, 12]; only where tile_counts > 0")
_FOOTPRINTS = _floats("footprints", "[N, 8]; only where tile_counts > 0")
_TILE_COUNTS = _ints("tile_counts", "[N]")
_SLOT_BEGIN = _ints("slot_begin", "[N]; only where tile_counts > 0")
_RANGES = _ints("tile_ranges", "[T, 2], first and one past the last instance in `list`")
_LIST = _ints("list", "[C], Gaussian of each instance, tile by tile, near to far")
_LIST_HALVES = Argument("halves", torch.uint8, "[C], 8×4 pixels of its tile that each of `list` meets, a bit for each")
_SLOTS = _ints("slots", "[C], slot of each instance of `list`")
_SCREEN_GRADIENTS = (
    _floats("abs_mean2d", "[2, N], written, not added to; needs blend_backward_screen or …_depth", optional=True),
    _floats("mean2d", "[2, N], written, not added to", optional=True),
)
_ADAM_FACTORS = _scalars(torch.float32, "beta1 one_minus_beta1 beta2 one_minus_beta2 epsilon")
_TARGET = Argument("target", torch.uint8, "[H, W, 3]")
_MASK = Argument("mask", torch.uint8, "[H, W], zero where a pixel does not count", optional=True)
_MAPS = "[3, 3, H, W]: derivatives of SSIM by blurred x, x², xy; each for three channels"
_LOSS_GRID = "(ceil(W/16), ceil(H/16), 3)"


def _emit(name: str, ids: torch.dtype) -> Kernel:
    arguments = (
        *_integers("count width capacity"),
        Argument("order", torch.int64, "[N], Gaussians by depth"),
        Argument("ends", torch.int64, "[N], running sum of tile_counts[order], its own count included"),
        _TILE_COUNTS,
        _SPLATS,
        _FOOTPRINTS,
        _SLOT_BEGIN,
        Argument("tile_ids", ids, "[C]; the largest number of the type where no instance is"),
        _ints("owners", "[C], Gaussian of each slot"),
        Argument("halves", torch.uint8, "[C], 8×4 pixels of its tile that each slot meets, a bit for each"),
    )
    return Kernel(name, "tiles.cu", (256, 1, 1), "ceil(N/256)", arguments)


def _ranges(name: str, ids: torch.dtype) -> Kernel:
    arguments = (
        *_integers("capacity"),
        Argument("sorted_ids", ids, "[C], tile_ids sorted"),
        Argument("sort_index", torch.int64, "[C], slot of each sorted id"),
        _ints("owners", "[C]"),
        Argument("halves", torch.uint8, "[C]"),
        _ints("tile_ranges", "[T, 2]; must hold zeros"),
        _LIST,
        _SLOTS,
        Argument("list_halves", torch.uint8, "[C]"),
    )
    return Kernel(name, "tiles.cu", (256, 1, 1), "ceil(C/256)", arguments)


def _blend_backward(name: str, *further: Argument) -> Kernel:
    arguments = (
        *_integers("width height"),
        _RANGES,
        _LIST,
        _LIST_HALVES,
        _SLOTS,
        _SPLATS,
        _floats("image", "[3, H, W], what `blend` drew"),
        _floats("alpha", "[H, W], what `blend` drew; needed with alpha_gradient", optional=True),
        _floats("image_gradient", "[3, H, W]"),
        _floats("alpha_gradient", "[H, W]", optional=True),
        _floats("packets", "[M, 12]; every slot is written"),
        *further,
    )
    return Kernel(name, "blend_backward.cu", (128, 1, 1), "T", arguments)


def _stepped(name: str, shape: str) -> tuple[Argument, ...]:
    return (
        *(_floats(f"{name}{part}", f"{shape}, changed") for part in ("", "_first_moment", "_second_moment")),
        _floats(f"{name}_further", f"{shape}, gradient by something else than the picture", optional=True),
        # rate/(1 − β₁ᵗ), 1/sqrt(1 − β₂ᵗ), 1 − decay
        *_scalars(torch.float32, f"{name}_step {name}_inverse_root {name}_keep"),
    )


def _adam_tensor(k: int) -> tuple[Argument, ...]:
    return (
        *_integers(f"count{k}"),  # 0 for a tensor that is not there
        _floats(f"parameter{k}", "[count]", optional=True),
        _floats(f"gradient{k}", "[count], zeroed", optional=True),
        _floats(f"first_moment{k}", "[count]", optional=True),
        _floats(f"second_moment{k}", "[count]", optional=True),
        *_scalars(torch.float32, f"step{k} inverse_root{k} keep{k}"),  # rate/(1 − β₁ᵗ), 1/sqrt(1 − β₂ᵗ), 1 − decay
    )


_KERNELS = (
    Kernel(
        "project",
        "project.cu",
        (256, 1, 1),
        "ceil(N/256)",
        (
            *_CAMERA,
            *_integers("count sh_degree with_colour"),
            *_PARAMETERS,
            _SPLATS,
            _FOOTPRINTS,
            _ints("depth_keys", "[N], bits of the depth; the largest int32 where nothing is drawn"),
            _TILE_COUNTS,
            _floats("radii", "[N], pixels; 0 where not drawn", optional=True),
        ),
    ),
    _emit("emit", torch.int16),
    _emit("emit_wide", torch.int32),
    _ranges("ranges", torch.int16),
    _ranges("ranges_wide", torch.int32),
    Kernel(
        "blend",
        "blend.cu",
        (128, 1, 1),
        "T",
        (
            *_integers("width height"),
            _RANGES,
            _LIST,
            _LIST_HALVES,
            _SPLATS,
            _floats("background", "[3]"),
            _floats("image", "[3, H, W]"),
            _floats("alpha", "[H, W]", optional=True),
        ),
    ),
    Kernel(
        "blend_maps",
        "blend.cu",
        (128, 1, 1),
        "T",
        (
            *_integers("width height"),
            _RANGES,
            _LIST,
            _LIST_HALVES,
            _SPLATS,
            _floats("background", "[3]"),
            _floats("image", "[3, H, W]"),
            _floats("alpha", "[H, W]", optional=True),
            _floats("inverse_depth", "[H, W]", optional=True),
            _ints("counts", "[H, W]", optional=True),
        ),
    ),
    Kernel(
        "blend_score",
        "blend.cu",
        (128, 1, 1),
        "T",
        (
            *_integers("width height"),
            _RANGES,
            _LIST,
            _LIST_HALVES,
            _SLOTS,
            _SPLATS,
            _floats("background", "[3]"),
            _floats("edges", "[H, W]"),
            _floats("image", "[3, H, W]"),
            _floats("alpha", "[H, W]", optional=True),
            _floats("scores", "[C]; the slot of every instance is written"),
        ),
    ),
    Kernel(
        "score",
        "blend.cu",
        (128, 1, 1),
        "T",
        (
            *_integers("width height"),
            _RANGES,
            _LIST,
            _LIST_HALVES,
            _SLOTS,
            _SPLATS,
            _floats("edges", "[H, W]"),
            _floats("scores", "[C]; the slot of every instance is written"),
        ),
    ),
    Kernel(
        "sum_scores",
        "blend.cu",
        (256, 1, 1),
        "ceil(N/256)",
        (*_integers("count"), _TILE_COUNTS, _SLOT_BEGIN, _floats("scores", "[C]"), _floats("importance", "[N]")),
    ),
    _blend_backward("blend_backward"),
    _blend_backward("blend_backward_screen"),
    _blend_backward(
        "blend_backward_depth",
        _floats("inverse_depth", "[H, W], what `blend_maps` drew"),
        _floats("depth_gradient", "[H, W]"),
    ),
    Kernel(
        "project_backward",
        "project_backward.cu",
        (128, 1, 1),
        "ceil(N/128)",
        (
            *_CAMERA,
            *_integers("count sh_degree"),
            *_PARAMETERS,
            _TILE_COUNTS,
            _SLOT_BEGIN,
            _SPLATS,
            _floats("packets", "[M, 12]"),
            *_GRADIENTS,
            *_SCREEN_GRADIENTS,
        ),
    ),
    Kernel(
        "project_backward_step",
        "project_backward.cu",
        (128, 1, 1),
        "ceil(N/128)",
        (
            *_CAMERA,
            *_integers("count sh_degree sh_stored"),  # the degree drawn, and that of all K coefficients
            _TILE_COUNTS,
            _SLOT_BEGIN,
            _SPLATS,
            _floats("packets", "[M, 12]"),
            *_SCREEN_GRADIENTS,
            *(argument for name, shape in _SHAPES.items() for argument in _stepped(name, shape)),
            *_ADAM_FACTORS,
        ),
    ),
    Kernel(
        "loss_maps",
        "loss.cu",
        (16, 16, 1),
        _LOSS_GRID,
        (
            *_integers("width height"),
            _floats("image", "[3, H, W]"),
            _TARGET,
            _MASK,
            *_integers("squared"),
            _floats("maps", _MAPS, optional=True),
            _floats("partial", "[blocks of the grid, 2]: sums of |x − y|, or squared of (x − y)², and of SSIM"),
        ),
    ),
    Kernel(
        "loss_sum",
        "loss.cu",
        (256, 1, 1),
        "1",
        (
            *_integers("width height"),
            _floats("partial", "as loss_maps wrote it"),
            _floats("loss", "[1]"),
            _floats("slope", "[1], where errors are squared: their gradient's factor of x − y", optional=True),
        ),
    ),
    Kernel(
        "loss_gradient",
        "loss.cu",
        (16, 16, 1),
        _LOSS_GRID,
        (
            *_integers("width height"),
            _floats("image", "[3, H, W]"),
            _TARGET,
            _MASK,
            _floats("slope", "as loss_sum wrote it; None where errors are not squared", optional=True),
            _floats("maps", _MAPS),
            _floats("scale", "[1], multiplies the gradient; None is 1", optional=True),
            _floats("gradient", "[3, H, W]"),
        ),
    ),
    Kernel(
        "dissimilarity",
        "loss.cu",
        (16, 16, 1),
        "(ceil(W/16), ceil(H/16), 1)",
        (
            *_integers("width height"),
            _floats("image", "[3, H, W]"),
            _TARGET,
            _MASK,
            _floats("out", "[H, W]"),
        ),
    ),
    Kernel(
        "adam",
        "adam.cu",
        (256, 1, 1),
        "sum of ceil(count/1024) over the tensors",
        (
            *(argument for k in range(ADAM_TENSORS) for argument in _adam_tensor(k)),
            *_ADAM_FACTORS,
        ),
    ),
)

KERNELS: dict[str, Kernel] = {kernel.name: kernel for kernel in _KERNELS}
SOURCES: tuple[str, ...] = tuple(sorted({kernel.source for kernel in _KERNELS}))


def camera_arguments(camera: Camera, *, antialiased: bool) -> tuple[int | float, ...]:
    """The arguments `width` to `antialiased` of project and project_backward."""
    return (
        camera.width,
        camera.height,
        float(camera.fx),
        float(camera.fy),
        float(camera.cx),
        float(camera.cy),
        *(float(value) for value in camera.rotation.ravel()),
        *(float(value) for value in camera.translation),
        *(float(value) for value in camera.center),
        FRUSTUM_MARGIN * 0.5 * camera.width / camera.fx,
        FRUSTUM_MARGIN * 0.5 * camera.height / camera.fy,
        int(antialiased),
    )
