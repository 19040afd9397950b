"""compute-sanitizer's four tools on the smoke block."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.bench import ROOT, Bench, Failed, Result, Skipped


def sanitizer(bench: Bench) -> Result:
    """The smoke block under each of compute-sanitizer's tools."""
    program = _program()
    if program is None:
        raise Skipped("compute-sanitizer is neither on the PATH nor among the installed packages")
    result: Result = {"program": program}
    script = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu_verify.py"),
        "--only",
        "smoke",
        "--device",
        str(bench.device),
    ]
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        # Memory that torch keeps for later hides what lies outside of an array.
        variables = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        command = [program, "--tool", tool, "--error-exitcode", "9", *script, "--out", str(bench.out / "sanitizer")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=variables, check=False)
        if "Device not supported" in done.stdout + done.stderr:
            raise Skipped(f"{program} does not support this machine's device")
        result[tool] = {"status": done.returncode, "says": done.stdout[-2000:] + done.stderr[-1000:]}
    failed = [tool for tool, found in result.items() if isinstance(found, dict) and found["status"] != 0]
    if failed:
        raise Failed(f"complaints of {', '.join(failed)}", result)
    return result


def _program() -> str | None:
    if found := shutil.which("compute-sanitizer"):
        return found
    for folder in map(Path, sys.path):
        for program in sorted(folder.glob("nvidia/**/compute-sanitizer")):
            if program.is_file():
                return str(program)
    return None
