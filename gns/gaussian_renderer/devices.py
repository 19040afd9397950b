"""The device that an option such as `--device cuda` stands for."""

from __future__ import annotations

import os

import torch

from gns.errors import UserError
from gns.gaussian_renderer.backends import backend_of

_ELSE = "or use --device cpu"


def pick_device(name: str, *, renders: bool = True) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `cuda:1`; a GPU also becomes torch's current one.

    `auto` is the first GPU that torch sees, and the CPU where it sees none. `renders` tells that the renderer will run
    there, which on a GPU takes more than torch.

    Raises UserError where the device, or what the CUDA renderer needs, is missing: nothing falls back by itself. That
    holds for `auto` too: a machine with a GPU is not left to train on its CPU for want of a package.
    """
    if name == "cpu" or (name == "auto" and not (torch.version.cuda and torch.cuda.is_available())):
        return torch.device("cpu")
    # Row surgery replaces large tensors by others of another size: without this the memory would soon be in crumbs.
    # Torch reads it when it first allocates on a GPU; the name without CUDA_ is not heeded by all versions.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
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
    if renders and (missing := backend_of(device).what_is_missing()) is not None:
        raise UserError(f"{option}: {missing}")
    torch.cuda.set_device(index)
    return device


def _named(count: int) -> str:
    return "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
