"""The native module takes arrays as they are, and the CPU's estimate of memory is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gns.gaussian_renderer import release_memory, render
from gns.gaussian_renderer.backends.cpu import CpuBackend
from gns.scene import Camera, Gaussians
from gns.scene.gaussians import GROUPS
from gns.testing.comparison import trainable
from gns.testing.examples import camera_at, gaussians_seen, joined
from gns.utils import native

SHAPES = dict(zip(GROUPS, ((3, 5), (3, 5), (4, 5), (5,), (1, 3, 5), (3, 3, 5)), strict=True))


def kernels(dtype: torch.dtype) -> Any:
    return getattr(native.load(), str(dtype).removeprefix("torch."))


def arrays(dtype: type, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}


STRUCTS: dict[str, dict[str, tuple[int, ...]]] = {
    "RenderTargets": {"image": (3, 4, 6), "alpha": (4, 6), "radii": (5,), "importance": (5,)},
    "Gradients": SHAPES,
    "Parameters": SHAPES,
}


@pytest.mark.parametrize(("struct", "field"), [(name, field) for name, fields in STRUCTS.items() for field in fields])
def test_an_array_of_another_type_is_refused_and_never_filled_in_a_copy(struct: str, field: str) -> None:
    make, fields = getattr(kernels(torch.float32), struct), arrays(np.float32, STRUCTS[struct])
    make(**fields)
    values = fields[field]
    strided = np.zeros((*values.shape, 2), np.float32)[..., 0]
    for wrong in (values.astype(np.float64), strided):
        with pytest.raises(TypeError):
            make(**fields | {field: wrong})


@pytest.mark.parametrize("field", ["image", "alpha", "abs_mean2d", "mean2d"])
def test_gradients_of_another_type_are_refused(field: str) -> None:
    module = kernels(torch.float32)
    fields = arrays(np.float32, {"image": (3, 4, 6), "alpha": (4, 6), "abs_mean2d": (2, 5), "mean2d": (2, 5)})
    fields["parameters"] = module.Gradients(**arrays(np.float32, SHAPES))
    module.RenderGradients(**fields)
    with pytest.raises(TypeError):
        module.RenderGradients(**fields | {field: fields[field].astype(np.float64)})


@pytest.mark.parametrize("field", ["image", "target", "mask", "gradient"])
def test_a_loss_of_arrays_of_another_type_is_refused(field: str) -> None:
    module = kernels(torch.float32)
    fields = arrays(np.float32, {"image": (3, 4, 6), "gradient": (3, 4, 6)})
    fields |= arrays(np.uint8, {"target": (4, 6, 3), "mask": (4, 6)})
    module.photometric_loss(**fields)
    with pytest.raises(TypeError):
        module.photometric_loss(**fields | {field: fields[field].astype(np.float64)})


@pytest.mark.parametrize("place", range(4))
def test_adam_of_arrays_of_another_type_is_refused(place: int) -> None:
    four = [np.ones(5, np.float32) for _ in range(4)]
    adam = native.load().adam
    adam([tuple(four)], [0.1], [1], [0.0], 0.9, 0.999, 1e-15)
    four[place] = four[place].astype(np.float64)
    with pytest.raises(TypeError):
        adam([tuple(four)], [0.1], [1], [0.0], 0.9, 0.999, 1e-15)


@pytest.mark.parametrize(
    ("struct", "field", "shape"), [("Gradients", "sh_dc", (3, 1, 5)), ("Parameters", "quats", (3, 5))]
)
def test_planes_of_another_shape_are_refused(struct: str, field: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"{field} must be planes"):
        getattr(kernels(torch.float32), struct)(**arrays(np.float32, SHAPES | {field: shape}))


def test_the_product_has_no_counters() -> None:
    """They are for benchmarks/cpu.py, which builds kernels of its own."""
    module = native.load()
    assert not {"lanes", "multiply_adds", "instruction_set"} & set(dir(module))
    assert not {"timings", "pairs", "blocks"} & set(dir(module.float32.Rendering))


def kept_after(camera: Camera, gaussians: Gaussians) -> int:
    """Bytes that are kept after one rendering of these alone, and its backward pass."""
    release_memory()
    leaves = trainable(gaussians, torch.float32)
    torch.autograd.backward(render(camera, leaves, (0.0, 0.0, 0.0)).image.sum())
    del leaves
    return CpuBackend().kept_bytes()


def test_the_estimate_of_memory_is_what_renderings_keep() -> None:
    camera = camera_at(320, 240)
    tiles, pixels = 20 * 15, 320 * 240
    hidden = gaussians_seen(camera, 20_000, depth=(-4.0, -1.0))
    giants = gaussians_seen(camera, 400, size=(2000.0, 3000.0), logits=(-3.0, -2.9))  # each in every tile
    backend = CpuBackend()
    a_pixel_of_results, a_gaussian_of_results = 28, 12
    without = kept_after(camera, hidden)
    estimate = backend.rendering_bytes(20_000, 0, pixels)
    estimate -= (a_gaussian_of_results * 20_000 + a_pixel_of_results * pixels) * 9 // 8  # an eighth to spare
    assert without == pytest.approx(estimate, rel=0.02)  # what is kept for each tile is left out
    instances = 400 * tiles
    more = kept_after(camera, joined(hidden, giants)) - without
    expected = backend.rendering_bytes(20_400, instances, pixels) - backend.rendering_bytes(20_000, 0, pixels)
    assert 0.9 * expected < more < 1.3 * expected  # the lists of each stretch grow by doubling
