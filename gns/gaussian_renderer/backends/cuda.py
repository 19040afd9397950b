"""The launcher: CUDA sources compiled by NVRTC when they are first needed, launched on torch's stream by cuda-core."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch

from gns.errors import UserError
from gns.gaussian_renderer.backends import kernel_table
from gns.gaussian_renderer.backends.kernel_arguments import converted
from gns.gaussian_renderer.backends.kernel_table import Kernel, Launchable
from gns.gaussian_renderer.backends.nvrtc import (
    architecture_for,
    cached_kernels,
    compiler_version,
    first_line,
    install_hint,
    missing_parts,
    supported_architectures,
)

Size = tuple[int, int, int]


class Launcher(Protocol):
    """Whatever runs kernels by name: the GPU, or a stand-in for it in tests."""

    def launch(self, name: str, grid: Size, block: Size, args: Sequence[Launchable]) -> None:
        """Start kernel `name` on `grid` blocks of `block` threads, with arguments as its table asks for them."""
        ...


class NvrtcLauncher:
    """Launches some kernels on one GPU, on torch's current stream there."""

    def __init__(
        self,
        kernels: Mapping[str, Kernel],
        folder: Path,
        options: Sequence[str],
        include: Sequence[Path],
        device: torch.device,
    ) -> None:
        """`folder` holds the kernels' sources; see `nvrtc.compile_kernels` for `options` and `include`.

        Everything is compiled here, and given to the driver. Raises UserError where a part is missing, the GPU is too
        old, a source does not compile or the driver does not take the result.
        """
        if (missing := missing_parts()) is not None:
            raise UserError(missing)
        core = importlib.import_module("cuda.core")
        self._launch, self._config, self._device = core.launch, core.LaunchConfig, core.Device
        self._stream_of = core.Stream.from_handle
        self._streams: dict[int, Any] = {}  # cuda-core's, by the handle of torch's
        self._tables = dict(kernels)
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.arch = architecture_for(torch.cuda.get_device_capability(self.device), supported_architectures())
        sources = {kernel.source for kernel in kernels.values()}
        codes = {name: cached_kernels(folder / name, self.arch, options, include) for name in sources}
        load = core.ObjectCode.from_cubin if self.arch.startswith("sm_") else core.ObjectCode.from_ptx
        try:
            with torch.cuda.device(self.device):
                self._enter()
                modules = {name: load(code) for name, code in codes.items()}
                self._kernels = {name: modules[kernel.source].get_kernel(name) for name, kernel in kernels.items()}
        except Exception as error:  # cuda-core has a type of its own for each of the libraries below it
            raise UserError(
                f"the driver does not take the kernels that NVRTC {compiler_version()} has compiled for {self.arch} "
                f"({first_line(error)}): update the driver, or {install_hint()}"
            ) from error

    def _enter(self) -> None:
        """Make the GPU's context current in this thread: a new thread has none, and torch does not mind."""
        self._device(self.device.index).set_current()

    def launch(self, name: str, grid: Size, block: Size, args: Sequence[Launchable]) -> None:
        """See `Launcher.launch`. Does not wait for the kernel, and leaves torch's current device as it is.

        Raises TypeError, ValueError and OverflowError for arguments that are not the kernel's, see
        `kernel_arguments.converted`.
        """
        values = converted(self._tables[name], args, self.device)
        with torch.cuda.device(self.device):
            self._enter()
            stream = self._stream(torch.cuda.current_stream(self.device).cuda_stream)
            self._launch(stream, self._config(grid=grid, block=block), self._kernels[name], *values)

    def _stream(self, handle: int) -> Any:
        """cuda-core's view of a stream of torch. Torch has a few dozen, and never destroys one."""
        stream = self._streams.get(handle)
        if stream is None:
            stream = self._streams[handle] = self._stream_of(handle)
        return stream


class Kernels:
    """The kernels of `kernel_table` on one device."""

    def __init__(self, device: torch.device, launcher: Launcher | None = None) -> None:
        """`launcher` runs them; by default they are compiled for `device` when they are first needed."""
        self._device = device
        if launcher is not None:
            self.launcher = launcher

    @cached_property
    def launcher(self) -> Launcher:
        """What runs the kernels. Raises UserError where they cannot be compiled and loaded, see `NvrtcLauncher`."""
        return NvrtcLauncher(
            kernel_table.KERNELS,
            kernel_table.SOURCE_FOLDER,
            kernel_table.COMPILE_OPTIONS,
            kernel_table.INCLUDE_FOLDERS,
            self._device,
        )

    def launch(self, name: str, grid: Sequence[int], *arguments: Launchable) -> None:
        """Run kernel `name` on torch's current stream, in the blocks of its table; an empty grid is nothing to do."""
        blocks_x, blocks_y, blocks_z = (*grid, 1, 1)[:3]
        if blocks_x and blocks_y and blocks_z:
            block = kernel_table.KERNELS[name].block
            self.launcher.launch(name, (blocks_x, blocks_y, blocks_z), block, arguments)
