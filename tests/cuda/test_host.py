"""The CUDA backend's host side, end to end: shipped kernels run on CPU tensors, everything around them is production.

Results are compared with the reference and with the CPU backend; the kernels have tests of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gns.arguments import TrainConfig
from gns.errors import UserError
from gns.gaussian_renderer import ScreenGradients, importance, render
from gns.gaussian_renderer.autograd import planes_of
from gns.gaussian_renderer.backends import IN_USE, backend_of, gpu, kernel_table
from gns.gaussian_renderer.backends.cpu import CpuBackend
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.gaussian_renderer.backends.protocol import RenderInputs
from gns.losses.photometric import photometric_loss
from gns.model.adam import AdamGroup, AdamTensors, adam_step
from gns.run_folder import RunFolder, read_checkpoint
from gns.scene import Gaussians, Scene
from gns.testing.comparison import (
    Backend,
    assert_close,
    assert_images_agree,
    assert_outcomes_agree,
    assert_same_bits,
    evaluate,
    example,
    judgement,
    outside_band,
    trainable,
)
from gns.testing.examples import EXAMPLES, Example, camera_at, converted, example_of, gaussians_seen, rows
from gns.testing.shim import ShimLauncher, compiler
from gns.testing.tiny import TINY_BUDGET, tiny_config, tiny_scene
from gns.training.loop import Trainer, train
from gns.training.state import TrainState

pytestmark = pytest.mark.skipif(compiler() is None, reason="runs the CUDA kernels through a C++ compiler: install g++")

CPU = torch.device("cpu")
TOLERANCE = Backend("shim", torch.float32, image=1e-5, gradient=1e-3, rounding=1e-5)


@pytest.fixture
def shim(monkeypatch: pytest.MonkeyPatch) -> Iterator[ShimLauncher]:
    """Sends everything that is on the CPU through the CUDA backend, whose kernels run on the CPU."""
    launcher = ShimLauncher()
    monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, launcher))
    yield launcher
    assert launcher.launches, "nothing went through the CUDA backend"


def _gpu() -> GpuBackend:
    """The backend that stands in for the CPU's."""
    backend = backend_of(CPU)
    assert isinstance(backend, GpuBackend)
    return backend


def _single(scene: Example) -> Gaussians:
    return converted(scene.gaussians, torch.float32)


# Rendering


@pytest.mark.parametrize("name", EXAMPLES)
def test_agrees_with_the_reference(shim: ShimLauncher, name: str) -> None:
    counted = outside_band(name)
    found, expected = evaluate(render, example(name), torch.float32, counted), judgement(name)
    assert_outcomes_agree(found, expected, counted, TOLERANCE)


def test_one_wrong_opacity_is_noticed(shim: ShimLauncher) -> None:
    name = "33x47, degree 2"
    counted, scene = outside_band(name), example(name)
    gaussians = converted(scene.gaussians, torch.float64)
    gaussians.opacity_logits[3] += 0.05
    spoilt = Example(**{**vars(scene), "gaussians": gaussians})
    with pytest.raises(AssertionError, match="image is off"):
        assert_images_agree(evaluate(render, spoilt, torch.float32, counted), judgement(name), counted, TOLERANCE)


def test_equal_input_gives_equal_bits(shim: ShimLauncher) -> None:
    scene, everywhere = example("130x70, degree 3"), torch.ones(70, 130, dtype=torch.bool)
    first, second = (evaluate(render, scene, torch.float32, everywhere) for _ in range(2))
    assert_same_bits(first, second)


def test_memory_from_before_does_not_matter(shim: ShimLauncher) -> None:
    scene, everywhere = example("33x47, degree 2"), torch.ones(47, 33, dtype=torch.bool)
    clean = evaluate(render, scene, torch.float32, everywhere)
    evaluate(render, example("130x70, degree 3"), torch.float32, torch.ones(70, 130, dtype=torch.bool))
    for workspace in _gpu().idle[0]:
        for buffer in workspace._buffers.values():
            buffer.fill_(math.nan if buffer.is_floating_point() else torch.iinfo(buffer.dtype).max)
    again = evaluate(render, scene, torch.float32, everywhere)
    assert_same_bits(clean, again)


def test_tiles_without_gaussians_forget_those_of_the_last_view(shim: ShimLauncher) -> None:
    dense, everywhere = example("130x70, degree 3"), torch.ones(70, 130, dtype=torch.bool)
    sparse = example_of(dense.camera, rows(dense.gaussians, torch.arange(8)))
    clean = evaluate(render, sparse, torch.float32, everywhere)
    evaluate(render, dense, torch.float32, everywhere)
    assert_same_bits(evaluate(render, sparse, torch.float32, everywhere), clean)


def test_importance_alone_has_the_bits_of_the_rendering_with_it(shim: ShimLauncher) -> None:
    scene = example("33x47, degree 2")
    gaussians, edges = _single(scene), scene.edges.float()
    both = render(scene.camera, gaussians, scene.background.float(), edges=edges)
    assert both.importance is not None
    assert torch.equal(importance(scene.camera, gaussians, edges), both.importance)
    plain = render(scene.camera, gaussians, scene.background.float())
    assert torch.equal(plain.image, both.image) and torch.equal(plain.alpha, both.alpha)
    assert "score" in shim.launches and "blend_score" in shim.launches


def test_many_tiles_take_the_wide_kernels(shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    scene, everywhere = example("130x70, degree 3"), torch.ones(70, 130, dtype=torch.bool)
    narrow = evaluate(render, scene, torch.float32, everywhere)
    monkeypatch.setattr(kernel_table, "MOST_SHORT_TILES", 44)  # there are 45
    wide = evaluate(render, scene, torch.float32, everywhere)
    assert {"emit", "emit_wide", "ranges", "ranges_wide"} <= set(shim.launches)
    assert_same_bits(narrow, wide)


def test_accumulating_adds_to_what_is_there(shim: ShimLauncher) -> None:
    scene = example("33x47, degree 2")
    fresh, summed = trainable(_single(scene), torch.float32), trainable(_single(scene), torch.float32)
    for _, values in summed.named_tensors():
        values.grad = torch.zeros_like(values)
    for times in (1, 2):
        for gaussians, accumulate in ((fresh, False), (summed, True)):
            seen = render(scene.camera, gaussians, scene.background.float(), accumulate=accumulate)
            (seen.image * scene.image_weights.float()).sum().backward()  # type: ignore[no-untyped-call]
        for (name, once), (_, several) in zip(fresh.named_tensors(), summed.named_tensors(), strict=True):
            assert once.grad is not None and several.grad is not None
            if times == 1:
                assert torch.equal(once.grad, several.grad), name
            assert_close(several.grad, once.grad, 1e-5, name)


def test_screen_gradients_are_summed_only_on_request(shim: ShimLauncher) -> None:
    scene = example("33x47, degree 2")
    found = []
    for asked in (True, False):
        gaussians = trainable(_single(scene), torch.float32)
        seen = render(
            scene.camera, gaussians, scene.background.float(), screen_gradients=ScreenGradients(absolute=asked)
        )
        (seen.image * scene.image_weights.float()).sum().backward()  # type: ignore[no-untyped-call]
        assert len(seen.abs_grad) == (len(gaussians) if asked else 0)
        found.append([values.grad for _, values in gaussians.named_tensors()])
        assert [name for name in shim.launches if name.startswith("blend_backward")][-1].endswith("screen") == asked
    for first, second in zip(*found, strict=True):
        assert first is not None and second is not None and torch.equal(first, second)


def test_two_renderings_at_a_time_do_not_share_memory(shim: ShimLauncher) -> None:
    one, other = example("33x47, degree 2"), example("130x70, degree 3")
    alone = evaluate(render, one, torch.float32, torch.ones(47, 33, dtype=torch.bool))
    gaussians = trainable(_single(one), torch.float32)
    seen = render(one.camera, gaussians, one.background.float(), edges=one.edges.float())
    between = render(other.camera, _single(other), other.background.float())
    loss = (seen.image * one.image_weights.float()).sum() + (seen.alpha * one.alpha_weights.float()).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.equal(alone.image, seen.image.detach().double())
    assert gaussians.means.grad is not None
    assert torch.equal(alone.gradients["means"], gaussians.means.grad.double())
    del seen, between, loss
    assert len(_gpu().idle[0]) == 2  # both are free again, and kept


def test_renderings_on_two_streams_do_not_share_memory(shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stream would write into what the first one's queue has yet to read."""
    scene, taken = example("33x47, degree 2"), []
    for stream in (1, 2, 1):
        monkeypatch.setattr(gpu, "stream_handle", lambda device, stream=stream: stream)
        rendering = _rendering(scene)
        taken.append(id(rendering._space))
        monkeypatch.setattr(gpu, "stream_handle", lambda device: 3)  # of the thread that happens to free it
        del rendering
    assert taken[0] == taken[2] != taken[1]
    assert sorted(stream for stream, spaces in _gpu().idle.items() if spaces) == [1, 2]
    shim.launches.append("none needed")


def test_the_table_of_memory_is_right(shim: ShimLauncher) -> None:
    """The buffers that a rendering keeps are those of the module's table; what sorts take inside is not seen."""
    scene = example("130x70, degree 3")
    gaussians = trainable(_single(scene), torch.float32)
    for _ in range(2):  # the second time with room for more instances
        seen = render(scene.camera, gaussians, scene.background.float())
        seen.image.sum().backward()  # type: ignore[no-untyped-call]
        del seen
    (space,) = _gpu().idle[0]
    buffers = dict(space._buffers)
    count, slots = len(buffers["order"]), len(buffers["list"])  # with the eighth that each has to spare
    instances = len(buffers["packets"]) // kernel_table.PACKET
    assert count == 160 + 160 // 8 and count < instances < slots
    tiles = buffers.pop("tile_ranges")
    assert tiles.numel() == 90 + 90 // 8
    held = sum(buffer.numel() * buffer.element_size() for buffer in buffers.values())
    inside_a_sort, results = (24, 20), 12
    a_gaussian = gpu.BYTES_A_GAUSSIAN - inside_a_sort[0] - results - 4  # its gathered count is gone as well
    expected = count * a_gaussian + instances * gpu.BYTES_AN_INSTANCE + slots * (gpu.BYTES_A_SLOT - inside_a_sort[1])
    assert abs(held - expected) < 200  # eighths are rounded one by one


# Refusals


def test_double_precision_is_refused(shim: ShimLauncher) -> None:
    scene = example("1x1")
    with pytest.raises(TypeError, match=r"float32, not torch\.float64"):
        render(scene.camera, scene.gaussians, scene.background)
    shim.launches.append("none needed")


def _rendering(scene: Example) -> gpu.Rendering:
    parameters = tuple(planes_of(values) for _, values in _single(scene).named_tensors())
    return gpu.Rendering(_gpu(), RenderInputs(scene.camera, parameters, scene.gaussians.sh_degree, torch.zeros(3)))


def test_too_wide_an_image_is_refused(shim: ShimLauncher) -> None:
    camera = camera_at(65536, 4)
    with pytest.raises(UserError, match="65536×4 pixels"):
        _rendering(example_of(camera, gaussians_seen(camera, 3)))
    shim.launches.append("none needed")


def test_too_many_parameters_are_refused(shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "MOST_ELEMENTS", 100 * 24 - 1)  # of 100 Gaussians with 8 coefficients above degree 0
    with pytest.raises(UserError, match="100 Gaussians are more"):
        _rendering(example("33x47, degree 2"))
    shim.launches.append("none needed")


def test_too_many_instances_are_refused_and_counted_in_64_bits(shim: ShimLauncher) -> None:
    rendering = _rendering(example("33x47, degree 2"))
    rendering.project(with_colour=True, radii=None)
    rendering.tile_counts.fill_(2**31 - 1)
    rendering.sort_by_depth()
    with pytest.raises(UserError, match="needs 214,748,364,700 tile instances for 100 Gaussians"):
        rendering.count_instances()


# Loss


@pytest.mark.parametrize("size", [(40, 30), (16, 16), (1, 1), (7, 50)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("squared", [False, True])
def test_loss_agrees_with_the_cpu(shim: ShimLauncher, size: tuple[int, int], masked: bool, squared: bool) -> None:
    generator = torch.Generator().manual_seed(size[0])
    target = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
    mask = torch.rand(size, generator=generator) > 0.3 if masked else None
    rendered = torch.rand(3, *size, generator=generator)
    results = []
    for backend in (_gpu(), CpuBackend()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(IN_USE, CPU, backend)
            image = rendered.clone().requires_grad_()
            loss = photometric_loss(image, target, mask, squared=squared)
            (3 * loss).backward()  # type: ignore[no-untyped-call]
            assert image.grad is not None
            results.append((loss.detach(), image.grad))
            alone = photometric_loss(rendered, target, mask, squared=squared)  # without a gradient
            assert torch.equal(alone, loss.detach())
    (loss, gradient), (expected_loss, expected_gradient) = results
    assert loss.shape == () and abs(loss - expected_loss) < 2e-6
    assert_close(gradient, expected_gradient, 1e-4, "gradient")


def test_a_photo_of_another_size_is_refused(shim: ShimLauncher) -> None:
    with pytest.raises(ValueError, match="of its size"):
        photometric_loss(torch.zeros(3, 8, 9), torch.zeros(9, 8, 3, dtype=torch.uint8))
    shim.launches.append("none needed")


# Adam


@pytest.mark.parametrize("merged", [1, 2])
def test_adam_agrees_with_the_cpu(shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch, merged: int) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(3, 1500, generator=generator).T, torch.randn(7, generator=generator), torch.zeros(4, 0, 3)]
    gradients = [1e-8 * torch.randn(3, 1500, generator=generator).T, torch.randn(7, generator=generator), start[2]]
    results = []
    for backend in (_gpu(), CpuBackend()):
        monkeypatch.setitem(IN_USE, CPU, backend)
        values = [tensor.clone(memory_format=torch.preserve_format) for tensor in start]
        moments = [(torch.zeros_like(tensor), torch.zeros_like(tensor)) for tensor in values]
        for step in range(1, 4):
            spent = [tensor.clone(memory_format=torch.preserve_format) for tensor in gradients]
            adam_step(
                [
                    AdamGroup(
                        AdamTensors(value, gradient, *moment), 0.1 / (index + 1), step * merged, merged, 0.01 * index
                    )
                    for index, (value, gradient, moment) in enumerate(zip(values, spent, moments, strict=True))
                ]
            )
            assert not any(gradient.any() for gradient in spent)
        results.append((values, moments))
    assert shim.launches == ["adam"] * 3, "one launch a step"
    for found, expected in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=1e-7)
    for found_pair, expected_pair in zip(results[0][1], results[1][1], strict=True):
        for found, expected in zip(found_pair, expected_pair, strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)


def test_more_groups_than_a_launch_takes_and_unlike_ones(shim: ShimLauncher) -> None:
    def group(size: int, merged: int) -> AdamGroup:
        parameter, gradient, first, second = (torch.ones(size) for _ in range(4))
        return AdamGroup(AdamTensors(parameter, gradient, first, second), 0.1, merged, merged)

    groups = [group(5 + index, merged) for merged in (1, 2) for index in range(7)]
    adam_step(groups)
    assert len(shim.launches) == 4
    for each in groups:
        alone = group(len(each.tensors.parameter), each.merged)
        adam_step([alone])
        assert all(torch.equal(a, b) for a, b in zip(each.tensors.flat, alone.tensors.flat, strict=True))
        assert not each.tensors.gradient.any()


# Training

ITERATIONS = 75  # densification begins with the second


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene(train_views=3, test_views=1, count=200, width=32, height=24)


def _config(**changes: Any) -> TrainConfig:
    return tiny_config(**{"iterations": ITERATIONS, **changes})


def _advance(trainer: Trainer, state: TrainState, until: int) -> dict[str, Tensor]:
    """The parameters after iteration `until`."""
    while state.iteration < until:
        trainer.advance(state)
    return {name: values.detach().clone() for name, values in state.population.gaussians.named_tensors()}


def _trained(scene: Scene, until: int) -> dict[str, Tensor]:
    """The parameters after iteration `until`, beginning with ellipsoids: a sphere's turns have no gradient."""
    trainer = Trainer(_config(), scene)
    state = trainer.begin()
    with torch.no_grad():
        state.population.gaussians.log_scales += torch.tensor([0.4, 0.0, -0.4])
    return _advance(trainer, state, until)


def test_first_iterations_follow_the_cpu(shim: ShimLauncher, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = _trained(scene, 2)  # later, Adam has turned rounding of tiny gradients into whole steps
    assert {"project", "blend", "loss_maps", "loss_gradient", "blend_backward_screen", "adam"} <= set(shim.launches)
    monkeypatch.setitem(IN_USE, CPU, CpuBackend())
    for name, expected in _trained(scene, 2).items():
        far = (ours[name] - expected).abs() > 1e-4 * expected.abs().max()
        assert far.double().mean() < 0.01, f"{name}: {int(far.sum())} of {far.numel()} entries differ"


def test_a_whole_run_reaches_the_budget_and_repeats_its_bits(shim: ShimLauncher, scene: Scene) -> None:
    first, second = (train(scene, _config()).population.state_dict() for _ in range(2))
    for name, group in first["groups"].items():
        assert group["parameter"].shape[0] == TINY_BUDGET
        assert torch.equal(group["parameter"], second["groups"][name]["parameter"]), name
        assert torch.equal(group["second_moment"], second["groups"][name]["second_moment"]), name
    assert {"score", "sum_scores"} <= set(shim.launches)  # the survey took place


@pytest.mark.parametrize("first_on_gpu", [True, False])
def test_a_checkpoint_goes_on_on_the_other_device(
    shim: ShimLauncher, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first_on_gpu: bool
) -> None:
    config = _config(model_path=tmp_path)
    backends = (_gpu(), CpuBackend())
    monkeypatch.setitem(IN_USE, CPU, backends[not first_on_gpu])
    state = Trainer(config, scene).begin()
    before = _advance(Trainer(config, scene), state, 20)
    run = RunFolder.create(tmp_path, config)
    run.save_checkpoint(state.state_dict(), 20)
    monkeypatch.setitem(IN_USE, CPU, backends[first_on_gpu])
    resumed = Trainer(config, scene).begin(read_checkpoint(run.checkpoint_path(20)))
    for name, values in resumed.population.gaussians.named_tensors():
        assert torch.equal(values, before[name])
    after, there = (
        _advance(Trainer(config, scene), again, 21)
        for again in (resumed, state)  # the same iteration on the other device, and on the first
    )
    assert all(after[name].shape == there[name].shape for name in after)


class _HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations for which the host waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"):
            self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_a_steady_iteration_reads_one_number(shim: ShimLauncher, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(_config(iterations=30_000), scene)
    state = trainer.begin()
    _advance(trainer, state, 2)
    notes: list[Tensor] = []
    monkeypatch.setattr(state.sampler, "next", lambda: 0)  # it reads its own order, which never leaves the CPU
    with _HostReads() as reads:
        trainer.advance(state, lambda it, views, loss: notes.append(loss))
    assert reads.names == ["aten::_local_scalar_dense"]  # the number of instances
    assert notes[0].shape == ()


def test_the_device_of_the_tensors_decides() -> None:
    assert isinstance(backend_of(CPU), CpuBackend)
    second = backend_of(torch.device("cuda", 1))
    assert isinstance(second, GpuBackend) and second.device == torch.device("cuda", 1)
    assert backend_of(torch.device("cuda", 1)) is second
    with pytest.raises(ValueError, match="tensors on meta cannot be rendered"):
        backend_of(torch.device("meta"))
