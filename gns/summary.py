"""summary.json: what a finished training was, on what it ran and what came of it, for programs that read it."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import gns
from gns.arguments import TrainConfig
from gns.gaussian_renderer import thread_count
from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.backends.cpu import instruction_set
from gns.run_folder import RunFolder
from gns.run_history import total
from gns.scene import Scene
from gns.utils.atomic_files import write_text
from gns.utils.native import compiler
from gns.utils.ply_file import count_rows

FILE = "summary.json"

Summary = dict[str, Any]


def write_summary(
    run: RunFolder, config: TrainConfig, scene: Scene, device: torch.device, held_out: Summary | None = None
) -> Summary:
    """Write and return the summary of a run whose model is saved.

    `held_out` are the scores of the held-out views; by default the PSNR that the log has. Raises UserError where the
    file cannot be written.
    """
    summary = {
        **versions(),
        **machine(device, config.threads),
        "scene": {
            "path": str(config.source_path),
            "training_views": len(scene.train),
            "held_out_views": len(scene.test),
            "points": len(scene.points.positions),
        },
        "method": config.method,
        "iterations": config.iterations,
        **outcome(run, config),
    }
    if held_out is not None:
        summary["held_out"] = held_out
    write_text(run.path / FILE, json.dumps(summary, indent=2) + "\n")
    return summary


def read_summary(path: Path) -> Summary:
    """The summary in an output folder; empty where there is none, as in those of earlier versions."""
    try:
        summary: Summary = json.loads((path / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}


def versions() -> Summary:
    """Of gns and what it is built on; the commit where gns runs from a checkout."""
    return {
        "gns": gns.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "compiler": compiler(),
    }


def machine(device: torch.device, threads: int) -> Summary:
    """What this process runs on, `threads` (0: all cores), and the most memory that it has taken so far."""
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    facts = {
        "system": platform.platform(),
        "processor": _processor(),
        "threads": threads or thread_count(),
        "instruction_set": instruction_set(),
        "device": backend_of(device).description.removeprefix("the "),
        "peak_memory_bytes": peak,
    }
    if device.type == "cuda":
        facts["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return facts


def outcome(run: RunFolder, config: TrainConfig) -> Summary:
    """The model, whether it has the size asked for, and what it took in all sessions."""
    path = run.model_path(config.iterations)
    count = count_rows(path)
    records = run.read_log()
    scores = [record["held_out_psnr"] for record in records if "held_out_psnr" in record]
    return {
        "budget": {
            "asked": config.final_budget,
            "gaussians": count,
            "met": config.final_budget is None or count >= config.final_budget,
        },
        "model": {
            "path": str(path),
            "bytes": path.stat().st_size,
            "sha256": run.model_digest(config.iterations),
        },
        "held_out": {"PSNR": scores[-1]} if scores else None,
        "seconds": total(records, "seconds"),
        "cpu_seconds": total(records, "processor_seconds"),
        "sessions": sum("started" in record for record in records),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit of the checkout that this package is in, with "-dirty" where files differ from it."""
    checkout = Path(gns.__file__).resolve().parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, or a repository that it does not trust
        return None
    return done.stdout.strip() or None


def _processor() -> str:
    """Its name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
