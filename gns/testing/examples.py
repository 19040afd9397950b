"""Small scenes that each bring out one thing a renderer can get wrong.

All parameters are float64 tensors that hold float32 values, so that one reference result judges both precisions. Depths
are spread evenly (before jitter), so that rounding never decides which of two Gaussians is nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gns.scene import Camera, Gaussians


@dataclass(frozen=True, eq=False)
class Example:
    """What is passed to a renderer, and fixed weights that make a scalar loss of what it returns."""

    camera: Camera
    gaussians: Gaussians
    background: Tensor  # [3]
    edges: Tensor  # [H, W], in [0, 1]
    image_weights: Tensor  # [3, H, W]
    alpha_weights: Tensor  # [H, W]
    depth_weights: Tensor  # [H, W], of the inverse depth where it is drawn
    sh_degree: int | None = None


def camera_at(
    width: int, height: int, *, focal: float | None = None, seed: int = 0, off_centre: bool = True, moved: bool = True
) -> Camera:
    """A camera with unequal focal lengths, near the origin, turned at random (unless not `moved`)."""
    random = np.random.default_rng(seed)
    pose = np.eye(4)
    if moved:
        axes, _ = np.linalg.qr(random.normal(size=(3, 3)))
        pose[:3, :3] = axes * np.linalg.det(axes)
        pose[:3, 3] = random.uniform(-0.5, 0.5, size=3)
    focal = focal or max(width, height)
    shift_x, shift_y = (0.13, -0.09) if off_centre else (0.0, 0.0)
    return Camera(
        width=width,
        height=height,
        fx=focal,
        fy=1.07 * focal,
        cx=(0.5 + shift_x) * width,
        cy=(0.5 + shift_y) * height,
        world_to_camera=pose,
        name="example",
    )


def gaussians_seen(
    camera: Camera,
    count: int,
    *,
    seed: int = 0,
    sh_degree: int = 3,
    depth: tuple[float, float] = (1.0, 4.0),
    size: tuple[float, float] = (1.0, 5.0),
    logits: tuple[float, float] = (-3.0, 3.0),
    margin: float = 0.15,
) -> Gaussians:
    """Anisotropic, turned, coloured Gaussians spread over the view and `margin` image sizes around it.

    `size` is the range of their standard deviations in pixels.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator, dtype=torch.float64)

    steps = torch.randperm(count, generator=generator) + uniform(-0.25, 0.25, count)
    z = depth[0] + (depth[1] - depth[0]) * steps / max(count, 1)
    x = (uniform(-margin, 1 + margin, count) * camera.width - camera.cx) / camera.fx * z
    y = (uniform(-margin, 1 + margin, count) * camera.height - camera.cy) / camera.fy * z
    pixels = torch.exp(uniform(math.log(size[0]), math.log(size[1]), count, 3))
    quats = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return rounded(
        Gaussians(
            means=to_world(camera, torch.stack([x, y, z], dim=1)),
            log_scales=torch.log(pixels * z[:, None] / camera.fx),
            quats=quats,
            opacity_logits=uniform(*logits, count),
            sh_dc=torch.randn(count, 1, 3, generator=generator, dtype=torch.float64),
            sh_rest=0.2 * torch.randn(count, (sh_degree + 1) ** 2 - 1, 3, generator=generator, dtype=torch.float64),
        )
    )


def random_gaussians(count: int, sh_degree: int = 1, seed: int = 0) -> Gaussians:
    """float32 parameters that are all different, of no particular meaning."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3,), (3,), (4,), (), (1, 3), ((sh_degree + 1) ** 2 - 1, 3)]
    return Gaussians(*(torch.randn(count, *shape, generator=generator) for shape in shapes))


def to_world(camera: Camera, view: Tensor) -> Tensor:
    """World positions [N, 3] of view positions [N, 3]."""
    return (view - torch.from_numpy(camera.translation)) @ torch.from_numpy(camera.rotation)


def rounded(gaussians: Gaussians) -> Gaussians:
    """The same in float64, with values that float32 can hold."""
    return converted(converted(gaussians, torch.float32), torch.float64)


def converted(gaussians: Gaussians, dtype: torch.dtype) -> Gaussians:
    """A copy of other dtype that shares no memory."""
    return gaussians.mapped(lambda values: values.detach().clone().to(dtype))


def rows(gaussians: Gaussians, ids: Tensor) -> Gaussians:
    """The Gaussians `ids`, in that order."""
    return gaussians.mapped(lambda values: values[ids])


def joined(first: Gaussians, second: Gaussians) -> Gaussians:
    """`first`, then `second`."""
    pairs = zip(first.named_tensors(), second.named_tensors(), strict=True)
    return Gaussians(*(torch.cat([a, b]) for (_, a), (_, b) in pairs), antialiased=first.antialiased)


def example_of(camera: Camera, gaussians: Gaussians, sh_degree: int | None = None) -> Example:
    """Complete a camera and Gaussians to an example."""
    generator = torch.Generator().manual_seed(99)
    height, width = camera.height, camera.width
    return Example(
        camera=camera,
        gaussians=gaussians,
        background=torch.tensor([0.25, 0.5, 0.875], dtype=torch.float64),
        edges=torch.rand(height, width, generator=generator).double(),
        image_weights=torch.randn(3, height, width, generator=generator).double(),
        alpha_weights=torch.randn(height, width, generator=generator).double(),
        depth_weights=torch.randn(height, width, generator=generator).double(),
        sh_degree=sh_degree,
    )


def _cloud(width: int, height: int, count: int, sh_degree: int) -> Example:
    camera = camera_at(width, height, seed=width)
    return example_of(camera, gaussians_seen(camera, count, seed=height, sh_degree=sh_degree))


def _centred() -> Example:
    camera = camera_at(33, 20, off_centre=False)
    return example_of(camera, gaussians_seen(camera, 50, seed=1))


def _active_degree() -> Example:
    return replace(_cloud(24, 18, 40, 3), sh_degree=1)


def _none() -> Example:
    camera = camera_at(20, 10)
    return example_of(camera, gaussians_seen(camera, 0))


def _outside() -> Example:
    camera = camera_at(20, 10)
    gaussians = gaussians_seen(camera, 12, size=(1.0, 1.5))
    gaussians.means[:] = to_world(camera, torch.tensor([[5.0, 0.0, 2.0], [0.0, -5.0, 2.0]] * 6).double())
    return example_of(camera, rounded(gaussians))


def _behind() -> Example:
    camera = camera_at(20, 10)
    behind = gaussians_seen(camera, 8, depth=(-4.0, -1.0))
    too_near = gaussians_seen(camera, 4, depth=(0.05, 0.15))
    return example_of(camera, joined(behind, too_near))


def _giant() -> Example:
    camera = camera_at(40, 30)
    return example_of(camera, gaussians_seen(camera, 1, size=(200.0, 900.0), logits=(0.5, 0.5), margin=-0.4))


def _crowded() -> Example:
    camera = camera_at(16, 16)
    return example_of(camera, gaussians_seen(camera, 2000, size=(0.8, 2.5), logits=(-5.0, -2.0), margin=-0.1))


def _opaque() -> Example:
    """Stacks that hit the 0.99 cap and end pixels early, under a thin veil.

    Two capped Gaussians alone leave exactly the transmittance at which a pixel ends; the veil keeps pixels off it.
    """
    camera = camera_at(20, 20)
    veil = gaussians_seen(camera, 1, depth=(0.7, 0.7), size=(25.0, 40.0), logits=(-1.0, -1.0), margin=-0.4)
    return example_of(camera, joined(veil, gaussians_seen(camera, 80, seed=3, size=(2.0, 6.0), logits=(3.0, 9.0))))


def _wide() -> Example:
    """Large Gaussians beside the view, beyond the margin at which the Jacobian is clamped."""
    camera = camera_at(30, 24, focal=25.0)
    gaussians = gaussians_seen(camera, 40, seed=5, size=(8.0, 20.0), logits=(0.0, 4.0), margin=0.9)
    return example_of(camera, gaussians)


def _needles() -> Example:
    """Gaussians up to a thousand times longer than thick, at all angles."""
    camera = camera_at(40, 30, seed=8)
    return example_of(camera, gaussians_seen(camera, 60, seed=8, size=(0.02, 20.0)))


def _ties() -> Example:
    """Overlapping Gaussians at exactly equal depths: the one of lower index lies in front."""
    camera = camera_at(24, 16, moved=False)
    gaussians = gaussians_seen(camera, 40, seed=6, size=(2.0, 5.0))
    gaussians.means[:, 2] = torch.tensor([2.0, 1.5, 2.0, 2.5]).double().repeat(10)
    return example_of(camera, gaussians)


def _wide_giants() -> Example:
    """Gaussians over more columns of tiles (16 pixels) than a GPU's warp has lanes, and over hundreds of tiles."""
    camera = camera_at(34 * 16 + 5, 37)
    giants = gaussians_seen(camera, 3, seed=2, depth=(3.0, 4.0), size=(150.0, 400.0), logits=(-1.0, 1.0), margin=-0.4)
    return example_of(camera, joined(gaussians_seen(camera, 20, seed=1), giants))


def _deep_opaque_stack() -> Example:
    """More Gaussians in a tile than a GPU's block stages at a time, of which no pixel sees the last."""
    camera = camera_at(20, 20)
    veil = gaussians_seen(camera, 1, depth=(0.7, 0.7), size=(25.0, 40.0), logits=(-1.0, -1.0), margin=-0.4)
    stack = gaussians_seen(camera, 500, seed=3, size=(6.0, 14.0), logits=(1.0, 9.0), margin=-0.1)
    return example_of(camera, joined(veil, stack))


def _antialiased(scene: Example) -> Example:
    return replace(scene, gaussians=replace(scene.gaussians, antialiased=True))


EXAMPLES: dict[str, Callable[[], Example]] = {
    "1x1": lambda: _cloud(1, 1, 20, 3),
    "15x17, degree 0": lambda: _cloud(15, 17, 40, 0),
    "16x16, degree 1": lambda: _cloud(16, 16, 40, 1),
    "33x47, degree 2": lambda: _cloud(33, 47, 100, 2),
    "130x70, degree 3": lambda: _cloud(130, 70, 160, 3),
    "principal point at the centre": _centred,
    "active degree 1 of 3": _active_degree,
    "no Gaussians": _none,
    "all outside the view": _outside,
    "all behind": _behind,
    "one giant": _giant,
    "wide giants": _wide_giants,
    "2000 in one tile": _crowded,
    "opaque stacks": _opaque,
    "deep opaque stack": _deep_opaque_stack,
    "beyond the frustum margin": _wide,
    "needles": _needles,
    "equal depths": _ties,
    "antialiased, 33x47": lambda: _antialiased(_cloud(33, 47, 100, 2)),
    "antialiased needles": lambda: _antialiased(_needles()),
}


def smooth_example() -> Example:
    """Overlapping Gaussians for finite differences: no cut-off is near, α lies well inside (1/255, 0.99) everywhere."""
    camera = camera_at(6, 5, focal=9.0, seed=2)
    gaussians = gaussians_seen(camera, 4, seed=8, size=(2.5, 6.0), logits=(-1.0, 1.0), margin=-0.2)
    gaussians.sh_dc[:] = 0.5 * gaussians.sh_dc.abs()
    gaussians.sh_rest[:] *= 0.3
    return example_of(camera, gaussians)
