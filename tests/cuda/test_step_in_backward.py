"""Adam inside the backward pass: bit for bit what a separate step does, in the kernel and over whole runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import render
from gns.gaussian_renderer.backends import IN_USE
from gns.gaussian_renderer.backends.cpu import CpuBackend
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.gaussian_renderer.backends.kernel_table import KERNELS
from gns.model.adam import BackwardStep
from gns.model.population import Population
from gns.rules import edge_growth
from gns.scene import Scene
from gns.scene.gaussians import GROUPS
from gns.testing.comparison import example
from gns.testing.examples import EXAMPLES, converted
from gns.testing.shim import ShimLauncher, compiler
from gns.testing.tiny import tiny_config, tiny_scene
from gns.training.loop import Trainer

pytestmark = pytest.mark.skipif(compiler() is None, reason="runs the CUDA kernels through a C++ compiler: install g++")

CPU = torch.device("cpu")
RATES = {name: 0.01 * (number + 1) for number, name in enumerate(GROUPS)}
DECAYS = {name: 0.001 * number for number, name in enumerate(GROUPS)}
State = dict[str, tuple[Tensor, Tensor, Tensor]]


def _backend(monkeypatch: pytest.MonkeyPatch, launcher: ShimLauncher, *, fused: bool) -> None:
    backend = GpuBackend(CPU, launcher)
    backend.steps_in_backward = fused
    monkeypatch.setitem(IN_USE, CPU, backend)


def _bits(values: Tensor) -> Tensor:
    """Floats as integers: NaN equals itself, and 0 is not −0."""
    return values.detach().contiguous().view(torch.int32)


def _assert_same(first: State, second: State) -> None:
    for name, found in first.items():
        for part, a, b in zip(("parameter", "first moment", "second moment"), found, second[name], strict=True):
            assert torch.equal(_bits(a), _bits(b)), f"{part} of {name}"


def _stepped(name: str, *, fused: bool, degree: int | None = None) -> tuple[State, Tensor]:
    """Parameters and moments after three steps on an example, with a penalty; the last absolute screen gradient."""
    scene = example(name)
    generator = torch.Generator().manual_seed(1)
    population = Population(converted(scene.gaussians, torch.float32))
    if len(population) > 20:
        population.gaussians.means.detach()[7, 1] = torch.nan  # not drawn: its coefficients move by momentum alone
    for name_, group in population.state_dict()["groups"].items():
        group["first_moment"].copy_(torch.randn(group["first_moment"].shape, generator=generator))
        group["second_moment"].copy_(torch.rand(group["second_moment"].shape, generator=generator))
        assert name_ in GROUPS
    for _ in range(3):
        # A gradient by something else than the picture, of two groups.
        pushes = {3: torch.randn(len(population), generator=generator)}
        pushes[1] = torch.randn(len(population), 3, generator=generator)
        step = population.step_in_backward(RATES, DECAYS) if fused else None
        groups = population.state_dict()["groups"]
        for number, push in pushes.items():
            if step is None:
                groups[GROUPS[number]]["gradient"].add_(push)
            else:
                step.add(number, push)
        if step is not None:
            for group in step.groups:
                group.tensors.gradient.fill_(torch.nan)  # neither read nor written
        seen = render(
            scene.camera,
            population.gaussians,
            scene.background.float(),
            sh_degree=scene.sh_degree if degree is None else degree,
            accumulate=True,
            step=step,
        )
        (seen.image * scene.image_weights.float()).sum().backward()  # type: ignore[no-untyped-call]
        if step is None:
            population.step(GROUPS, RATES, decays=DECAYS)
        else:
            assert all(bool(group.tensors.gradient.isnan().all()) for group in step.groups)
    groups = population.state_dict()["groups"]
    parts = ("parameter", "first_moment", "second_moment")
    return {name: tuple(group[part] for part in parts) for name, group in groups.items()}, seen.abs_grad


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_bits_are_those_of_a_separate_step(name: str, shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for fused in (False, True):
        _backend(monkeypatch, shim, fused=fused)
        results.append(_stepped(name, fused=fused))
    (apart, screen), (together, same_screen) = results
    _assert_same(apart, together)
    assert torch.equal(_bits(screen), _bits(same_screen))


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_bands_that_are_not_drawn_yet_are_stepped_too(
    degree: int, shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    _backend(monkeypatch, shim, fused=True)
    name = "130x70, degree 3"
    _assert_same(*(_stepped(name, fused=fused, degree=degree)[0] for fused in (False, True)))


PLANTS = [
    ("before[k] + value[k], factors", "value[k], factors"),
    ("gradient[3 * k + c] = passes ? value : 0.0f;", "gradient[3 * k + c] = value;"),
    ("const Stepped& t = groups[group];", "const Stepped& t = groups[group]; const float rate = groups[0].step;"),
    ("if (Sink::kTakesAll)", "if (Sink::kTakesAll && tiles)"),
    ("t.inverse_root, t.keep}", "t.inverse_root, 1.0f}"),
    ("second[k] = t.second_moment[at + k * n];", "second[k] = t.second_moment[at];"),
    ("if (stored > 2) band_backward<8, 15>", "if (in.sh_degree > 2) band_backward<8, 15>"),
]


@pytest.mark.parametrize(("good", "bad"), PLANTS, ids=[bad for _, bad in PLANTS])
def test_an_error_in_the_step_is_seen(good: str, bad: str, shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(text: str) -> str:
        text = text.replace(good, bad, 1)
        return text.replace("epsilon, t.step,", "epsilon, rate,") if "rate =" in bad else text

    name = "130x70, degree 3"
    _backend(monkeypatch, shim, fused=True)
    apart = _stepped(name, fused=False, degree=2)[0]
    _backend(monkeypatch, ShimLauncher(edits={"project_backward.cu": edit}), fused=True)
    with pytest.raises(AssertionError, match=r"(moment|parameter) of"):
        _assert_same(apart, _stepped(name, fused=True, degree=2)[0])


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scene() -> Scene:
    return tiny_scene(train_views=3, test_views=1, count=120, width=24, height=16)


def _config(method: str) -> Any:
    budget = None if method == "3dgs" else 100
    return tiny_config(method=method, iterations=3_000, final_budget=budget, sh_decay=0.01)


def _advanced(scene: Scene, method: str, after: int, iterations: int) -> State:
    """Parameters and moments when a run was put to iteration `after` and went on from there."""
    trainer = Trainer(_config(method), scene)
    state = trainer.begin()
    state.iteration = after
    for _ in range(iterations):
        trainer.advance(state)
    groups = state.population.state_dict()["groups"]
    return {name: (group["parameter"], group["first_moment"], group["second_moment"]) for name, group in groups.items()}


# The reset of opacities at 300, the pulse of selection at 1501, relocation and density control at 60.
@pytest.mark.parametrize(
    ("method", "after", "iterations"), [("gns", 298, 3), ("gns", 1498, 5), ("mcmc", 58, 4), ("3dgs", 58, 4)]
)
def test_training_has_the_bits_of_separate_steps(
    method: str, after: int, iterations: int, shim: ShimLauncher, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for fused in (False, True):
        _backend(monkeypatch, shim, fused=fused)
        shim.launches.clear()
        results.append(_advanced(scene, method, after, iterations))
        together, apart = (shim.launches.count(name) for name in ("project_backward_step", "adam"))
        assert together + apart == iterations and bool(together) == fused
        assert not fused or (apart == 0) == (after == 1498), "where a rule acts the optimiser waits for it"
    _assert_same(*results)


def test_a_rule_that_acts_and_denies_it_is_seen(
    shim: ShimLauncher, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    _backend(monkeypatch, shim, fused=True)
    honest = _advanced(scene, "gns", 298, 3)
    monkeypatch.setattr(edge_growth.EdgeGrowth, "leaves_alone", lambda *_: True)
    with pytest.raises(AssertionError):
        _assert_same(honest, _advanced(scene, "gns", 298, 3))


def test_a_penalty_that_is_not_handed_over_is_seen(
    shim: ShimLauncher, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    _backend(monkeypatch, shim, fused=True)
    honest = _advanced(scene, "gns", 1499, 2)
    monkeypatch.setattr("gns.training.loop._hand_over", lambda *_: None)
    with pytest.raises(AssertionError, match="opacity_logits"):
        _assert_same(honest, _advanced(scene, "gns", 1499, 2))


Change = Callable[[Trainer, Any], None]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda trainer, state: setattr(state.population, "gradients_are_zero", False),
        lambda trainer, state: setattr(trainer.team, "size", 2),
    ],
    ids=["gradients are there", "a team"],
)
def test_gradients_that_must_be_summed_are(
    spoil: Change, shim: ShimLauncher, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    _backend(monkeypatch, shim, fused=True)
    trainer = Trainer(_config("gns"), scene)
    state = trainer.begin()
    assert trainer._steps_in_backward(state, state.rendered(), 1)
    monkeypatch.setattr(trainer, "team", type(trainer.team)())
    spoil(trainer, state)
    assert not trainer._steps_in_backward(state, state.rendered(), 1)


def test_a_checkpoint_with_gradients_is_not_stepped_past_them(scene: Scene) -> None:
    trainer = Trainer(_config("gns"), scene)
    saved, extras = trainer.begin().population.state_dict(), trainer.plan.extras
    assert Population.from_state_dict(saved, extras).gradients_are_zero
    saved["groups"]["quats"]["gradient"][5, 1] = 1e-9
    assert not Population.from_state_dict(saved, extras).gradients_are_zero


def test_a_step_of_other_parameters_is_refused(shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    _backend(monkeypatch, shim, fused=True)
    name = "16x16, degree 1"
    one, other = (Population(converted(example(name).gaussians, torch.float32)) for _ in range(2))

    def drawn(step: BackwardStep) -> None:
        render(example(name).camera, one.gaussians, [0.0, 0.0, 0.0], step=step)

    drawn(one.step_in_backward(RATES))
    with pytest.raises(ValueError, match="very parameters that are drawn"):
        drawn(other.step_in_backward(RATES))
    step = one.step_in_backward(RATES)
    with pytest.raises(ValueError, match="very parameters that are drawn"):
        drawn(BackwardStep(step.groups[:5], 0.9, 0.999, 1e-15))
    monkeypatch.setitem(IN_USE, CPU, CpuBackend())
    with pytest.raises(ValueError, match="takes no step of Adam on the CPU"):
        drawn(step)


def test_the_table_counts_the_groups() -> None:
    names = [argument.name for argument in KERNELS["project_backward_step"].arguments]
    assert [name.removesuffix("_further") for name in names if name.endswith("_further")] == list(GROUPS)
