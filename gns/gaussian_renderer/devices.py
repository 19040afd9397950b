"""The device that an option such as `--device cuda` stands for."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gns.errors import UserError
from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.backends.nvrtc import first_line

_ELSE = "or use --device cpu"
# Torch reads the first of them that is there when it first allocates on a GPU.
_ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def pick_device(name: str, *, renders: bool = True) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `cuda:1`; a GPU also becomes torch's current one.

    `auto` is the first GPU that torch sees, and the CPU where it sees none. `renders` tells that the renderer will run
    there, which on a GPU takes more than torch: its kernels are compiled and loaded here.

    Raises UserError where the device, or what the CUDA renderer needs, is missing: nothing falls back by itself. That
    holds for `auto` too: a machine with a GPU is not left to train on its CPU for want of a package.
    """
    _require_arrays()
    if name == "cpu" or (name == "auto" and not (torch.version.cuda and torch.cuda.is_available())):
        return torch.device("cpu")
    growing = _ask_for_growing_segments()
    option = f"--device {name}"
    device = torch.device("cuda" if name == "auto" else name)
    if torch.version.cuda is None:
        raise UserError(
            f"{option} needs a torch with CUDA, and this one ({torch.__version__}) has none: install the CUDA build "
            f"that pytorch.org names for your system, {_ELSE}"
        )
    if not torch.cuda.is_available():
        raise UserError(
            f"{option} finds no NVIDIA GPU, or no driver for CUDA {torch.version.cuda}: see what nvidia-smi says, "
            f"{_ELSE}"
        )
    index, count = device.index or 0, torch.cuda.device_count()
    if index >= count:
        raise UserError(f"{option} does not exist: torch sees {_named(count)}, {_ELSE}")
    device = torch.device("cuda", index)
    _try_memory(option, device, growing)
    if renders and (missing := backend_of(device).what_is_missing()) is not None:
        raise UserError(f"{option}: {missing}")
    torch.cuda.set_device(index)
    return device


def _named(count: int) -> str:
    return "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"


def _require_arrays() -> None:
    """Raise UserError where torch and numpy do not know each other: torch before 2.3 was built for numpy 1."""
    try:
        torch.from_numpy(np.zeros(1))
    except RuntimeError as error:
        raise UserError(
            f"torch {torch.__version__} does not work with numpy {np.__version__} ({first_line(error)}): run "
            "pip install 'numpy<2', or install torch 2.3 or newer"
        ) from error


def _ask_for_growing_segments() -> bool:
    """Ask torch, before it first allocates, for memory that can grow; returns whether it was asked.

    Row surgery replaces large tensors by others of another size: otherwise the memory would soon be in crumbs. It is
    fatal where the driver cannot reserve addresses, which is known of WSL2 and Jetson.
    """
    if any(variable in os.environ for variable in _ALLOCATOR) or _without_address_space():
        return False
    os.environ[_ALLOCATOR[0]] = "expandable_segments:True"
    return True


def _without_address_space() -> bool:
    kernel = platform.release().lower()  # seen from inside a container, too
    return "microsoft" in kernel or "tegra" in kernel or Path("/dev/dxg").exists()


def _try_memory(option: str, device: torch.device, growing: bool) -> None:
    """Allocate a little, without segments that grow where the driver does not take those. Raises UserError."""
    try:
        try:
            torch.empty(1, device=device)
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError:
            if not growing:
                raise
            os.environ.pop(_ALLOCATOR[0])  # child processes read it
            _set_allocator("expandable_segments:False")
            torch.empty(1, device=device)
    except RuntimeError as error:
        raise UserError(
            f"{option} gives no memory ({first_line(error)}): see what nvidia-smi says and whether another program "
            f"holds the GPU, {_ELSE}"
        ) from error


def _set_allocator(setting: str) -> None:
    """Change torch's allocator after it has started; the name of the function depends on torch's version."""
    change: Callable[[str], None] | None = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    (change or torch.cuda.memory._set_allocator_settings)(setting)
