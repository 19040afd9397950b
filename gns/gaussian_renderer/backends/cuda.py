"""The launcher: CUDA sources compiled at first use by NVRTC, kept on disk, launched on torch's current stream.

No CUDA toolkit and no host compiler: NVRTC comes with torch's CUDA wheels, and NVIDIA's cuda-core talks to it and to
the driver. Compiling needs no GPU.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gns.errors import UserError
from gns.gaussian_renderer.backends import kernel_table
from gns.gaussian_renderer.backends.kernel_table import Launchable
from gns.utils.atomic_files import write_bytes

OLDEST_CAPABILITY = (7, 5)  # Turing: the oldest architecture that current compilers make code for

Size = tuple[int, int, int]

_INSTALL = (
    "run pip install '.[cuda]' in the folder of gns (with torch for CUDA 12: pip install 'cuda-core[cu12]'), or use "
    "--device cpu"
)


class Launcher(Protocol):
    """Whatever runs kernels by name: the GPU, or a stand-in for it in tests."""

    def launch(self, name: str, grid: Size, block: Size, args: Sequence[Launchable]) -> None:
        """Start kernel `name` on `grid` blocks of `block` threads.

        A tensor is passed as a pointer to its first element and must be contiguous, an int as int32, a float as
        float32, None as a null pointer.
        """
        ...


def missing_parts() -> str | None:
    """What has to be installed before anything can be compiled, as half a sentence; None where all is there."""
    try:
        core = importlib.import_module("cuda.core")
    except ImportError as error:
        return f"the package cuda-core is missing ({error}): {_INSTALL}"
    if not hasattr(core, "Program"):
        return f"the package cuda-core is older than 1.0: {_INSTALL}"
    try:
        _version()
    except Exception as error:  # whatever the loader of shared libraries throws
        return f"NVIDIA's run-time compiler NVRTC cannot be loaded ({_first_line(error)}): {_INSTALL}"
    return None


def _version() -> tuple[int, int]:
    """The version of NVRTC."""
    nvrtc = importlib.import_module("cuda.bindings.nvrtc")
    status, major, minor = nvrtc.nvrtcVersion()
    if int(status) != 0:
        raise RuntimeError(str(status))
    return int(major), int(minor)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def compile_cubin(
    source: Path, arch: str, options: Sequence[str], include: Sequence[Path], *, log: io.StringIO | None = None
) -> bytes:
    """Machine code of the kernels in `source` for `arch`, such as "sm_90".

    Of NVRTC's command line, `options` may hold "--std=…" and "--fmad=false"; `include` are the folders of headers.
    `log` receives what the assembler says about registers and memory.

    Raises UserError where the source does not compile, ValueError for another option.
    """
    core = importlib.import_module("cuda.core")
    settings: dict[str, Any] = {"arch": arch, "include_path": [str(folder) for folder in include], "name": source.name}
    for option in options:
        if option.startswith("--std="):
            settings["std"] = option.removeprefix("--std=")
        elif option == "--fmad=false":
            settings["fma"] = False
        else:
            raise ValueError(f"there is no use for the option {option} of NVRTC here")
    if log is not None:
        settings["ptxas_options"] = "-v"
    try:
        program = core.Program(source.read_text(encoding="utf-8"), "c++", core.ProgramOptions(**settings))
        code: bytes = program.compile("cubin", logs=log).code
    except Exception as error:  # cuda-core has a type of its own for each of the libraries below it
        raise UserError(f"the CUDA kernels in {source.name} do not compile for {arch}: {error}") from error
    return code


def cache_folder() -> Path:
    """Where compiled kernels are kept: $XDG_CACHE_HOME/gns, by default ~/.cache/gns."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gns"


def cached_cubin(source: Path, arch: str, options: Sequence[str], include: Sequence[Path]) -> bytes:
    """The same as `compile_cubin`, from disk where an earlier run has left it.

    What decides the result decides the name of the file: the source, everything in the folders of headers, options,
    architecture and compiler. A damaged file is made anew; without a folder to write to, every run compiles.
    """
    path = cache_folder() / f"{source.stem}-{arch}-{_fingerprint(source, options, include)}.cubin"
    with suppress(OSError):
        kept = path.read_bytes()
        if hashlib.sha256(kept[_DIGEST:]).digest() == kept[:_DIGEST]:
            return kept[_DIGEST:]
    code = compile_cubin(source, arch, options, include)
    with suppress(UserError):
        write_bytes(path, hashlib.sha256(code).digest() + code)
    return code


_DIGEST = hashlib.sha256().digest_size


def _fingerprint(source: Path, options: Sequence[str], include: Sequence[Path]) -> str:
    digest = hashlib.sha256(repr((tuple(options), _version())).encode())
    headers = {path for folder in include for pattern in ("*.h", "*.cuh") for path in folder.glob(pattern)}
    for path in (source, *sorted(headers)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]


class NvrtcLauncher:
    """Launches the kernels of some sources on one GPU, on torch's current stream there."""

    def __init__(
        self, sources: Mapping[str, Path], options: Sequence[str], include: Sequence[Path], device: torch.device
    ) -> None:
        """`sources` gives the file of each kernel by name; see `compile_cubin` for the rest.

        Everything is compiled here. Raises UserError where a part is missing, a source does not compile or the driver
        does not take the result.
        """
        if (missing := missing_parts()) is not None:
            raise UserError(f"the CUDA renderer cannot start: {missing}")
        core = importlib.import_module("cuda.core")
        self._launch, self._config, self._device = core.launch, core.LaunchConfig, core.Device
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.arch = "sm_{}{}".format(*torch.cuda.get_device_capability(self.device))
        codes = {path: cached_cubin(path, self.arch, options, include) for path in set(sources.values())}
        self._enter()
        try:
            libraries = {path: core.ObjectCode.from_cubin(code) for path, code in codes.items()}
            self._kernels = {name: libraries[path].get_kernel(name) for name, path in sources.items()}
        except Exception as error:
            raise UserError(
                f"the driver does not take the kernels that NVRTC {'.'.join(map(str, _version()))} has compiled "
                f"({_first_line(error)}): update the driver, or install the NVRTC that belongs to torch's CUDA "
                f"{torch.version.cuda}"
            ) from error

    def _enter(self) -> None:
        """Make the GPU's context current in this thread: autograd's threads may start without one."""
        self._device(self.device.index).set_current()

    def launch(self, name: str, grid: Size, block: Size, args: Sequence[Launchable]) -> None:
        """See `Launcher.launch`. Does not wait for the kernel."""
        self._enter()
        stream = _TorchStream(torch.cuda.current_stream(self.device).cuda_stream)
        converted = [self._converted(name, argument) for argument in args]
        self._launch(stream, self._config(grid=grid, block=block), self._kernels[name], *converted)

    def _converted(self, name: str, argument: Launchable) -> Any:
        """An argument as cuda-core takes it; it reads a plain int as a pointer."""
        if isinstance(argument, float):  # first, because most are
            return np.float32(argument)
        if argument is None:
            return 0
        if isinstance(argument, Tensor):
            if argument.device != self.device or not argument.is_contiguous():
                raise ValueError(
                    f"kernel {name} on {self.device} was given a tensor on {argument.device}, shape "
                    f"{tuple(argument.shape)}, stride {argument.stride()}"
                )
            return argument.data_ptr()
        if not -(2**31) <= argument < 2**31:  # numpy 1.x would wrap it round
            raise OverflowError(f"kernel {name} was given {argument}, which does not fit in 32 bits")
        return np.int32(argument)


class _TorchStream:
    """A stream of torch in the form that cuda-core asks for."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


class Kernels:
    """The kernels of `kernel_table` on one device."""

    def __init__(self, device: torch.device, launcher: Launcher | None = None) -> None:
        """`launcher` runs them; by default they are compiled for `device` when the first is launched."""
        self._device = device
        if launcher is not None:
            self.launcher = launcher

    @cached_property
    def launcher(self) -> Launcher:
        """What runs the kernels. Raises UserError where they cannot be compiled, see `NvrtcLauncher`."""
        sources = {name: kernel_table.SOURCE_FOLDER / kernel.source for name, kernel in kernel_table.KERNELS.items()}
        return NvrtcLauncher(sources, kernel_table.COMPILE_OPTIONS, kernel_table.INCLUDE_FOLDERS, self._device)

    def launch(self, name: str, grid: Sequence[int], *arguments: Launchable) -> None:
        """Run kernel `name` on torch's current stream, in the blocks of its table; an empty grid is nothing to do."""
        blocks_x, blocks_y, blocks_z = (*grid, 1, 1)[:3]
        if blocks_x and blocks_y and blocks_z:
            block = kernel_table.KERNELS[name].block
            self.launcher.launch(name, (blocks_x, blocks_y, blocks_z), block, arguments)
