"""The renderer on an NVIDIA GPU: kernels compiled at first use (gns/csrc/cuda), with torch's sorts between them.

A rendering is, forward, project; sort by depth; count and emit the tile instances; sort those by tile; blend. Backward
it is blend_backward and project_backward. All run in order on torch's current stream. Equal input gives equal bits:
sorts are stable, and every sum has a fixed order.

The host reads one number, M, how many instances there are; for a view that it has seen before without letting the GPU
wait. It makes room for as many as `Forecast` expects, queues all stages up to blend, and looks only then at M, which
has long arrived. Where the room was too small, no instance was listed, and it queues the stages from emit on once more.
What was foreseen changes no bit of any result.

Memory in bytes, kept from one rendering to the next and only ever grown (`rendering_bytes`):

    a Gaussian    splats 48, footprints 32, depth key 4, tile count 4, first slot 4
                  while sorting: sorted key 4, order 8, its counts 4, their sums 8, and 24 inside the sort
                  results: radius 4, absolute gradient 8
    an instance   gradient packet 48
    a slot        tile id 2, owner 4, list 4, its slot 4; there is an eighth more room than instances
                  while sorting: sorted id 2, index 8, and 20 inside the sort
    a pixel       image 12, alpha 4; loss: maps 36, image gradient 12
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from gns.errors import UserError
from gns.gaussian_renderer.autograd import Planes
from gns.gaussian_renderer.backends import kernel_table as kernels
from gns.gaussian_renderer.backends.cuda import Argument, Launcher, NvrtcLauncher
from gns.gaussian_renderer.backends.forecast import SLACK, Forecast
from gns.scene.camera import Camera
from gns.utils.readback import Readback
from gns.utils.workspace import SPARE, Workspace

LOSS_TILE = 16  # pixels, both ways, that a block of the loss kernels covers
MOST_INSTANCES = MOST_ELEMENTS = 2**31 - 1
MOST_PIXELS_ACROSS = 65535

BYTES_A_GAUSSIAN = 92 + 48 + 12
BYTES_AN_INSTANCE = 48
BYTES_A_SLOT = 14 + 30
BYTES_A_PIXEL = 16 + 48


def runs_on(device: torch.device) -> bool:
    """Whether tensors on `device` are this backend's."""
    return device.type == "cuda"


@cache
def launcher(device: torch.device) -> Launcher:
    """What runs kernels on `device`; compiles them when it is first asked for. Raises UserError where it cannot."""
    sources = {name: kernels.SOURCE_FOLDER / kernel.source for name, kernel in kernels.KERNELS.items()}
    return NvrtcLauncher(sources, kernels.COMPILE_OPTIONS, kernels.INCLUDE_FOLDERS, device)


def launch(name: str, device: torch.device, grid: Sequence[int], *arguments: Argument) -> None:
    """Run a kernel of `cuda_kernels.KERNELS` on torch's current stream; a grid without blocks is nothing to do."""
    blocks_x, blocks_y, blocks_z = (*grid, 1, 1)[:3]
    if blocks_x and blocks_y and blocks_z:
        launcher(device).launch(name, (blocks_x, blocks_y, blocks_z), kernels.KERNELS[name].block, arguments)


def blocks_of(items: int, size: int) -> int:
    """How many blocks of `size` cover `items`."""
    return -(-items // size)


class _Space(Workspace):
    """What one rendering works in."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.total = Readback(device)


# Those that no rendering uses at the moment.
_idle: dict[torch.device, list[_Space]] = {}

_forecast = Forecast()


def release_memory() -> None:
    """See `gns.gaussian_renderer.release_memory`."""
    _idle.clear()
    _forecast.forget()  # or the next renderings would make room for as many instances again


class Rendering:
    """One rendering on a GPU, see `gns.gaussian_renderer.autograd.Rendering`; its stages can be run one by one.

    Raises TypeError where the parameters are not float32, UserError where image or instances exceed what the kernels
    can number.
    """

    def __init__(self, camera: Camera, parameters: Planes, sh_degree: int) -> None:
        means = parameters[0]
        if means.dtype != torch.float32:
            raise TypeError(f"the CUDA renderer computes in float32, not {means.dtype}")
        if max(camera.width, camera.height) > MOST_PIXELS_ACROSS:
            raise UserError(
                f"view {camera.name} is {camera.width}×{camera.height} pixels: the CUDA renderer takes "
                f"{MOST_PIXELS_ACROSS} at most each way; give -r a smaller width"
            )
        if max(values.numel() for values in parameters) > MOST_ELEMENTS:
            raise UserError(f"{means.shape[-1]:,} Gaussians are more than the CUDA renderer can number: use fewer")
        self.camera, self.sh_degree = camera, sh_degree
        self.device, self.count = means.device, means.shape[-1]
        self.tiles = blocks_of(camera.width, kernels.TILE) * blocks_of(camera.height, kernels.TILE)
        self.instances = 0  # once they are counted
        self._parameters = parameters
        self._camera_arguments = kernels.camera_arguments(camera)
        idle = _idle.setdefault(self.device, [])
        self._space = idle.pop() if idle else _Space(self.device)

    def __del__(self) -> None:
        if hasattr(self, "_space"):
            # The next to use it queues its work behind that of this rendering, on the same stream.
            _idle.setdefault(self.device, []).append(self._space)

    def forward(
        self,
        image: Tensor | None,
        alpha: Tensor | None,
        radii: Tensor | None,
        background: Tensor,
        edges: Tensor | None,
        importance: Tensor | None,
    ) -> None:
        """Run the forward stages."""
        self.project(with_colour=image is not None, radii=radii)
        self.sort_by_depth()
        view = (self.device, self.camera.name, self.camera.width, self.camera.height)
        foreseen = _forecast.capacity(view, self.count) if self.count else 0
        room = self.count_instances() if foreseen is None else min(foreseen, MOST_INSTANCES)
        self._list_and_blend(room, image, alpha, background, edges)
        if foreseen is not None and self.count_instances() > room:
            self._list_and_blend(self.instances, image, alpha, background, edges)
        _forecast.learn(view, self.count, self.instances)
        if importance is not None:
            self.sum_scores(importance)

    def _list_and_blend(
        self, capacity: int, image: Tensor | None, alpha: Tensor | None, background: Tensor, edges: Tensor | None
    ) -> None:
        self.emit(capacity)
        self.sort_by_tile()
        self.blend(image, alpha, background, edges)

    def backward(
        self,
        image: Tensor,
        alpha: Tensor,
        image_gradient: Tensor,
        alpha_gradient: Tensor | None,
        gradients: Planes,
        abs_grad: Tensor | None,
    ) -> None:
        """Run the backward stages."""
        self.blend_backward(image, alpha, image_gradient, alpha_gradient, screen_gradients=abs_grad is not None)
        self.project_backward(gradients, abs_grad)

    # The stages, in order

    def project(self, *, with_colour: bool, radii: Tensor | None) -> None:
        """Splats, their depths and the number of tiles that each meets."""
        take, n = self._space.take, self.count
        self.splats = take("splats", (n, kernels.SPLAT))
        self.footprints = take("footprints", (n, kernels.FOOTPRINT))
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
        name = f"ranges{self._wide}"
        grid = (blocks_of(room, kernels.KERNELS[name].block[0]),)
        launch(name, self.device, grid, room, ids, index, self.owners, self.tile_ranges, self.list, self.slots)

    def blend(self, image: Tensor | None, alpha: Tensor | None, background: Tensor, edges: Tensor | None) -> None:
        """The picture, the scores of the instances, or both."""
        size = (self.camera.width, self.camera.height)
        if edges is None:
            self._launch_per_tile(
                "blend", *size, self.tile_ranges, self.list, self.splats, background.float(), image, alpha
            )
            return
        self.scores = self._space.take("scores", (self.capacity,))
        lists = (self.tile_ranges, self.list, self.slots, self.splats)
        if image is None:
            self._launch_per_tile("score", *size, *lists, edges, self.scores)
        else:
            self._launch_per_tile("blend_score", *size, *lists, background.float(), edges, image, alpha, self.scores)

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
        screen_gradients: bool,
    ) -> None:
        """The gradient packet of every instance; what abs_grad is made of is zero without `screen_gradients`."""
        self.packets = self._space.take("packets", (self.instances, kernels.PACKET))
        self._launch_per_tile(
            "blend_backward_screen" if screen_gradients else "blend_backward",
            self.camera.width,
            self.camera.height,
            self.tile_ranges,
            self.list,
            self.slots,
            self.splats,
            image,
            alpha,
            image_gradient,
            alpha_gradient,
            self.packets,
        )

    def project_backward(self, gradients: Planes, abs_grad: Tensor | None) -> None:
        """Add each Gaussian's gradients to `gradients`."""
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
            abs_grad,
        )

    @property
    def _wide(self) -> str:
        """What the names of kernels end in when tile ids need 32 bits."""
        return "_wide" if self.tiles > kernels.MOST_SHORT_TILES else ""

    @property
    def _id_type(self) -> torch.dtype:
        return torch.int32 if self._wide else torch.int16

    def _launch_per_gaussian(self, name: str, *arguments: Argument) -> None:
        launch(name, self.device, (blocks_of(self.count, kernels.KERNELS[name].block[0]),), *arguments)

    def _launch_per_tile(self, name: str, *arguments: Argument) -> None:
        launch(name, self.device, (self.tiles,), *arguments)


def rendering_bytes(gaussians: int, instances: int, pixels: int) -> int:
    """Memory of rendering, loss and their backward passes on a GPU, in bytes: the table above, and room to spare."""
    slots = round((1 + SLACK) * instances)
    least = gaussians * BYTES_A_GAUSSIAN + instances * BYTES_AN_INSTANCE + slots * BYTES_A_SLOT + pixels * BYTES_A_PIXEL
    return least + least // SPARE
