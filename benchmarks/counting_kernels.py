"""Kernels that also count and measure themselves (GNS_COUNTERS in CMakeLists.txt), beside those that are installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def built_kernels() -> Path:
    """The folder that holds the module gns_native with counters; builds it where the sources have changed since."""
    from gns.utils.native import source_hash

    folder = ROOT / "build" / "counters"
    stamp = folder / "source_hash"
    if not stamp.exists() or stamp.read_text() != source_hash():
        print("building the kernels with counters ...", flush=True)
        settings = {"cmake.define.GNS_COUNTERS": "ON", "build-dir": str(folder / "cmake")}
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-deps", "--upgrade"]
        command += ["--target", str(folder), *(f"--config-settings={name}={value}" for name, value in settings.items())]
        subprocess.run([*command, str(ROOT)], check=True)
        stamp.write_text(source_hash())
    return folder
