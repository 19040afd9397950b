"""The backend on an NVIDIA GPU: the order in which kernels (gns/csrc/cuda) and torch's sorts follow each other.

A rendering is, forward, project; sort by depth; count and emit the tile instances; sort those by tile; blend. Backward
it is blend_backward and project_backward, or project_backward_step, which lets Adam spend the gradients at once. All
run in order on torch's current stream. Equal input gives equal bits: sorts are stable, and every sum has a fixed order.

The host reads one number, M, how many instances there are; for a view that it has seen before without letting the GPU
wait. It makes room for as many as `Forecast` expects, queues all stages up to blend, and looks only then at M, which
has long arrived. Where the room was too small, no instance was listed, and it queues the stages from emit on once more.
What was foreseen changes no bit of any result.

Memory in bytes, kept from one rendering to the next and only ever grown (`rendering_bytes`):

    a Gaussian    splats 48, footprints 32, depth key 4, tile count 4, first slot 4
                  while sorting: sorted key 4, order 8, its counts 4, their sums 8, and 24 inside the sort
                  results: radius 4, absolute gradient 8
    an instance   gradient packet 48
    a slot        tile id 2, owner 4, list 4, its slot 4, 2 × half quadrants 1; an eighth more of them than instances
                  while sorting: sorted id 2, index 8, and 20 inside the sort
    a pixel       image 12, alpha 4, where asked for inverse depth 4 and counts 4; loss: maps 36, image gradient 12
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from gns.errors import UserError
from gns.gaussian_renderer.backends import kernel_table as table
from gns.gaussian_renderer.backends.cuda import Kernels, Launcher
from gns.gaussian_renderer.backends.forecast import SLACK, Forecast
from gns.gaussian_renderer.backends.kernel_table import Launchable
from gns.gaussian_renderer.backends.protocol import (
    AdamGroup,
    BackwardStep,
    LossBackward,
    Planes,
    RenderGradients,
    RenderInputs,
    RenderTargets,
)
from gns.utils.readback import Readback
from gns.utils.workspace import SPARE, Workspace

LOSS_TILE = 16  # pixels, both ways, that a block of the loss kernels covers
MOST_INSTANCES = MOST_ELEMENTS = 2**31 - 1
MOST_PIXELS_ACROSS = 65535

BYTES_A_GAUSSIAN = 92 + 48 + 12
BYTES_AN_INSTANCE = 48
BYTES_A_SLOT = 16 + 30
BYTES_A_PIXEL = 16 + 48

_NO_TENSOR: tuple[Launchable, ...] = (0, None, None, None, None, 0.0, 0.0, 0.0)  # of `adam`


def blocks_of(items: int, size: int) -> int:
    """How many blocks of `size` cover `items`."""
    return -(-items // size)


class GpuBackend:
    """See `gns.gaussian_renderer.backends.protocol.Backend`. float32."""

    dtypes: tuple[torch.dtype, ...] = (torch.float32,)

    def __init__(
        self, device: torch.device, launcher: Launcher | None = None, forecast: Forecast | None = None
    ) -> None:
        """Nothing is asked of the GPU yet. `launcher` runs the kernels; by default they are compiled for `device`."""
        self.device = device
        self.kernels = Kernels(device, launcher)
        self.forecast = forecast or Forecast()
        # Those that no rendering uses at the moment, by the stream whose queue keeps their users apart.
        self.idle: defaultdict[int, list[_Space]] = defaultdict(list)

        self.steps_in_backward = True  # see `Backend.steps_in_backward`; off only to compare

    @property
    def description(self) -> str:
        """See `Backend.description`."""
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    def what_is_missing(self) -> str | None:
        """See `Backend.what_is_missing`. Tries compiler and driver: the kernels are compiled and loaded here."""
        try:
            _ = self.kernels.launcher
        except UserError as error:
            return str(error)
        return None

    def render(self, inputs: RenderInputs, targets: RenderTargets) -> Rendering:
        """See `Backend.render`."""
        rendering = Rendering(self, inputs)
        rendering.forward(targets)
        return rendering

    def photometric_loss(
        self,
        image: Tensor,
        target: Tensor,
        mask: Tensor | None,
        workspace: Workspace,
        *,
        squared: bool,
        differentiable: bool,
    ) -> tuple[Tensor, LossBackward]:
        """See `Backend.photometric_loss`.

        Maps of derivatives come first; the way back blurs them to the gradient, and scales it without the host's
        knowing the scale.
        """
        channels, height, width = image.shape
        grid = (blocks_of(width, LOSS_TILE), blocks_of(height, LOSS_TILE), channels)
        pictures = (width, height, image, target, None if mask is None else mask.view(torch.uint8))
        maps = workspace.take("loss_maps", (3, *image.shape)) if differentiable else None
        partial, loss = workspace.take("loss_partial", (math.prod(grid), 2)), image.new_empty(1)
        slope = workspace.take("loss_slope", (1,)) if squared else None
        self.kernels.launch("loss_maps", grid, *pictures, int(squared), maps, partial)
        self.kernels.launch("loss_sum", (1,), width, height, partial, loss, slope)

        def backward(scale: Tensor) -> Tensor:
            gradient = workspace.take("image_gradient", image.shape)
            self.kernels.launch("loss_gradient", grid, *pictures, slope, maps, scale.reshape(1).contiguous(), gradient)
            return gradient

        return loss[0], backward

    def dissimilarity(self, image: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """See `Backend.dissimilarity`."""
        height, width = target.shape[:2]
        out = image.new_empty((height, width))
        seen = None if mask is None else mask.view(torch.uint8)
        grid = (blocks_of(width, LOSS_TILE), blocks_of(height, LOSS_TILE))
        self.kernels.launch("dissimilarity", grid, width, height, image, target, seen, out)
        return out

    def adam(self, groups: Sequence[AdamGroup], beta1: float, beta2: float, epsilon: float) -> None:
        """See `Backend.adam`: one launch for as many groups as it takes."""
        most = table.ADAM_TENSORS
        if len(groups) > most:
            self.adam(groups[most:], beta1, beta2, epsilon)
        tensors: list[Launchable] = []
        blocks = 0
        for group in groups[:most]:
            count = group.tensors.parameter.numel()
            blocks += blocks_of(count, table.ADAM_PART)
            tensors += (count, *group.tensors.flat, *_factors(group, beta1, beta2))
        tensors += (most - len(groups)) * _NO_TENSOR
        self.kernels.launch("adam", (blocks,), *tensors, beta1, 1 - beta1, beta2, 1 - beta2, epsilon)

    def release_memory(self) -> None:
        """See `Backend.release_memory`."""
        self.idle.clear()
        self.forecast.forget()  # or the next renderings would make room for as many instances again

    def kept_bytes(self) -> int:
        """See `Backend.kept_bytes`."""
        return sum(space.nbytes for spaces in self.idle.values() for space in spaces)

    def rendering_bytes(self, gaussians: int, instances: int, pixels: int) -> int:
        """See `Backend.rendering_bytes`: the table above, and room to spare."""
        slots = round((1 + SLACK) * instances)
        a_gaussian, an_instance = gaussians * BYTES_A_GAUSSIAN, instances * BYTES_AN_INSTANCE
        least = a_gaussian + an_instance + slots * BYTES_A_SLOT + pixels * BYTES_A_PIXEL
        return least + least // SPARE


def stream_handle(device: torch.device) -> int:
    """Torch's current stream on `device`; 0 where work is not queued."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


def _factors(group: AdamGroup, beta1: float, beta2: float) -> tuple[float, float, float]:
    """rate / (1 − β₁ᵗ), 1 / √(1 − β₂ᵗ) and 1 − decay."""
    return group.rate / (1 - beta1**group.step), 1 / math.sqrt(1 - beta2**group.step), 1 - group.decay


class _Space(Workspace):
    """What one rendering works in."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.total = Readback(device)


class Rendering:
    """One rendering on a GPU, see `gns.gaussian_renderer.backends.protocol.Rendering`.

    Nothing has run when it is made: `forward` does, or its stages one by one. Raises UserError where image or instances
    exceed what the kernels can number.
    """

    def __init__(self, backend: GpuBackend, inputs: RenderInputs) -> None:
        camera, parameters = inputs.camera, inputs.parameters
        means = parameters[0]
        if max(camera.width, camera.height) > MOST_PIXELS_ACROSS:
            raise UserError(
                f"view {camera.name} is {camera.width}×{camera.height} pixels: the CUDA renderer takes "
                f"{MOST_PIXELS_ACROSS} at most each way; give -r a smaller width"
            )
        if max(values.numel() for values in parameters) > MOST_ELEMENTS:
            raise UserError(f"{means.shape[-1]:,} Gaussians are more than the CUDA renderer can number: use fewer")
        self.camera, self.sh_degree, self.count = camera, inputs.sh_degree, means.shape[-1]
        self.tiles = blocks_of(camera.width, table.TILE) * blocks_of(camera.height, table.TILE)
        self.instances = 0  # once they are counted
        self._backend, self._parameters = backend, parameters
        self._background, self._edges = inputs.background, inputs.edges
        self._camera_arguments = table.camera_arguments(camera, antialiased=inputs.antialiased)
        self._stream = stream_handle(means.device)
        try:
            self._space = backend.idle[self._stream].pop()
        except IndexError:  # asking before would not do: another thread may take the last one
            self._space = _Space(means.device)

    def __del__(self) -> None:
        if hasattr(self, "_space"):
            # The next to use it queues its work behind that of this rendering, on the same stream.
            self._backend.idle[self._stream].append(self._space)

    def forward(self, targets: RenderTargets) -> None:
        """Run the forward stages."""
        self.project(with_colour=targets.image is not None, radii=targets.radii)
        self.sort_by_depth()
        forecast = self._backend.forecast
        view = (self.camera.name, self.camera.width, self.camera.height)
        foreseen = forecast.capacity(view, self.count) if self.count else 0
        room = self.count_instances() if foreseen is None else min(foreseen, MOST_INSTANCES)
        self._list_and_blend(room, targets)
        if foreseen is not None and self.count_instances() > room:
            self._list_and_blend(self.instances, targets)
        forecast.learn(view, self.count, self.instances)
        if targets.importance is not None:
            self.sum_scores(targets.importance)

    def _list_and_blend(self, capacity: int, targets: RenderTargets) -> None:
        self.emit(capacity)
        self.sort_by_tile()
        if targets.inverse_depth is None and targets.counts is None:
            self.blend(targets.image, targets.alpha, scored=targets.importance is not None)
            return
        self.blend_maps(targets)
        if targets.importance is not None:
            self.blend(None, None, scored=True)

    def backward(
        self, image: Tensor, alpha: Tensor, gradients: RenderGradients, inverse_depth: Tensor | None = None
    ) -> None:
        """Run the backward stages."""
        pictures = (image, alpha, gradients.image, gradients.alpha)
        if gradients.inverse_depth is None:
            self.blend_backward(*pictures, absolute=gradients.abs_mean2d is not None)
        else:
            assert inverse_depth is not None
            self.blend_backward(*pictures, absolute=True, depths=(inverse_depth, gradients.inverse_depth))
        if gradients.step is None:
            self.project_backward(gradients.parameters, gradients.abs_mean2d, gradients.mean2d)
        else:
            self.project_backward_step(gradients.step, gradients.abs_mean2d, gradients.mean2d)

    # The stages, in order

    def project(self, *, with_colour: bool, radii: Tensor | None) -> None:
        """Splats, their depths and the number of tiles that each meets."""
        take, n = self._space.take, self.count
        self.splats = take("splats", (n, table.SPLAT))
        self.footprints = take("footprints", (n, table.FOOTPRINT))
        self.depth_keys = take("depth_keys", (n,), torch.int32)
        self.tile_counts = take("tile_counts", (n,), torch.int32)
        self._launch_per_gaussian(
            "project",
            *self._camera_arguments,
            n,
            self.sh_degree,
            int(with_colour),
            *self._parameters,
            self.splats,
            self.footprints,
            self.depth_keys,
            self.tile_counts,
            radii,
        )

    def sort_by_depth(self) -> None:
        """Gaussians near to far, those that are not drawn last, and how many instances they make."""
        n = self.count
        keys = self._space.take("sorted_keys", (n,), torch.int32)
        self.order = self._space.take("order", (n,), torch.int64)
        torch.sort(self.depth_keys, stable=True, out=(keys, self.order))
        # 64 bits: a few million large Gaussians make more instances than 32 can count.
        self.ends = self._space.take("ends", (n,), torch.int64)
        torch.cumsum(self.tile_counts[self.order], dim=0, dtype=torch.int64, out=self.ends)
        if n:
            self._space.total.start(self.ends[-1:])

    def count_instances(self) -> int:
        """How many instances there are. Waits until the depths are sorted, but for nothing that was queued later."""
        self.instances = int(self._space.total.finish()) if self.count else 0
        if self.instances > MOST_INSTANCES:
            raise UserError(
                f"view {self.camera.name} needs {self.instances:,} tile instances for {self.count:,} Gaussians, more "
                f"than the renderer can number ({MOST_INSTANCES:,}): the Gaussians are too large; lower -r or the "
                "learning rates"
            )
        return self.instances

    def emit(self, capacity: int) -> None:
        """The instances, Gaussian by Gaussian, near to far; none at all where there are more than `capacity`."""
        n, take = self.count, self._space.take
        self.capacity = capacity
        self.slot_begin = take("slot_begin", (n,), torch.int32)
        self.tile_ids = take(f"tile_ids{self._wide}", (capacity,), self._id_type)
        self.owners = take("owners", (capacity,), torch.int32)
        self._halves = take("halves", (capacity,), torch.uint8)
        self._launch_per_gaussian(
            f"emit{self._wide}",
            n,
            self.camera.width,
            capacity,
            self.order,
            self.ends,
            self.tile_counts,
            self.splats,
            self.footprints,
            self.slot_begin,
            self.tile_ids,
            self.owners,
            self._halves,
        )

    def sort_by_tile(self) -> None:
        """The list of every tile, near to far."""
        room, take = self.capacity, self._space.take
        ids = take(f"sorted_ids{self._wide}", (room,), self._id_type)
        index = take("sort_index", (room,), torch.int64)
        torch.sort(self.tile_ids, stable=True, out=(ids, index))
        self.tile_ranges = take("tile_ranges", (self.tiles, 2), torch.int32).zero_()
        self.list = take("list", (room,), torch.int32)
        self.slots = take("slots", (room,), torch.int32)
        self.list_halves = take("list_halves", (room,), torch.uint8)
        name = f"ranges{self._wide}"
        grid = (blocks_of(room, table.KERNELS[name].block[0]),)
        lists = (self.tile_ranges, self.list, self.slots, self.list_halves)
        self._backend.kernels.launch(name, grid, room, ids, index, self.owners, self._halves, *lists)

    def blend(self, image: Tensor | None, alpha: Tensor | None, *, scored: bool) -> None:
        """The picture, the scores of the instances, or both."""
        size, background, edges = (self.camera.width, self.camera.height), self._background, self._edges
        lists = (self.tile_ranges, self.list, self.list_halves)
        if not scored:
            self._launch_per_tile("blend", *size, *lists, self.splats, background, image, alpha)
            return
        self.scores = self._space.take("scores", (self.capacity,))
        scored_lists = (*lists, self.slots, self.splats)
        if image is None:
            self._launch_per_tile("score", *size, *scored_lists, edges, self.scores)
        else:
            self._launch_per_tile("blend_score", *size, *scored_lists, background, edges, image, alpha, self.scores)

    def blend_maps(self, targets: RenderTargets) -> None:
        """The picture with inverse depth and counts."""
        size = (self.camera.width, self.camera.height)
        lists = (self.tile_ranges, self.list, self.list_halves, self.splats)
        pictures = (targets.image, targets.alpha, targets.inverse_depth, targets.counts)
        self._launch_per_tile("blend_maps", *size, *lists, self._background, *pictures)

    def sum_scores(self, importance: Tensor) -> None:
        """Each Gaussian's sum of the scores of its instances."""
        self._launch_per_gaussian("sum_scores", self.count, self.tile_counts, self.slot_begin, self.scores, importance)

    def blend_backward(
        self,
        image: Tensor,
        alpha: Tensor,
        image_gradient: Tensor,
        alpha_gradient: Tensor | None,
        *,
        absolute: bool,
        depths: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """The gradient packet of every instance; what abs_mean2d is made of is zero unless `absolute`.

        `depths` are the inverse depth that was drawn and its gradient, where it has one; `absolute` is True then.
        """
        self.packets = self._space.take("packets", (self.instances, table.PACKET))
        self._launch_per_tile(
            "blend_backward_depth" if depths else "blend_backward_screen" if absolute else "blend_backward",
            self.camera.width,
            self.camera.height,
            self.tile_ranges,
            self.list,
            self.list_halves,
            self.slots,
            self.splats,
            image,
            alpha,
            image_gradient,
            alpha_gradient,
            self.packets,
            *(depths or ()),
        )

    def project_backward(self, gradients: Planes, abs_mean2d: Tensor | None, mean2d: Tensor | None) -> None:
        """Add each Gaussian's gradients to `gradients`, and write those by its mean on the screen where asked."""
        self._launch_per_gaussian(
            "project_backward",
            *self._camera_arguments,
            self.count,
            self.sh_degree,
            *self._parameters,
            self.tile_counts,
            self.slot_begin,
            self.splats,
            self.packets,
            *gradients,
            abs_mean2d,
            mean2d,
        )

    def project_backward_step(self, step: BackwardStep, abs_mean2d: Tensor | None, mean2d: Tensor | None) -> None:
        """Let Adam spend each Gaussian's gradients, and write those by its mean on the screen where asked."""
        stepped: list[Launchable] = []
        for group, further in zip(step.groups, step.further, strict=True):
            parameter, _, *moments = group.tensors.flat
            stepped += (parameter, *moments, further, *_factors(group, step.beta1, step.beta2))
        self._launch_per_gaussian(
            "project_backward_step",
            *self._camera_arguments,
            self.count,
            self.sh_degree,
            math.isqrt(self._parameters[-1].shape[0] + 1) - 1,
            self.tile_counts,
            self.slot_begin,
            self.splats,
            self.packets,
            abs_mean2d,
            mean2d,
            *stepped,
            *(step.beta1, 1 - step.beta1, step.beta2, 1 - step.beta2, step.epsilon),
        )

    @property
    def _wide(self) -> str:
        """What the names of kernels end in when tile ids need 32 bits."""
        return "_wide" if self.tiles > table.MOST_SHORT_TILES else ""

    @property
    def _id_type(self) -> torch.dtype:
        return torch.int32 if self._wide else torch.int16

    def _launch_per_gaussian(self, name: str, *arguments: Launchable) -> None:
        self._backend.kernels.launch(name, (blocks_of(self.count, table.KERNELS[name].block[0]),), *arguments)

    def _launch_per_tile(self, name: str, *arguments: Launchable) -> None:
        self._backend.kernels.launch(name, (self.tiles,), *arguments)
