"""Every kernel compiled by NVRTC for every generation of GPU, with gates on what comes out. Needs no GPU."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from gns.gaussian_renderer.backends.kernel_table import (
    COMPILE_OPTIONS,
    INCLUDE_FOLDERS,
    KERNELS,
    SOURCE_FOLDER,
    SOURCES,
)
from gns.gaussian_renderer.backends.nvrtc import compile_kernels, missing_parts

pytestmark = pytest.mark.skipif(missing_parts() is not None, reason=f"cannot compile for a GPU: {missing_parts()}")

# Turing, A100, Ampere, Ada, Hopper, Blackwell.
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_120")

# Registers a thread: what keeps enough blocks on a multiprocessor. 65536 / (threads · registers) blocks fit.
MOST_REGISTERS = {
    "project": 64,
    "emit": 60,
    "emit_wide": 60,
    "ranges": 24,
    "ranges_wide": 24,
    "blend": 48,
    "blend_maps": 56,
    "blend_score": 56,
    "score": 40,
    "sum_scores": 48,
    "blend_backward": 60,
    "blend_backward_screen": 60,
    "blend_backward_depth": 64,
    "project_backward": 80,
    "project_backward_step": 128,  # four blocks: 18 loads under way a thread count for more than a fifth block
    "loss_maps": 64,
    "loss_sum": 64,
    "loss_gradient": 64,
    "dissimilarity": 64,
    "adam": 40,
}
MOST_SHARED = {
    "blend": 5248,
    "blend_maps": 5248,
    "blend_score": 8192,
    "score": 8192,
    "blend_backward": 11392,
    "blend_backward_screen": 11392,
    "blend_backward_depth": 11392,
    "loss_maps": 14336,
    "loss_sum": 4096,
    "loss_gradient": 14336,
    "dissimilarity": 14336,
}


@dataclass(frozen=True)
class Usage:
    """What one kernel takes, by the assembler's log."""

    registers: int
    shared: int  # bytes a block
    spilled: int  # bytes a thread, stores and loads
    stack: int  # bytes a thread


def usage(source: Path, architecture: str) -> dict[str, Usage]:
    """Compile and read the log."""
    log = io.StringIO()
    compile_kernels(source, architecture, COMPILE_OPTIONS, INCLUDE_FOLDERS, log=log)
    text = log.getvalue()
    assert "warning" not in text, text
    found = {}
    for part in text.split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)'", part)
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers, shared = re.search(r"Used (\d+) registers", part), re.search(r"(\d+) bytes smem", part)
        assert name and frame and registers, part
        stack, stores, loads = (int(number) for number in frame.groups())
        found[name[1]] = Usage(int(registers[1]), int(shared[1]) if shared else 0, stores + loads, stack)
    return found


def assert_within_limits(found: dict[str, Usage]) -> None:
    for name, taken in found.items():
        assert taken.spilled == 0 and taken.stack == 0, f"{name} spills registers to memory: {taken}"
        assert taken.registers <= MOST_REGISTERS[name], f"{name}: {taken}"
        assert taken.shared <= MOST_SHARED.get(name, 0), f"{name}: {taken}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_kernels_compile_within_their_limits(source: str, architecture: str) -> None:
    found = usage(SOURCE_FOLDER / source, architecture)
    assert found.keys() == {kernel.name for kernel in KERNELS.values() if kernel.source == source}
    assert_within_limits(found)


@pytest.mark.parametrize(
    ("file", "good", "bad"),
    [
        ("blend_backward.cu", "__launch_bounds__(128, 8)", "__launch_bounds__(128, 16)"),
        ("blend.cu", "__shared__ gns::Batch batch;", "__shared__ gns::Batch batch, spare; spare.place[width] = {};"),
        ("project_backward.cu", "__launch_bounds__(128, 6)", "__launch_bounds__(128, 14)"),
    ],
)
def test_a_kernel_beyond_its_limits_is_seen(file: str, good: str, bad: str, tmp_path: Path) -> None:
    text = (SOURCE_FOLDER / file).read_text()
    assert good in text
    planted = tmp_path / file
    planted.write_text(text.replace(good, bad))
    with pytest.raises(AssertionError):
        assert_within_limits(usage(planted, "sm_90"))
