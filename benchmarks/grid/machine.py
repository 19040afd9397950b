"""What figures have to be read with: processor, device, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from gns import gaussian_renderer as renderer

ROOT = Path(__file__).resolve().parents[2]
# What a training runs; whatever else was changed does not touch its result.
_DECISIVE = ("gns", "train.py", "CMakeLists.txt", "pyproject.toml")


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """The machine as far as it can be told; `threads` as given to train.py, 0 for all cores."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads or renderer.thread_count(),
        "instruction_set": renderer.instruction_sets()[0],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "processor",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def commit() -> dict[str, Any]:
    """The commit of the checkout, and whether files that decide results differ from it; "" outside a repository."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--", *_DECISIVE)),
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
