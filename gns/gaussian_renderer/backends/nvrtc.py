"""NVIDIA's run-time compiler: what of it is installed, for which GPUs it makes code, and a cache of that on disk.

No CUDA toolkit and no host compiler: NVRTC comes with torch's CUDA wheels. Compiling needs no GPU and no driver.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from gns.errors import UserError
from gns.utils.atomic_files import write_bytes

OLDEST_CORE, NEWEST_CORE = (1, 0, 1), (2,)  # of cuda-core: from the first on, and below the second


def install_hint() -> str:
    """What to do where a package is missing or does not fit, as half a sentence."""
    return (
        f"run pip install '.[{_extra()}]' in the folder of gns, which goes with this torch (CUDA "
        f"{torch.version.cuda}), or use --device cpu"
    )


def _extra() -> str:
    """The extra of pyproject.toml that leaves torch the NVRTC which it came with."""
    major = int((torch.version.cuda or "13").split(".")[0])
    return "cuda13" if major >= 13 else "cuda12"


def missing_parts() -> str | None:
    """What has to be installed before anything can be compiled, as half a sentence; None where all is there."""
    try:
        core = importlib.import_module("cuda.core")
        importlib.import_module("cuda.bindings.nvrtc")
    except ModuleNotFoundError as error:
        return f"the package cuda-core is missing ({error}): {install_hint()}"
    except Exception as error:  # both are compiled, and each other's versions need not suit them
        return f"the packages cuda-core and cuda-bindings do not fit together ({first_line(error)}): {install_hint()}"
    version = str(getattr(core, "__version__", "0"))
    if not OLDEST_CORE <= tuple(map(int, re.findall(r"\d+", version))) < NEWEST_CORE:
        oldest, newest = (".".join(map(str, numbers)) for numbers in (OLDEST_CORE, NEWEST_CORE))
        return f"the package cuda-core is {version}, and must be at least {oldest} and below {newest}: {install_hint()}"
    try:
        supported_architectures()
    except Exception as error:  # whatever the loader of shared libraries throws
        return f"NVIDIA's run-time compiler NVRTC cannot be loaded ({first_line(error)}): {install_hint()}"
    return None


def first_line(error: Exception) -> str:
    """An error as fits into a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def supported_architectures() -> list[int]:
    """What NVRTC makes code for, 75 for compute capability 7.5."""
    nvrtc = importlib.import_module("cuda.bindings.nvrtc")
    return sorted(map(int, _ask(nvrtc.nvrtcGetSupportedArchs())))


@cache
def compiler_version() -> str:
    """NVRTC's full version, such as "13.0.88".

    Its own function says no more than 13.0, but it writes the rest into the PTX that it makes.
    """
    oldest = f"compute_{supported_architectures()[0]}"
    found = re.search(rb"release [\d.]+, V([\d.]+)", _compiled("", "version.cu", oldest, (), None))
    if found is not None:
        return found[1].decode()
    nvrtc = importlib.import_module("cuda.bindings.nvrtc")
    return ".".join(map(str, _ask(nvrtc.nvrtcVersion())))


def architecture_for(capability: tuple[int, int], supported: Sequence[int]) -> str:
    """What to compile for a GPU of this compute capability: "sm_90" for machine code, "compute_90" for PTX.

    Machine code runs on GPUs of the same generation (the same major number) that are no older; PTX on all that are no
    older, at the price that the driver translates it first. Raises UserError for a GPU older than all `supported`.
    """
    major, minor = capability
    known = [number for number in supported if number <= 10 * major + minor]
    if not known:
        raise UserError(
            f"this GPU has compute capability {major}.{minor}, and NVRTC {compiler_version()} makes code for "
            f"{min(supported) / 10} and newer: install the build of torch for an older CUDA, or use --device cpu"
        )
    newest = max(known)
    return f"sm_{newest}" if newest // 10 == major else f"compute_{newest}"


def compile_kernels(
    source: Path, arch: str, options: Sequence[str], include: Sequence[Path], *, log: io.StringIO | None = None
) -> bytes:
    """Code of the kernels in `source` for `arch`: of the machine for "sm_90", PTX for "compute_90".

    `options` are NVRTC's own, `include` the folders of headers. `log` receives what the assembler says about registers
    and memory. Raises UserError where the source does not compile.
    """
    settings = [*options, *(f"--include-path={folder}" for folder in include)]
    if log is not None:
        settings.append("--ptxas-options=-v")
    try:
        return _compiled(source.read_text(encoding="utf-8"), source.name, arch, settings, log)
    except RuntimeError as error:
        raise UserError(f"the CUDA kernels in {source.name} do not compile for {arch}: {error}") from error


def _compiled(text: str, name: str, arch: str, options: Sequence[str], log: io.StringIO | None) -> bytes:
    """`compile_kernels` of a text; raises RuntimeError, with what the compiler has to say."""
    nvrtc: Any = importlib.import_module("cuda.bindings.nvrtc")
    program = _ask(nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], []))
    try:
        settings = [option.encode() for option in (f"--gpu-architecture={arch}", *options)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(settings), settings)
        said = bytearray(_ask(nvrtc.nvrtcGetProgramLogSize(program)))
        _ask(nvrtc.nvrtcGetProgramLog(program, said))
        says = bytes(said).rstrip(b"\0\n").decode(errors="replace")
        if int(status) != 0:
            raise RuntimeError(says or str(status))
        if log is not None:
            log.write(says)
        kind = "CUBIN" if arch.startswith("sm_") else "PTX"
        code = bytearray(_ask(getattr(nvrtc, f"nvrtcGet{kind}Size")(program)))
        _ask(getattr(nvrtc, f"nvrtcGet{kind}")(program, code))
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _ask(answer: tuple[Any, ...]) -> Any:
    """What a function of NVRTC answers behind its status. Raises RuntimeError where that is not success."""
    status, *values = answer
    if int(status) != 0:
        raise RuntimeError(str(status))
    return values[0] if len(values) == 1 else values


def cache_folder() -> Path | None:
    """Where compiled kernels are kept: $XDG_CACHE_HOME/gns, by default ~/.cache/gns; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "gns"
    except RuntimeError:  # a number that no list of users knows, as in some containers
        return None


def cached_kernels(source: Path, arch: str, options: Sequence[str], include: Sequence[Path]) -> bytes:
    """The same as `compile_kernels`, from disk where an earlier run has left it.

    What decides the result decides the name of the file: the source, everything in the folders of headers, options,
    architecture and compiler. A damaged file is made anew; without a folder to write to, every run compiles.
    """
    folder = cache_folder()
    if folder is None:
        return compile_kernels(source, arch, options, include)
    path = folder / f"{source.stem}-{arch}-nvrtc{compiler_version()}-{_fingerprint(source, options, include)}.bin"
    with suppress(OSError):
        kept = path.read_bytes()
        if hashlib.sha256(kept[_DIGEST:]).digest() == kept[:_DIGEST]:
            return kept[_DIGEST:]
    code = compile_kernels(source, arch, options, include)
    with suppress(UserError):
        write_bytes(path, hashlib.sha256(code).digest() + code)
    return code


_DIGEST = hashlib.sha256().digest_size


def _fingerprint(source: Path, options: Sequence[str], include: Sequence[Path]) -> str:
    digest = hashlib.sha256(repr(tuple(options)).encode())
    headers = {path for folder in include for pattern in ("*.h", "*.cuh") for path in folder.glob(pattern)}
    for path in (source, *sorted(headers)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:24]
