"""The cache of compiled kernels, and how arguments reach a kernel. The kernels themselves: tests/cuda."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from gns.errors import UserError
from gns.gaussian_renderer.backends import cuda as nvrtc
from gns.gaussian_renderer.backends.cuda import NvrtcLauncher, cached_cubin, compile_cubin, missing_parts

OPTIONS = ("--std=c++17", "--fmad=false")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of what is compiled, in order; the machine code is the name of the architecture and a running number."""
    calls: list[str] = []

    def fake(source: Path, arch: str, options: Sequence[str], include: Sequence[Path]) -> bytes:
        calls.append(source.name)
        return f"{arch} {len(calls)}".encode()

    monkeypatch.setattr(nvrtc, "compile_cubin", fake)
    monkeypatch.setattr(nvrtc, "_version", lambda: (13, 0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "sources" / "kernel.cu"
    path.parent.mkdir()
    path.write_text("a")
    (path.parent / "common.cuh").write_text("b")
    return path


def test_compiled_once(compiled: list[str], source: Path) -> None:
    for _ in range(3):
        assert cached_cubin(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 1"
    assert compiled == ["kernel.cu"]


def _edit_source(source: Path) -> None:
    source.write_text("changed")


def _edit_header(source: Path) -> None:
    (source.parent / "common.cuh").write_text("changed")


def _add_header(source: Path) -> None:
    (source.parent / "other.h").write_text("new")


@pytest.mark.parametrize("change", [_edit_source, _edit_header, _add_header])
def test_compiled_again_after_a_change(compiled: list[str], source: Path, change: Callable[[Path], None]) -> None:
    cached_cubin(source, "sm_90", OPTIONS, [source.parent])
    change(source)
    assert cached_cubin(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 2"


def test_compiled_for_each_architecture_option_and_compiler(
    compiled: list[str], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_cubin(source, "sm_90", OPTIONS, [source.parent])
    assert cached_cubin(source, "sm_75", OPTIONS, [source.parent]) == b"sm_75 2"
    assert cached_cubin(source, "sm_90", OPTIONS[:1], [source.parent]) == b"sm_90 3"
    monkeypatch.setattr(nvrtc, "_version", lambda: (13, 1))
    assert cached_cubin(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 4"


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 100])
def test_a_damaged_file_is_made_anew(compiled: list[str], source: Path, damage: bytes) -> None:
    cached_cubin(source, "sm_90", OPTIONS, [source.parent])
    (kept,) = nvrtc.cache_folder().iterdir()
    kept.write_bytes(damage)
    for _ in range(2):
        assert cached_cubin(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 2"


def test_a_folder_that_cannot_be_written_is_done_without(
    compiled: list[str], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_cubin(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 1"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    missing = missing_parts()
    assert missing is not None and "cuda-core" in missing and "pip install '.[cuda]'" in missing


def test_an_old_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", ModuleType("cuda.core"))
    missing = missing_parts()
    assert missing is not None and "cuda-core is older than 1.0" in missing


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.core", reason="needs cuda-core: pip install '.[cuda]'")

    def absent() -> tuple[int, int]:
        raise RuntimeError("libnvrtc.so.13 was not found\nand a long story")

    monkeypatch.setattr(nvrtc, "_version", absent)
    missing = missing_parts()
    assert missing is not None and "NVRTC cannot be loaded (libnvrtc.so.13 was not found)" in missing


def test_a_mistake_in_a_kernel_is_shown(source: Path) -> None:
    if (missing := missing_parts()) is not None:
        pytest.skip(missing)
    source.write_text('#include "common.cuh"\nextern "C" __global__ void f(float* a) { *a = wrong; }')
    (source.parent / "common.cuh").write_text("constexpr int right = 1;")
    with pytest.raises(UserError, match=r"(?s)kernel\.cu do not compile for sm_90.*wrong"):
        compile_cubin(source, "sm_90", OPTIONS, [source.parent])
    source.write_text(source.read_text().replace("wrong", "right"))
    assert compile_cubin(source, "sm_90", OPTIONS, [source.parent])[:4] == b"\x7fELF"
    with pytest.raises(ValueError, match="--use_fast_math"):
        compile_cubin(source, "sm_90", ["--use_fast_math"], [source.parent])


class _Recorder:
    """Stands for cuda-core: what a launch passes on."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def launch(self, stream: Any, config: Any, kernel: Any, *arguments: Any) -> None:
        self.calls.append((stream.__cuda_stream__(), config, kernel, arguments))


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> tuple[NvrtcLauncher, _Recorder]:
    """A launcher for tensors on the CPU, on the stream 77."""
    made, recorder = NvrtcLauncher.__new__(NvrtcLauncher), _Recorder()
    made.device = torch.device("cpu")
    made._launch, made._config = recorder.launch, lambda **settings: settings
    made._kernels = {"scale": "the kernel"}
    monkeypatch.setattr(made, "_enter", lambda: None)
    stream = type("Stream", (), {"cuda_stream": 77})()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return made, recorder


def test_arguments_have_their_widths(launcher: tuple[NvrtcLauncher, _Recorder]) -> None:
    made, recorder = launcher
    values = torch.zeros(4, 3)
    made.launch("scale", (5, 1, 1), (128, 1, 1), (values, None, 7, 0.5, True, values[1:]))
    ((stream, config, kernel, arguments),) = recorder.calls
    assert stream == (0, 77) and kernel == "the kernel" and config == {"grid": (5, 1, 1), "block": (128, 1, 1)}
    expected = [builtins.int, builtins.int, np.int32, np.float32, np.int32, builtins.int]
    assert [type(argument) for argument in arguments] == expected
    assert arguments == (values.data_ptr(), 0, 7, 0.5, 1, values.data_ptr() + 12)


def test_wrong_arguments_are_refused(launcher: tuple[NvrtcLauncher, _Recorder]) -> None:
    made, recorder = launcher
    with pytest.raises(ValueError, match=r"kernel scale on cpu was given a tensor on cpu, shape \(3, 4\)"):
        made.launch("scale", (1, 1, 1), (32, 1, 1), (torch.zeros(4, 3).T,))
    with pytest.raises(ValueError, match="on meta"):
        made.launch("scale", (1, 1, 1), (32, 1, 1), (torch.zeros(4, device="meta"),))
    with pytest.raises(OverflowError):
        made.launch("scale", (1, 1, 1), (32, 1, 1), (2**31,))
    assert not recorder.calls
