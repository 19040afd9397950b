"""Parameters that were computed from others, beside leaves whose gradients are added to in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import instruction_sets, reference, render, use_instruction_set
from gns.gaussian_renderer.backends import IN_USE
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.scene import Gaussians
from gns.scene.gaussians import as_planes
from gns.testing.comparison import (
    BACKENDS,
    Backend,
    assert_close,
    assert_gradients_agree,
    example,
    outside_band,
    trainable,
)
from gns.testing.shim import ShimLauncher, compiler
from gns.utils.workspace import Workspace

CPU = torch.device("cpu")
NAME = "33x47, degree 2"
SHIM = Backend("shim", torch.float32, image=1e-5, gradient=1e-3, rounding=1e-5)


@pytest.fixture(params=[*BACKENDS, SHIM], ids=str)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
    """Each build of the CPU's kernels, and the CUDA backend with its kernels run on the CPU."""
    chosen: Backend = request.param
    if chosen is SHIM:
        if compiler() is None:
            pytest.skip("runs the CUDA kernels through a C++ compiler: install g++")
        monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, ShimLauncher()))
    else:
        use_instruction_set(chosen.instruction_set)
    yield chosen
    use_instruction_set(instruction_sets()[0])


@dataclass(eq=False)
class Model:
    """Leaves; opacities are dimmed by a mask, and scales widened by a filter, before they are rendered."""

    gaussians: Gaussians
    mask: Tensor  # [N], before the sigmoid
    blur: Tensor  # [N, 1], a standard deviation to add

    @classmethod
    def of(cls, dtype: torch.dtype) -> Model:
        """A model of the example; the gradients of leaves that are rendered themselves are there to be added to."""
        gaussians = trainable(example(NAME).gaussians, dtype)
        count, generator = len(gaussians), torch.Generator().manual_seed(0)
        mask = (2 + torch.randn(count, generator=generator)).to(dtype).requires_grad_()
        blur = (0.01 + 0.05 * torch.rand(count, 1, generator=generator)).to(dtype).requires_grad_()
        model = cls(gaussians, mask, blur)
        for name in ("means", "quats", "sh_dc", "sh_rest"):
            values = getattr(gaussians, name)
            values.grad = as_planes(torch.zeros_like(values))
        return model

    def rendered(self) -> Gaussians:
        """What is drawn: two groups derived, four leaves."""
        leaves = dict(self.gaussians.named_tensors())
        opacities = torch.sigmoid(leaves["opacity_logits"]) * torch.sigmoid(self.mask)
        variances = (2 * leaves["log_scales"]).exp() + self.blur**2
        return replace(self.gaussians, opacity_logits=torch.logit(opacities), log_scales=variances.log() / 2)

    def gradients(self) -> dict[str, Tensor]:
        """Of all leaves, as float64."""
        leaves = dict(self.gaussians.named_tensors()) | {"mask": self.mask, "blur": self.blur}
        found = {name: values.grad for name, values in leaves.items()}
        return {name: grad.double().clone() for name, grad in found.items() if grad is not None}


def go_back(model: Model, *, accumulate: bool, judge: bool = False, drawn: Gaussians | None = None) -> None:
    """Render the example, and go back from its weighted pixels."""
    scene = example(NAME)
    drawn = model.rendered() if drawn is None else drawn
    background = scene.background.to(drawn.means.dtype)
    if judge:
        output = reference.render(scene.camera, drawn, background)
    else:
        output = render(scene.camera, drawn, background, accumulate=accumulate)
    weights = scene.image_weights * outside_band(NAME)
    torch.autograd.backward((output.image * weights.to(output.image.dtype)).sum())


def test_derived_parameters_hand_their_gradients_on(backend: Backend) -> None:
    model, judged = Model.of(backend.dtype), Model.of(torch.float64)
    go_back(judged, accumulate=False, judge=True)
    go_back(model, accumulate=True)
    assert model.gradients().keys() == judged.gradients().keys() and len(judged.gradients()) == 8
    assert_gradients_agree(model.gradients(), judged.gradients(), backend.gradient)


@pytest.mark.parametrize("forgotten", ["mask", "blur"])
def test_a_forgotten_derivation_is_seen(forgotten: str, backend: Backend) -> None:
    model, judged = Model.of(backend.dtype), Model.of(torch.float64)
    go_back(judged, accumulate=False, judge=True)
    setattr(model, forgotten, getattr(model, forgotten).detach() * 1.02)
    go_back(model, accumulate=True)
    wrong = judged.gradients() | model.gradients()
    with pytest.raises(AssertionError, match="is off by"):
        assert_gradients_agree(wrong, judged.gradients(), backend.gradient)


def test_leaves_are_added_to_in_place_and_the_bits_are_those_without(backend: Backend) -> None:
    summed, separate = Model.of(backend.dtype), Model.of(backend.dtype)
    buffers = {name: values.grad for name, values in summed.gaussians.named_tensors() if values.grad is not None}
    assert buffers.keys() == {"means", "quats", "sh_dc", "sh_rest"}
    go_back(summed, accumulate=True)
    go_back(separate, accumulate=False)
    for name, values in separate.gradients().items():
        assert values.any() and torch.equal(summed.gradients()[name], values), name
    once = summed.gradients()
    go_back(summed, accumulate=True)
    for name, values in summed.gradients().items():
        assert_close(values, 2 * once[name], backend.rounding, name)
    for name, buffer in buffers.items():
        assert getattr(summed.gaussians, name).grad is buffer


def test_a_leaf_without_a_place_for_its_gradient_is_refused_also_beside_derived_ones(backend: Backend) -> None:
    model = Model.of(backend.dtype)
    model.gaussians.sh_dc.grad = None
    with pytest.raises(ValueError, match=r"sh_dc\.grad, which must exist"):
        go_back(model, accumulate=True)
    model.gaussians.sh_dc.grad = torch.zeros_like(model.gaussians.sh_dc).contiguous()  # row by row
    with pytest.raises(ValueError, match=r"sh_dc\.grad, which must exist and be stored as planes"):
        go_back(model, accumulate=True)


@pytest.mark.parametrize("accumulate", [True, False])
def test_a_group_that_asks_for_no_gradient_gets_none(accumulate: bool, backend: Backend) -> None:
    expected, model = Model.of(backend.dtype), Model.of(backend.dtype)
    go_back(expected, accumulate=accumulate)
    for name in ("quats", "sh_rest"):
        getattr(model.gaussians, name).requires_grad_(False)
        getattr(model.gaussians, name).grad = None
    workspace = Workspace(CPU)
    scene = example(NAME)
    for times in (1, 2):  # the second time in the same memory
        output = render(
            scene.camera,
            model.rendered(),
            scene.background.to(backend.dtype),
            accumulate=accumulate,
            workspace=workspace,
        )
        torch.autograd.backward((output.image * (scene.image_weights * outside_band(NAME)).to(backend.dtype)).sum())
        assert model.gaussians.quats.grad is None and model.gaussians.sh_rest.grad is None
        for name, values in model.gradients().items():
            assert_close(values, times * expected.gradients()[name], backend.rounding, name)


def test_everything_may_be_derived(backend: Backend) -> None:
    """And stored row by row, as torch's operations often leave their results."""
    model, expected = Model.of(backend.dtype), Model.of(backend.dtype)
    go_back(expected, accumulate=False)
    for _, values in model.gaussians.named_tensors():
        values.grad = None
    drawn = model.rendered()
    rows = Gaussians(*((1 * values).contiguous() for _, values in drawn.named_tensors()))
    go_back(model, accumulate=True, drawn=rows)
    for name, values in expected.gradients().items():
        assert torch.equal(model.gradients()[name], values), name
