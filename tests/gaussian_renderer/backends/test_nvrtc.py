"""Which compiler there is, for what it compiles, and the cache of what it has made. The kernels: tests/cuda."""

from __future__ import annotations

import builtins
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from gns.errors import UserError
from gns.gaussian_renderer.backends import nvrtc
from gns.gaussian_renderer.backends.nvrtc import architecture_for, cached_kernels, compile_kernels, missing_parts

OPTIONS = ("--std=c++17", "--fmad=false")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of what is compiled, in order; the machine code is the name of the architecture and a running number."""
    calls: list[str] = []

    def fake(source: Path, arch: str, options: Sequence[str], include: Sequence[Path]) -> bytes:
        calls.append(source.name)
        return f"{arch} {len(calls)}".encode()

    monkeypatch.setattr(nvrtc, "compile_kernels", fake)
    monkeypatch.setattr(nvrtc, "compiler_version", lambda: "13.0.48")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "sources" / "kernel.cu"
    path.parent.mkdir()
    path.write_text("a")
    (path.parent / "common.cuh").write_text("b")
    return path


# The cache


def test_compiled_once(compiled: list[str], source: Path) -> None:
    for _ in range(3):
        assert cached_kernels(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 1"
    assert compiled == ["kernel.cu"]


def _edit_source(source: Path) -> None:
    source.write_text("changed")


def _edit_header(source: Path) -> None:
    (source.parent / "common.cuh").write_text("changed")


def _add_header(source: Path) -> None:
    (source.parent / "other.h").write_text("new")


@pytest.mark.parametrize("change", [_edit_source, _edit_header, _add_header])
def test_compiled_again_after_a_change(compiled: list[str], source: Path, change: Callable[[Path], None]) -> None:
    cached_kernels(source, "sm_90", OPTIONS, [source.parent])
    change(source)
    assert cached_kernels(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 2"


def test_compiled_for_each_architecture_option_and_compiler(
    compiled: list[str], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_kernels(source, "sm_90", OPTIONS, [source.parent])
    assert cached_kernels(source, "sm_75", OPTIONS, [source.parent]) == b"sm_75 2"
    assert cached_kernels(source, "sm_90", OPTIONS[:1], [source.parent]) == b"sm_90 3"
    monkeypatch.setattr(nvrtc, "compiler_version", lambda: "13.0.88")  # nvrtcVersion says 13.0 of both
    assert cached_kernels(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 4"
    assert compiled == 4 * ["kernel.cu"]


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 100])
def test_a_damaged_file_is_made_anew(compiled: list[str], source: Path, damage: bytes) -> None:
    cached_kernels(source, "sm_90", OPTIONS, [source.parent])
    folder = nvrtc.cache_folder()
    assert folder is not None
    (kept,) = folder.iterdir()
    kept.write_bytes(damage)
    for _ in range(2):
        assert cached_kernels(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 2"


def test_a_folder_that_cannot_be_written_is_done_without(
    compiled: list[str], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert cached_kernels(source, "sm_90", OPTIONS, [source.parent]) == b"sm_90 1"


def test_a_user_without_a_home_compiles_every_time(
    compiled: list[str], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    for number in (1, 2):
        assert cached_kernels(source, "sm_90", OPTIONS, [source.parent]) == f"sm_90 {number}".encode()


# What is missing


def test_a_missing_package_is_named_with_the_extra_for_this_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    for toolkit, extra in (("12.6", "cuda12"), ("11.8", "cuda12"), ("13.0", "cuda13")):
        monkeypatch.setattr(torch.version, "cuda", toolkit)
        missing = missing_parts()
        assert missing is not None and "package cuda-core is missing" in missing
        assert f"pip install '.[{extra}]'" in missing and f"CUDA {toolkit}" in missing


@pytest.mark.parametrize("version", ["0.7.0", "1.0.0", "2.0.0"])
def test_an_unsuitable_version_is_named(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    package = ModuleType("cuda.core")
    package.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda.core", package)
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", ModuleType("cuda.bindings.nvrtc"))
    missing = missing_parts()
    assert missing is not None and f"cuda-core is {version}, and must be at least 1.0.1 and below 2" in missing


def test_packages_that_do_not_fit_together_are_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As cuda-core 1.0.0 fails with cuda-bindings 13.0.3."""

    def broken(name: str) -> ModuleType:
        raise ImportError("cannot import name 'cyruntime' from 'cuda.bindings'\nand more")

    monkeypatch.setattr(importlib, "import_module", broken)
    missing = missing_parts()
    assert missing is not None and "cuda-core and cuda-bindings do not fit together (cannot import name" in missing
    assert "missing" not in missing and "\n" not in missing


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.core", reason="needs cuda-core: pip install '.[cuda13]'")

    def absent() -> list[int]:
        raise RuntimeError("libnvrtc.so.13 was not found\nand a long story")

    monkeypatch.setattr(nvrtc, "supported_architectures", absent)
    missing = missing_parts()
    assert missing is not None and "NVRTC cannot be loaded (libnvrtc.so.13 was not found)" in missing


def test_the_extras_ask_for_what_the_launcher_accepts() -> None:
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    for toolkit in ("12", "13"):
        (extra,) = re.findall(rf"^cuda{toolkit} = (\[.*\])", text, re.MULTILINE)
        assert "cuda-core>=1.0.1,<2" in extra and f"cuda-bindings=={toolkit}.*" in extra
        assert "[cu" not in extra, "the extras of cuda-core bring an NVRTC of their own beside torch's"
    assert nvrtc.OLDEST_CORE == (1, 0, 1) and nvrtc.NEWEST_CORE == (2,)


# For which GPU

NVRTC_12_6 = (50, 52, 53, 60, 61, 62, 70, 72, 75, 80, 86, 87, 89, 90)
NVRTC_13_0 = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)


@pytest.mark.parametrize(
    ("capability", "supported", "expected"),
    [
        ((9, 0), NVRTC_13_0, "sm_90"),
        ((6, 1), NVRTC_12_6, "sm_61"),
        ((7, 0), NVRTC_12_6, "sm_70"),
        ((8, 9), (75, 80, 86), "sm_86"),  # the largest of the same generation that is not above
        ((8, 6), (75, 80, 87, 90), "sm_80"),
        ((12, 0), NVRTC_12_6, "compute_90"),  # a generation that the compiler does not know
        ((11, 0), (90, 100, 101, 120), "compute_101"),  # 12.0 would be above
    ],
)
def test_the_architecture_is_one_that_the_compiler_knows(
    capability: tuple[int, int], supported: Sequence[int], expected: str
) -> None:
    assert architecture_for(capability, supported) == expected


def test_a_gpu_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "compiler_version", lambda: "13.0.48")
    with pytest.raises(UserError, match=r"compute capability 7\.0, and NVRTC 13\.0\.48 makes code for 7\.5 and newer"):
        architecture_for((7, 0), NVRTC_13_0)


# The compiler itself


@pytest.fixture
def real() -> None:
    if (missing := missing_parts()) is not None:
        pytest.skip(missing)


def test_a_mistake_in_a_kernel_is_shown(real: None, source: Path) -> None:
    source.write_text('#include "common.cuh"\nextern "C" __global__ void f(float* a) { *a = wrong; }')
    (source.parent / "common.cuh").write_text("constexpr int right = 1;")
    with pytest.raises(UserError, match=r"(?s)kernel\.cu do not compile for sm_90.*wrong"):
        compile_kernels(source, "sm_90", OPTIONS, [source.parent])
    source.write_text(source.read_text().replace("wrong", "right"))
    assert compile_kernels(source, "sm_90", OPTIONS, [source.parent])[:4] == b"\x7fELF"
    assert b".entry f" in compile_kernels(source, "compute_90", OPTIONS, [source.parent])


def test_the_version_is_the_full_one(real: None) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", nvrtc.compiler_version())


def test_it_compiles_without_a_driver(real: None, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither machine code nor PTX may ask what the driver would take: there is none to ask while kernels are built."""
    imported = builtins.__import__

    def refusing(name: str, *rest: Any, **more: Any) -> Any:
        assert name != "cuda.bindings.driver"
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refusing)
    source.write_text('extern "C" __global__ void f() {}')
    for arch in ("sm_90", "compute_90"):
        assert compile_kernels(source, arch, OPTIONS, [])
