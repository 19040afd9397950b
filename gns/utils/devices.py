"""The device that an option such as `--device cuda` stands for."""

from __future__ import annotations

import torch

from gns.errors import UserError


def pick_device(name: str) -> torch.device:
    """The torch device for `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises UserError for a device this version cannot render on: it never falls back on another one by itself.
    """
    if name in ("auto", "cpu"):
        return torch.device("cpu")
    raise UserError(f"--device {name} asks for the CUDA renderer, which this version does not have: use --device cpu")
