"""Runs NVRTC's own PTX of the kernels on CPU tensors: what a GPU would execute, instruction by instruction."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from torch import Tensor

from gns.gaussian_renderer.backends.kernel_table import (
    COMPILE_OPTIONS,
    INCLUDE_FOLDERS,
    KERNELS,
    SOURCE_FOLDER,
    Launchable,
)
from gns.gaussian_renderer.backends.nvrtc import compile_kernels
from gns.testing.emulation.ptx import translate
from gns.testing.shim import FLAGS, HERE, Edit, ShimLauncher, built_library

_HEADERS = (HERE / "shim.h", Path(__file__).parent / "ptx.h")
# Registers are read as whatever an instruction asks for; what a compiler warns of in such a program is no use.
_FLAGS = (*FLAGS, "-fno-strict-aliasing", "-w")


class PtxLauncher(ShimLauncher):
    """As `ShimLauncher`, but of the kernels' PTX; every address is checked against the arrays of its launch.

    Args:
        arch: what the PTX is made for.
        backwards: see `ShimLauncher`.
        noise: how many times their documented error approximate instructions are off, at most.
        edits: changes to the PTX of a source, by the name of its file, for planting errors.
    """

    def __init__(
        self,
        arch: str = "compute_90",
        *,
        backwards: bool = False,
        noise: float = 0.0,
        edits: Mapping[str, Edit] | None = None,
    ) -> None:
        self._arch, self._noise, self._edits = arch, noise, dict(edits or {})
        self._backwards = backwards
        self.launches = []

    def launch(self, name: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Launchable]) -> None:
        """See `ShimLauncher.launch`; raises ShimError for an access that a GPU would not make, too."""
        library, _ = self._entry(name)
        given = [values for values in arguments if isinstance(values, Tensor) and values.numel()]
        begins = [values.data_ptr() for values in given]
        ends = [begin + values.numel() * values.element_size() for begin, values in zip(begins, given, strict=True)]
        numbers = ctypes.c_uint64 * len(given)
        library.ptx_allow(numbers(*begins), numbers(*ends), len(given), ctypes.c_double(self._noise))
        super().launch(name, grid, block, arguments)

    def _entry(self, name: str) -> tuple[ctypes.CDLL, int]:
        source = KERNELS[name].source
        text = ptx_of(source, self._arch)
        if source in self._edits:
            changed = self._edits[source](text)
            if changed == text:
                raise ValueError(f"the planted error found nothing to change in the PTX of {source}")
            return _numbered(_built(changed, "-O0"), name)  # runs once, for which compiling quickly is worth more
        return _numbered(_built(text, "-O1"), name)


def _numbered(library: ctypes.CDLL, name: str) -> tuple[ctypes.CDLL, int]:
    return library, library.ptx_number(name.encode())


@cache
def ptx_of(source: str, arch: str) -> str:
    """What NVRTC makes of a file of kernels."""
    return compile_kernels(SOURCE_FOLDER / source, arch, COMPILE_OPTIONS, INCLUDE_FOLDERS).decode().rstrip("\0")


@cache
def _built(text: str, optimisation: str) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(built_library((("program.cpp", translate(text)),), (*_FLAGS, optimisation), _HEADERS)))
    loaded.shim_launch.restype = ctypes.c_char_p
    return loaded
