"""Runs the shipped CUDA kernels on CPU tensors: built by the host's C++ compiler against `shim.h`, which plays GPU."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gns.gaussian_renderer.backends.kernel_arguments import Converted, converted
from gns.gaussian_renderer.backends.kernel_table import INCLUDE_FOLDERS, KERNELS, SOURCES, Launchable

FLAGS = ("-std=c++20", "-march=native", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Wno-unknown-pragmas")
HERE = Path(__file__).parent
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O0")

Edit = Callable[[str], str]


class ShimError(Exception):
    """A kernel did what no GPU has to accept."""


class ShimLauncher:
    """The launcher of tests; offers what the launcher on a GPU does, for tensors on the CPU.

    Args:
        backwards: blocks, warps and lanes take their turns from the last to the first. No result may depend on it.
        edits: changes to a source's text by its file name, for planting errors.
        sanitized: build under the address and undefined-behaviour sanitizers; works only in a process that was started
            with the address sanitizer's library loaded.
    """

    def __init__(
        self, *, backwards: bool = False, edits: Mapping[str, Edit] | None = None, sanitized: bool = False
    ) -> None:
        sources = {path.name: path.read_text() for path in _device_files()}
        for name, edit in (edits or {}).items():
            changed = edit(sources[name])
            if changed == sources[name]:
                raise ValueError(f"the planted error found nothing to change in {name}")
            sources[name] = changed
        # A planted error runs once, for which compiling quickly is worth more than quick code.
        flags = SANITIZERS if sanitized else ("-O0",) if edits else ("-O1",)
        self._library = _load(tuple(sorted(sources.items())), (*FLAGS, *flags))
        self._numbers = {name: number for number, name in enumerate(KERNELS)}
        self._backwards = backwards
        self.launches: list[str] = []  # names, in order

    def signature(self, name: str) -> str:
        """The kernel's C++ signature, a letter an argument: i, f scalars; I, F, S, L, B arrays."""
        text: bytes = self._library.shim_signature(self._numbers[name])
        return text.decode()

    def _entry(self, name: str) -> tuple[ctypes.CDLL, int]:
        """The library that holds a kernel, and its number there."""
        return self._library, self._numbers[name]

    def launch(self, name: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Launchable]) -> None:
        """Run one kernel to its end. Raises ShimError, and what `converted` raises for arguments that do not fit."""
        kernel = KERNELS[name]
        values = [_as_c(value) for value in converted(kernel, arguments, torch.device("cpu"))]
        if tuple(block) != kernel.block:
            raise TypeError(f"{name} runs in blocks of {kernel.block}, not {tuple(block)}")
        if 0 in grid:
            raise ShimError(f"{name}: a grid of {tuple(grid)} blocks is none")
        self.launches.append(name)
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        message = self.run(name, grid, block, pointers)
        if message is not None:
            raise ShimError(f"{name}: {message}")

    def run(self, name: str, grid: Sequence[int], block: Sequence[int], pointers: Any) -> str | None:
        """Run one kernel with `pointers`, a C array, to its arguments' values; returns what went wrong, if anything."""
        sizes = [(ctypes.c_uint * 3)(*size, *[1] * (3 - len(size))) for size in (grid, block)]
        library, number = self._entry(name)
        message: bytes | None = library.shim_launch(number, *sizes, pointers, int(self._backwards))
        return None if message is None else message.decode()


def _as_c(value: Converted) -> ctypes.c_void_p | ctypes.c_float | ctypes.c_int32:
    if isinstance(value, np.float32):
        return ctypes.c_float(float(value))
    return ctypes.c_int32(int(value)) if isinstance(value, np.int32) else ctypes.c_void_p(value)


def _device_files() -> list[Path]:
    """The kernels, and the headers of formulas that they share with the CPU."""
    return [path for folder in INCLUDE_FOLDERS for path in folder.iterdir() if path.suffix in (".cu", ".cuh", ".h")]


def compiler() -> str | None:
    """The host's C++ compiler; None where there is none, or no Linux, on whose linker the shim relies."""
    return shutil.which(os.environ.get("CXX", "g++")) if sys.platform == "linux" else None


@cache
def _load(sources: tuple[tuple[str, str], ...], flags: tuple[str, ...]) -> ctypes.CDLL:
    """Compile the sources, or take the library that was made of the same ones before."""
    program = "".join(
        ['#include "shim.h"\n']
        + [f'#include "{name}"\n' for name in SOURCES]
        + ['#include "driver.h"\n', "GNS_KERNELS(", *(f"GNS_KERNEL({name}) " for name in KERNELS), ")\n"]
    )
    headers = (HERE / "shim.h", HERE / "driver.h")
    loaded = ctypes.CDLL(str(built_library((*sources, ("program.cpp", program)), flags, headers)))
    loaded.shim_launch.restype = ctypes.c_char_p
    loaded.shim_signature.restype = ctypes.c_char_p
    return loaded


def built_library(
    files: Sequence[tuple[str, str]], flags: Sequence[str], headers: Sequence[Path], includes: Sequence[Path] = ()
) -> Path:
    """A library of `program.cpp` among these files, by name, and `headers`; the one made of the same ones before.

    `includes` are folders of headers that do not change.
    """
    command = compiler()
    assert command is not None, "the CUDA kernels' tests need a C++ compiler"
    key = hashlib.sha256(repr((files, flags, command)).encode())
    for header in headers:
        key.update(header.read_bytes())
    folder = HERE.parents[1] / "build" / "cuda-shim" / key.hexdigest()[:24]
    library = folder / "kernels.so"
    if not library.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            for name, text in files:
                (Path(work) / name).write_text(text)
            folders = [f"-I{path}" for path in (work, *sorted({header.parent for header in headers}))]
            folders += [f"-isystem{path}" for path in includes]
            subprocess.run([command, *flags, *folders, "program.cpp", "-o", "kernels.so"], cwd=work, check=True)
            (Path(work) / "kernels.so").replace(library)
    return library
