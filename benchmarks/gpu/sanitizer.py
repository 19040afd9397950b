"""compute-sanitizer's four tools on the smoke block."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.bench import ROOT, Bench, Failed, Result, Skipped
from gns.gaussian_renderer.backends.kernel_table import KERNELS, SOURCES

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
PATIENCE = 90  # seconds a tool
HITS_FOUND = 9  # exit status that the tools are asked for

# The first line of a hit, by its indentation; the frames and threads below it are indented further.
_HIT = re.compile(r"^========= (?=\S)", re.MULTILINE)
_NO_HIT = re.compile(r"COMPUTE-SANITIZER|[A-Z]+ SUMMARY|Target application|Error: process|No attachable|\(\d+ more")
# Frames of kernels: "at blend+0x1f0 in blend.cu:12", and of older tools "at 0x1f0 in blend.cu:12:blend".
_NAMES, _FILES = "|".join(KERNELS), "|".join(map(re.escape, SOURCES))
_OURS = re.compile(rf"\bat ({_NAMES})[+(]|\bin ({_FILES}):|:({_NAMES})$", re.MULTILINE)


def sanitizer(bench: Bench) -> Result:
    """The smoke block under each of compute-sanitizer's tools. Hits in other kernels, such as torch's, are notes."""
    program = _program()
    if program is None:
        raise Skipped("compute-sanitizer is neither on the PATH nor among the installed packages")
    result: Result = {"program": program}
    for tool in TOOLS:
        result[tool] = _run(program, tool, bench)
    faults = [tool for tool in TOOLS if result[tool].get("fault")]
    if faults:
        raise Failed(f"complaints of {', '.join(faults)}", result)
    return result


def _run(program: str, tool: str, bench: Bench) -> Result:
    script = (sys.executable, str(ROOT / "benchmarks" / "gpu_verify.py"), "--only", "smoke")
    where = ("--device", str(bench.device), "--out", str(bench.out / "sanitizer"))
    # Memory that torch keeps for later hides what lies outside of an array.
    variables = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [program, "--tool", tool, "--error-exitcode", str(HITS_FOUND), *script, *where]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=variables, check=False)
    except subprocess.TimeoutExpired:
        return {"skipped": f"it had not ended after {PATIENCE} s"}
    if "Device not supported" in done.stdout + done.stderr:
        raise Skipped(f"{program} does not support this machine's device")
    ours, others = sorted_hits(done.stdout)
    clean_but_for_others = done.returncode == 0 or (done.returncode == HITS_FOUND and bool(others))
    return {
        "fault": bool(ours) or not clean_but_for_others,
        "status": done.returncode,
        "hits": _shortened(ours),
        "notes, of kernels that are not ours": _shortened(others),
        "says": done.stdout[-2000:] + done.stderr[-1000:],
    }


def sorted_hits(log: str) -> tuple[list[str], list[str]]:
    """The hits that a tool reports: those that name one of our kernels, and the others."""
    hits = [hit for hit in _HIT.split(log)[1:] if not _NO_HIT.match(hit)]
    ours = [hit for hit in hits if _OURS.search(hit)]
    return ours, [hit for hit in hits if hit not in ours]


def _shortened(hits: Sequence[str]) -> list[str]:
    return [hit[:600] for hit in hits[:5]]


def _program() -> str | None:
    if found := shutil.which("compute-sanitizer"):
        return found
    for folder in map(Path, sys.path):
        for program in sorted(folder.glob("nvidia/**/compute-sanitizer")):
            if program.is_file():
                return str(program)
    return None
