"""Formats beside PLY: what is read back by their definition is what was written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import gns
from gns.errors import UserError
from gns.scene import Gaussians
from gns.testing.examples import random_gaussians


def test_splat(tmp_path: Path) -> None:
    gaussians = random_gaussians(50, 3)
    gns.save(gaussians, tmp_path / "model.splat")
    data = (tmp_path / "model.splat").read_bytes()
    assert len(data) == 32 * 50
    floats = np.frombuffer(data, "<f4").reshape(50, 8)[:, :6]
    bytes_ = np.frombuffer(data, "u1").reshape(50, 32)[:, 24:].astype(float)
    # Rows are found again by their positions.
    order = torch.cdist(torch.from_numpy(floats[:, :3].copy()), gaussians.means).argmin(dim=1)
    assert sorted(order.tolist()) == list(range(50))
    assert np.array_equal(floats[:, :3], gaussians.means[order].numpy())
    assert np.allclose(floats[:, 3:], gaussians.log_scales[order].exp().numpy(), rtol=1e-6)
    colors = (0.5 + 0.28209479177387814 * gaussians.sh_dc[order, 0]).clamp(0, 1)
    assert np.allclose(bytes_[:, :3] / 255, colors.numpy(), atol=0.5001 / 255)
    assert np.allclose(bytes_[:, 3] / 255, torch.sigmoid(gaussians.opacity_logits[order]).numpy(), atol=0.5001 / 255)
    quats = gaussians.quats[order] / gaussians.quats[order].norm(dim=1, keepdim=True)
    assert np.allclose((bytes_[:, 4:] - 128) / 128, quats.numpy(), atol=1.0 / 128)
    weights = floats[:, 3:].astype(float).prod(axis=1) * torch.sigmoid(gaussians.opacity_logits[order]).numpy()
    assert (np.diff(weights) <= 1e-12).all()


def test_the_ending_decides(tmp_path: Path) -> None:
    gaussians = random_gaussians(5, 1)
    gns.save(gaussians, tmp_path / "model.ply")
    again = gns.load(tmp_path / "model.ply")
    assert isinstance(again, Gaussians) and torch.equal(again.sh_rest, gaussians.sh_rest)
    with pytest.raises(UserError, match=r"model\.obj names no format .* end in \.ply, .* or \.html"):
        gns.save(gaussians, tmp_path / "model.obj")
