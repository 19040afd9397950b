"""What the renderer refuses before any kernel runs, and what it accepts besides tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import importance, render
from gns.gaussian_renderer.backends import IN_USE
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.scene import Gaussians
from gns.scene.gaussians import GROUPS
from gns.testing.comparison import Backend, example
from gns.testing.examples import converted

CPU = torch.device("cpu")
NAME = "16x16, degree 1"


class NoLauncher:
    """A GPU that must not be asked."""

    def launch(self, name: str, *arguments: Any) -> None:
        raise AssertionError(f"{name} was launched")


@pytest.fixture(params=["cpu", "gpu"])
def refusing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's backend, and the GPU's, whose kernels must never be reached."""
    if request.param == "gpu":
        monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, NoLauncher()))


def spoilt(group: str, values: Tensor) -> Gaussians:
    gaussians = converted(example(NAME).gaussians, torch.float32)
    setattr(gaussians, group, values)
    return gaussians


def draw(gaussians: Gaussians, **options: Any) -> None:
    scene = example(NAME)
    render(scene.camera, gaussians, **{"background": scene.background.float()} | options)


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("group", GROUPS[1:])
def test_parameters_of_another_dtype_device_or_shape_are_refused(group: str) -> None:
    values = getattr(example(NAME).gaussians, group)
    with pytest.raises(TypeError, match=rf"{group} are torch\.float64 and means torch\.float32"):
        draw(spoilt(group, values))
    with pytest.raises(ValueError, match=f"{group} are on meta and means on cpu"):
        draw(spoilt(group, values.float().to("meta")))
    with pytest.raises(ValueError, match=rf"{group} have the shape \(39"):
        draw(spoilt(group, values[:-1].float()))


@pytest.mark.usefixtures("refusing")
def test_other_dtypes_and_devices_are_refused() -> None:
    gaussians = example(NAME).gaussians
    for dtype in (torch.float16, torch.bfloat16, torch.int32):
        with pytest.raises(TypeError, match=rf"are rendered in float32.*, not {dtype}"):
            draw(converted(gaussians, dtype))
        with pytest.raises(TypeError, match=rf"are rendered in float32.*, not {dtype}"):
            importance(example(NAME).camera, converted(gaussians, dtype), example(NAME).edges)
    with pytest.raises(ValueError, match="tensors on meta cannot be rendered"):
        draw(converted(gaussians, torch.float32).to(torch.device("meta")))


@pytest.mark.usefixtures("refusing")
def test_backgrounds_edges_and_degrees_that_do_not_fit_are_refused() -> None:
    gaussians, edges = converted(example(NAME).gaussians, torch.float32), example(NAME).edges
    for background in (torch.zeros(4), torch.zeros(3, 1), torch.zeros(3, device="meta"), (0.0, 1.0)):
        with pytest.raises(ValueError, match="background must be three numbers"):
            draw(gaussians, background=background)
    for wrong in (edges[:-1], edges[None], edges.to("meta")):
        with pytest.raises(ValueError, match=r"edges must be \[16, 16\]"):
            draw(gaussians, edges=wrong)
        with pytest.raises(ValueError, match=r"edges must be \[16, 16\]"):
            importance(example(NAME).camera, gaussians, wrong)
    for degree in (-1, 2, 4):
        with pytest.raises(ValueError, match=f"sh_degree is {degree}, but"):
            draw(gaussians, sh_degree=degree)


def test_a_background_may_be_three_numbers(backend: Backend) -> None:
    scene = example(NAME)
    gaussians = converted(scene.gaussians, backend.dtype)
    expected = render(scene.camera, gaussians, torch.tensor([0.25, 0.5, 0.875])).image
    for background in ((0.25, 0.5, 0.875), [0.25, 0.5, 0.875], torch.tensor([0.25, 0.5, 0.875], dtype=torch.float64)):
        assert torch.equal(render(scene.camera, gaussians, background).image, expected)
