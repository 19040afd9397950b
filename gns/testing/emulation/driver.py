"""A stand-in for NVIDIA's driver, which cuda-core takes for the real one; what it launches runs in the shim."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import torch

from gns.testing.shim import ShimLauncher, built_library

_FOLDER = Path(__file__).parent
_FLAGS = ("-std=c++20", "-O1", "-shared", "-fPIC")
_UNKNOWN_ERROR = 999  # CUDA_ERROR_UNKNOWN

_Hook = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_int,
)


class Driver:
    """The driver of this process, with two GPUs. The library at `driver_path` must have been loaded."""

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.stand_in_stream.restype = ctypes.c_uint64
        self.launches: list[tuple[str, int]] = []  # kernel and device, in order
        self.errors: list[str] = []  # what the shim says of kernels that it stopped
        self.capability = capability
        self._shim = ShimLauncher()
        self._hook = _Hook(self._run)  # kept, because the library keeps no count of it
        self.library.stand_in_configure(self._hook, *capability)

    def _run(
        self,
        name: bytes,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[int | None],
        device: int,
    ) -> int:
        """One launch, with arguments as the driver gets them: addresses of values of the parameters' sizes."""
        kernel = name.decode()
        self.launches.append((kernel, device))
        message = self._shim.run(kernel, grid[:3], block[:3], arguments)
        if message is not None:
            self.errors.append(f"{kernel}: {message}")
        return 0 if message is None else _UNKNOWN_ERROR

    def refuse_code(self, refuse: bool) -> None:
        """Take no compiled kernels any more, as a driver does that is older than the compiler."""
        self.library.stand_in_refuse_code(int(refuse))


def driver_path() -> Path:
    """driver.cpp as a library; once loaded, every request for libcuda.so.1 finds it."""
    program = (("program.cpp", '#include "driver.cpp"\n'),)
    return built_library(program, (*_FLAGS, "-Wall", "-Wl,-soname,libcuda.so.1"), (_FOLDER / "driver.cpp",))


def guard_path() -> Path:
    """guard.cpp as a library, to be loaded after the driver's and before torch, which looks for such things once."""
    package = Path(torch.__file__).parent
    program = (("program.cpp", '#include "guard.cpp"\n'), ("torch.txt", torch.__version__))
    where = package / "lib"
    libraries = ("-Wl,--no-as-needed", f"-L{where}", f"-Wl,-rpath,{where}", "-ltorch_cpu", "-lc10")
    return built_library(program, (*_FLAGS, *libraries), (_FOLDER / "guard.cpp",), (package / "include",))
