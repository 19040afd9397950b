"""NVRTC's own PTX executed on the CPU: what the compiler made of the kernels, and what approximate instructions cost.

`gns.testing.emulation.ptx` says what is checked on the way: alignment, arrays, shared variables, whole warps, barriers.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from benchmarks.gpu.comparing import iterate, poisoned
from benchmarks.gpu.parity import EXACT, Mirror
from gns.gaussian_renderer import importance, render
from gns.gaussian_renderer.backends import IN_USE, kernel_table
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.gaussian_renderer.backends.kernel_table import KERNELS
from gns.gaussian_renderer.backends.nvrtc import missing_parts
from gns.model.population import Population
from gns.scene.gaussians import GROUPS
from gns.testing.comparison import assert_outcomes_agree, evaluate, example, judgement, outside_band
from gns.testing.emulation.ptx import Untranslatable, translate
from gns.testing.emulation.ptx_launcher import PtxLauncher, ptx_of
from gns.testing.examples import converted
from gns.testing.shim import Edit, ShimError, ShimLauncher
from tests.cuda.stages import KERNEL_TOLERANCE, evaluate_stages, prepared
from tests.cuda.stages import poisoned as poisoned_tensor

pytestmark = pytest.mark.skipif(missing_parts() is not None, reason=f"cannot compile for a GPU: {missing_parts()}")

CPU = torch.device("cpu")
SCENE = "33x47, degree 2"
SAME = 1e-6  # of the largest entry: other roundings of 2^x and log2, and nothing else


def _run_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole iterations and surveys through the backend of the CPU's tensors, with few tiles and as with very many."""
    for most_tiles in (kernel_table.MOST_SHORT_TILES, 0):
        monkeypatch.setattr(kernel_table, "MOST_SHORT_TILES", most_tiles)
        for name in (SCENE, "deep opaque stack", "no Gaussians"):
            scene = example(name)
            gaussians = converted(scene.gaussians, torch.float32)
            with poisoned(CPU):
                iterate(scene, CPU, steps=2)
                iterate(scene, CPU, steps=2, observed=False)
                render(scene.camera, gaussians, scene.background.float())
                importance(scene.camera, gaussians, scene.edges.float())
                population, background = Population(gaussians), scene.background.float()
                step = population.step_in_backward(dict.fromkeys(GROUPS, 0.01))
                stepping = render(scene.camera, population.gaussians, background, step=step)
                stepping.image.sum().backward()  # type: ignore[no-untyped-call]
                maps = render(scene.camera, population.gaussians, background, inverse_depth=True, counts=True)
                assert maps.inverse_depth is not None
                (maps.image.sum() + maps.inverse_depth.sum()).backward()  # type: ignore[no-untyped-call]


def _mirrored(real: ShimLauncher, twin: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """Every launch of `_run_every_kernel` by both from the same input, and how far what they wrote lies apart."""
    mirror = Mirror(real, twin)
    monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, mirror))
    _run_every_kernel(monkeypatch)
    return mirror


def _different(mirror: Mirror) -> list[str]:
    """The arrays that are not the same but for rounding."""
    return [key for key, off in mirror.largest.items() if off > (0 if key.startswith(EXACT) else SAME)]


@pytest.mark.parametrize("arch", ["compute_75", "compute_90"])
def test_the_compilers_code_is_the_kernels(arch: str, shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = PtxLauncher(arch)
    mirror = _mirrored(compiled, shim, monkeypatch)
    assert set(compiled.launches) == set(KERNELS), "every kernel was executed"
    assert not _different(mirror), mirror.largest


def test_the_order_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = _mirrored(PtxLauncher(backwards=True), PtxLauncher(), monkeypatch)
    assert max(mirror.largest.values()) == 0


def test_large_gaussians_that_warps_share(shim: ShimLauncher) -> None:
    counted = outside_band("wide giants")
    outcome = evaluate_stages(PtxLauncher(), example("wide giants"), counted)
    assert_outcomes_agree(outcome, judgement("wide giants"), counted, KERNEL_TOLERANCE)


# Approximate instructions

NOISY = (SCENE, "130x70, degree 3", "opaque stacks", "needles", "beyond the frustum margin")


@pytest.mark.parametrize("name", NOISY)
def test_tolerances_hold_with_instructions_off_by_their_documented_errors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = outside_band(name)
    monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, PtxLauncher(noise=1.0)))
    outcome = evaluate(render, example(name), torch.float32, counted)
    assert_outcomes_agree(outcome, judgement(name), counted, KERNEL_TOLERANCE)


def test_errors_beyond_the_documented_ones_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = outside_band(SCENE)
    for noise, seen in ((1.0, False), (300.0, True)):
        monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, PtxLauncher(noise=noise)))
        outcome = evaluate(render, example(SCENE), torch.float32, counted)
        try:
            assert_outcomes_agree(outcome, judgement(SCENE), counted, KERNEL_TOLERANCE)
        except AssertionError:
            assert seen
        else:
            assert not seen


# Errors planted in the PTX


def _each(pattern: str, replacement: str) -> Edit:
    return lambda text: re.sub(pattern, replacement, text)


def test_one_wrong_constant_is_seen(shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest α of a splat, 0.99 and 0.98 as floats."""
    faulty = PtxLauncher(edits={"blend.cu": lambda text: text.replace("0f3F7D70A4", "0f3F7AE148")})
    kernels = {key.split(".")[0] for key in _different(_mirrored(faulty, shim, monkeypatch))}
    assert "blend" in kernels and kernels <= {"blend", "blend_maps", "blend_score", "score"}


FORBIDDEN: dict[str, tuple[str, Edit, str]] = {
    "a wider load than its address allows": (
        "blend.cu",
        _each(r"(ld\.global(?:\.nc)?\.v4\.\w+ \t?\{[^}]*\}, \[%rd\d+)\+16\]", r"\1+20]"),
        "misaligned access of 16 bytes to global memory",
    ),
    "a shared variable that is too small": (
        "blend.cu",
        _each(r"(E5batch)\[\d+\]", r"\1[4096]"),
        "outside of all shared variables",
    ),
    "an array read beyond its end": (
        "blend.cu",
        _each(r"(ld\.global\.v2\.u32 \t?\{[^}]*\}, \[%rd\d+)\]", r"\1+1048576]"),
        "outside of all arrays",
    ),
    "a barrier for some of the threads": (
        "blend.cu",
        _each(r"bar\.sync", "setp.ne.s32 %p1, %tid.x, 0;\n\t@%p1 bar.sync"),
        "different places|wait for ever|ended",
    ),
    "a vote of half a warp": (
        "blend.cu",
        _each(r"(vote\.sync\.ballot\.b32 \t?%r\d+, %p\d+), %r\d+", r"\1, 65535"),
        "only whole warps may meet",
    ),
    "a shuffle within a part of a warp": (
        "blend_backward.cu",
        _each(r"(shfl\.sync\.bfly\.b32 \t?%r\d+\|%p\d+, %r\d+, %r\d+), %r\d+", r"\1, 15"),
        "a shuffle within a part of a warp",
    ),
}


@pytest.mark.parametrize("fault", FORBIDDEN)
def test_what_no_gpu_has_to_accept_is_refused(fault: str) -> None:
    source, edit, message = FORBIDDEN[fault]
    with pytest.raises(ShimError, match=message):
        evaluate_stages(PtxLauncher(edits={source: edit}), example(SCENE), outside_band(SCENE))


def test_a_misaligned_tensor_is_refused() -> None:
    launcher = PtxLauncher()
    stages = prepared(launcher, example(SCENE))
    shifted = poisoned_tensor(stages.splats.numel() + 1)[1:].view_as(stages.splats)
    stages.splats = shifted.copy_(stages.splats)
    with pytest.raises(ShimError, match=r"blend: misaligned access of 16 bytes to global memory \(block 0,0,0"):
        stages.blend(torch.zeros(3))


def test_a_missing_barrier_is_seen() -> None:
    """In one of the two orders of the threads: those behind read what those before them have not yet staged."""
    edit: Edit = lambda text: text.replace("bar.sync \t0;", "")  # noqa: E731
    scene, counted = example(SCENE), outside_band(SCENE)
    with pytest.raises((AssertionError, ShimError)):
        for backwards in (False, True):
            outcome = evaluate_stages(PtxLauncher(backwards=backwards, edits={"blend.cu": edit}), scene, counted)
            assert_outcomes_agree(outcome, judgement(SCENE), counted, KERNEL_TOLERANCE)


def test_a_plant_that_changes_nothing_is_an_error() -> None:
    launcher = PtxLauncher(edits={"adam.cu": lambda text: text})
    with pytest.raises(ValueError, match="nothing to change"):
        evaluate_adam(launcher)


def evaluate_adam(launcher: PtxLauncher) -> None:
    nothing = (0, None, None, None, None, 0.0, 0.0)
    tensors = [1, *(torch.ones(1) for _ in range(4)), 0.1, 1.0, *(5 * nothing)]
    launcher.launch("adam", (1, 1, 1), (256, 1, 1), (*tensors, 0.9, 0.1, 0.999, 0.001, 1e-15))


# The translation


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("add.rn.f32", "add.rz.f32.sat", 1), "no translation for add.rz.f32.sat"),
        (lambda text: text.replace("%ctaid.x", "%clock", 1), "%clock"),
        (lambda text: text.replace("bar.sync \t0", "bar.sync \t1", 1), "no translation for bar.sync"),
    ],
)
def test_an_unknown_instruction_is_not_passed_over(change: Callable[[str], str], message: str) -> None:
    text = ptx_of("blend.cu", "compute_90")
    assert change(text) != text
    with pytest.raises(Untranslatable, match=re.escape(message)):
        translate(change(text))
