"""The .splat file of web viewers (antimatter15/splat): 32 bytes a Gaussian, colours that do not depend on the view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from gns.errors import UserError
from gns.exports.packing import Columns, read_whole
from gns.scene.gaussians import SH_C0, Gaussians
from gns.utils.atomic_files import write_bytes

ROW = np.dtype([("position", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


def save_splat(gaussians: Gaussians, path: Path) -> None:
    """Write the model, the largest and most opaque Gaussians first: viewers show what has arrived.

    Scales are standard deviations, the rotation is (w, x, y, z)·128 + 128. Spherical harmonics above degree 0 have no
    place in this format. A model too far from the origin for float32 is written relative to its frame's offset.
    Raises UserError where `path` cannot be written.
    """
    gaussians, _ = gaussians.for_float32()
    with torch.no_grad():
        scales, opacities = gaussians.log_scales.exp(), gaussians.opacities
        order = torch.argsort(scales.prod(dim=1) * opacities, descending=True, stable=True)
        colors = 0.5 + SH_C0 * gaussians.sh_dc[:, 0]
        rgba = torch.cat([colors, opacities[:, None]], dim=1).clamp(0, 1)
        quats = torch.nn.functional.normalize(gaussians.quats, dim=1)
        rows = np.empty(len(gaussians), ROW)
        rows["position"] = gaussians.means[order].cpu()
        rows["scale"] = scales[order].cpu()
        rows["rgba"] = (255 * rgba[order]).round().byte().cpu()
        rows["rotation"] = (128 * quats[order] + 128).round().clamp(0, 255).byte().cpu()
    write_bytes(path, rows.tobytes())


def load_splat(path: Path) -> Gaussians:
    """Read such a file as a model of SH degree 0. Raises UserError where it is missing or cut short."""
    content = read_whole(path)
    if len(content) % ROW.itemsize:
        raise UserError(f"{path} is cut short or no .splat file: its rows have {ROW.itemsize} bytes")
    rows = np.frombuffer(content, ROW)
    rgba = rows["rgba"].astype(np.float32) / np.float32(255)
    return Columns(
        means=rows["position"],
        log_scales=np.log(np.maximum(rows["scale"], 1e-30)),
        quats=(rows["rotation"].astype(np.float32) - np.float32(128)) / np.float32(128),
        opacities=rgba[:, 3].clip(1 / 255, 254 / 255),
        sh_dc=(rgba[:, :3] - np.float32(0.5)) / np.float32(SH_C0),
        sh_rest=np.zeros((len(rows), 0, 3), np.float32),
    ).gaussians()
