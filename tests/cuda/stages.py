"""The CUDA kernels one after the other, on poisoned buffers: what a test can look at, stage by stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gns.gaussian_renderer.backends.kernel_table import (
    FOOTPRINT,
    KERNELS,
    PACKET,
    SPLAT,
    TILE,
    Launchable,
    camera_arguments,
)
from gns.scene import Camera, Gaussians
from gns.scene.gaussians import as_planes
from gns.testing.comparison import Backend, Outcome
from gns.testing.examples import Example, converted
from gns.testing.shim import ShimLauncher

# What the CPU backend is allowed in float32; gradients a tenth of it.
KERNEL_TOLERANCE = Backend("cuda", torch.float32, image=1e-5, gradient=1e-4, rounding=1e-5)
NOT_DRAWN = 2**31 - 1  # depth key
POISON = {torch.uint8: 0xFF, torch.float32: math.nan, torch.int32: -(2**30), torch.int16: -(2**14)}


def poisoned(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """NaN, or a number that as an index would be far out of bounds."""
    return torch.full(shape, POISON[dtype], dtype=dtype)


@dataclass
class Stages:
    """One rendering; every stage's method needs those above it."""

    launcher: ShimLauncher
    camera: Camera
    gaussians: Gaussians  # float32
    sh_degree: int
    wide: bool = False  # tile ids of 32 bits
    splats: Tensor = field(init=False)  # [N, 12]
    depth_keys: Tensor = field(init=False)  # [N]
    tile_counts: Tensor = field(init=False)  # [N]
    radii: Tensor = field(init=False)  # [N]
    slot_begin: Tensor = field(init=False)  # [N]
    tile_ranges: Tensor = field(init=False)  # [T, 2]
    list: Tensor = field(init=False)  # [C]
    slots: Tensor = field(init=False)  # [C]
    halves: Tensor = field(init=False)  # [C]
    packets: Tensor = field(init=False)  # [C, 12]

    @property
    def tiles(self) -> tuple[int, int]:
        """Columns and rows."""
        return -(-self.camera.width // TILE), -(-self.camera.height // TILE)

    def _launch(self, name: str, work: int, *arguments: Launchable) -> None:
        block = KERNELS[name].block
        if work:
            self.launcher.launch(name, (-(-work // block[0]), 1, 1), block, arguments)

    def _launch_tiles(self, name: str, *arguments: Launchable) -> None:
        columns, rows = self.tiles
        size = (self.camera.width, self.camera.height)
        self.launcher.launch(name, (columns * rows, 1, 1), KERNELS[name].block, (*size, *arguments))

    def _camera(self) -> tuple[int | float, ...]:
        return camera_arguments(self.camera, antialiased=self.gaussians.antialiased)

    def _parameters(self) -> tuple[Tensor, ...]:
        return tuple(values.detach().movedim(0, -1) for _, values in self.gaussians.named_tensors())

    def project(self, with_colour: bool = True) -> None:
        """From parameters to splats, depth keys, tile counts, radii."""
        count = len(self.gaussians)
        self.splats = poisoned(count, SPLAT)
        self._footprints = poisoned(count, FOOTPRINT)
        self.depth_keys, self.tile_counts = (poisoned(count, dtype=torch.int32) for _ in range(2))
        self.radii = poisoned(count)
        outputs = (self.splats, self._footprints, self.depth_keys, self.tile_counts, self.radii)
        settings = (count, self.sh_degree, int(with_colour))
        self._launch("project", count, *self._camera(), *settings, *self._parameters(), *outputs)

    def list_instances(self, spare: int = 0) -> None:
        """The lists of all tiles, in buffers with room for `spare` instances more than there are."""
        count, suffix, ids = (
            len(self.gaussians),
            "_wide" if self.wide else "",
            torch.int32 if self.wide else torch.int16,
        )
        order = torch.sort(self.depth_keys, stable=True).indices
        ends = torch.cumsum(self.tile_counts[order], 0)
        instances = int(ends[-1]) if count else 0
        capacity = instances + spare if count else 0  # no thread would mark the spare ones
        self.slot_begin = poisoned(count, dtype=torch.int32)
        tile_ids, owners = poisoned(capacity, dtype=ids), poisoned(capacity, dtype=torch.int32)
        halves, self.halves = (poisoned(capacity, dtype=torch.uint8) for _ in range(2))
        inputs = (order, ends, self.tile_counts, self.splats, self._footprints)
        outputs = (self.slot_begin, tile_ids, owners, halves)
        self._launch(f"emit{suffix}", count, count, self.camera.width, capacity, *inputs, *outputs)
        sorted_ids, sort_index = torch.sort(tile_ids, stable=True)
        self.tile_ranges = torch.zeros(math.prod(self.tiles), 2, dtype=torch.int32)
        self.list, self.slots = (poisoned(capacity, dtype=torch.int32) for _ in range(2))
        outputs = (self.tile_ranges, self.list, self.slots, self.halves)
        self._launch(f"ranges{suffix}", capacity, capacity, sorted_ids, sort_index, owners, halves, *outputs)

    def blend(self, background: Tensor, edges: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Image, alpha; scores of all slots where there is an edge map."""
        image = poisoned(3, self.camera.height, self.camera.width)
        alpha = poisoned(self.camera.height, self.camera.width)
        if edges is None:
            lists = (self.tile_ranges, self.list, self.halves, self.splats)
            self._launch_tiles("blend", *lists, background, image, alpha)
            return image, alpha, None
        scores = poisoned(len(self.list))
        inputs = (self.tile_ranges, self.list, self.halves, self.slots, self.splats, background, edges)
        self._launch_tiles("blend_score", *inputs, image, alpha, scores)
        return image, alpha, scores

    def blend_maps(self, background: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Image, alpha, inverse depth, counts."""
        size = (self.camera.height, self.camera.width)
        pictures = (poisoned(3, *size), poisoned(*size), poisoned(*size), poisoned(*size, dtype=torch.int32))
        lists = (self.tile_ranges, self.list, self.halves, self.splats)
        self._launch_tiles("blend_maps", *lists, background, *pictures)
        return pictures

    def score(self, edges: Tensor) -> Tensor:
        """Scores of all slots alone."""
        scores = poisoned(len(self.list))
        lists = (self.tile_ranges, self.list, self.halves, self.slots, self.splats)
        self._launch_tiles("score", *lists, edges, scores)
        return scores

    def sum_scores(self, scores: Tensor) -> Tensor:
        """Importance [N]."""
        count = len(self.gaussians)
        importance = poisoned(count)
        self._launch("sum_scores", count, count, self.tile_counts, self.slot_begin, scores, importance)
        return importance

    def blend_backward(
        self,
        image: Tensor,
        alpha: Tensor,
        by_image: Tensor,
        by_alpha: Tensor | None,
        *,
        screen: bool = True,
        depths: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """The packets of all slots, with or without the sums for the absolute screen gradient.

        `depths`: the inverse depth and its gradient, where it has one.
        """
        self.packets = poisoned(len(self.list), PACKET)
        lists = (self.tile_ranges, self.list, self.halves, self.slots, self.splats)
        inputs = (*lists, image, alpha, by_image, by_alpha)
        name = "blend_backward_depth" if depths else "blend_backward_screen" if screen else "blend_backward"
        self._launch_tiles(name, *inputs, self.packets, *(depths or ()))

    def project_backward(self, gradients: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Adds to the gradients [N, ...] by group, stored as planes; returns the screen gradients [N, 2].

        First the absolute one, then the one with its sign.
        """
        count = len(self.gaussians)
        absolute, signed = poisoned(2, count), poisoned(2, count)
        inputs = (self.tile_counts, self.slot_begin, self.splats, self.packets)
        outputs = (*(values.movedim(0, -1) for values in gradients.values()), absolute, signed)
        settings = (*self._camera(), count, self.sh_degree)
        self._launch("project_backward", count, *settings, *self._parameters(), *inputs, *outputs)
        return absolute.movedim(0, -1), signed.movedim(0, -1)

    def empty_gradients(self, value: float = 0.0) -> dict[str, Tensor]:
        """A tensor like each parameter group, filled with `value`."""
        return {name: as_planes(torch.full_like(v, value)) for name, v in self.gaussians.named_tensors()}


def prepared(launcher: ShimLauncher, example: Example, *, wide: bool = False) -> Stages:
    """Stages of an example, down to its lists."""
    gaussians = converted(example.gaussians, torch.float32)
    degree = gaussians.sh_degree if example.sh_degree is None else example.sh_degree
    stages = Stages(launcher, example.camera, gaussians, degree, wide)
    stages.project()
    stages.list_instances()
    return stages


def evaluate_stages(
    launcher: ShimLauncher, example: Example, counted: Tensor, *, wide: bool = False, maps: bool = False
) -> Outcome:
    """As `comparison.evaluate`: all stages, forward and backward, on the weighted pixels `counted`."""
    stages = prepared(launcher, example, wide=wide)
    edges = (example.edges * counted).float()
    image, alpha, scores = stages.blend(example.background.float(), edges)
    assert scores is not None
    by_image, by_alpha = (example.image_weights * counted).float(), (example.alpha_weights * counted).float()
    inverse_depth = counts = depths = None
    if maps:
        image, alpha, inverse_depth, counts = stages.blend_maps(example.background.float())
        depths = (inverse_depth, (example.depth_weights * counted).float())
    stages.blend_backward(image, alpha, by_image, by_alpha, depths=depths)
    gradients = stages.empty_gradients()
    absolute, signed = stages.project_backward(gradients)
    screen = {"abs_grad": absolute.double(), "signed_grad": signed.double()}
    return Outcome(
        image=image.double(),
        alpha=alpha.double(),
        radii=stages.radii.double(),
        importance=stages.sum_scores(scores).double(),
        gradients={name: values.double() for name, values in gradients.items()} | screen,
        inverse_depth=None if inverse_depth is None else inverse_depth.double(),
        counts=counts,
    )
