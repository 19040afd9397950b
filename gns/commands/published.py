"""Published figures to stand beside ours.

From Deng et al., "Gradient-Driven Natural Selection for Compact 3D Gaussian Splatting" (arXiv 2511.16980), measured on
an RTX A5000 at the budgets of budget.txt.
"""

from __future__ import annotations

from typing import NamedTuple


class Published(NamedTuple):
    """Means over the scenes of a data set: PSNR in dB, Gaussians and training minutes."""

    method: str
    ssim: float
    psnr: float
    lpips: float
    gaussians: int
    minutes: float


MEANS: dict[str, tuple[Published, ...]] = {
    "mipnerf360": (
        Published("GNS", 0.833, 28.13, 0.207, 467_000, 12.5),
        Published("3DGS", 0.816, 27.50, 0.216, 3_320_000, 35.9),
        Published("Improved-GS, sparse", 0.814, 27.66, 0.233, 467_000, 8.1),
    ),
    "deepblending": (
        Published("GNS", 0.914, 30.15, 0.233, 450_000, 9.4),
        Published("3DGS", 0.904, 29.56, 0.244, 2_820_000, 32.5),
        Published("Improved-GS, sparse", 0.911, 30.23, 0.244, 450_000, 6.8),
    ),
    "tanksandtemples": (
        Published("GNS", 0.871, 24.63, 0.154, 450_000, 8.5),
        Published("3DGS", 0.849, 23.72, 0.177, 1_840_000, 19.9),
        Published("Improved-GS, sparse", 0.856, 24.39, 0.179, 450_000, 5.7),
    ),
}

# PSNR of GNS in dB, by scene.
PSNR = {
    "bicycle": 25.76,
    "flowers": 21.86,
    "garden": 27.79,
    "stump": 27.38,
    "treehill": 23.16,
    "bonsai": 32.77,
    "counter": 29.68,
    "kitchen": 32.25,
    "room": 32.52,
    "playroom": 30.63,
    "drjohnson": 29.66,
    "train": 22.74,
    "truck": 26.52,
}
