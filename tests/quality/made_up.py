"""Results that nobody measured."""

from __future__ import annotations

from typing import Any

from benchmarks.grid.plan import reference
from benchmarks.grid.results import Results
from benchmarks.grid.runs import Entrant, Run, method_entrant
from benchmarks.grid.scenes import SceneEntry
from gns import __version__
from gns.rules import DEFAULT_METHOD

FOX = SceneEntry("fox480", "fox480")
LOWEST = Entrant("lowest", ("--final-cut", "lowest"))
MACHINE = {"processor": "Abacus", "instruction_set": "beads", "threads": 2, "device": "processor", "torch": "2.0"}


def run_of(
    entrant: Entrant | None = None,
    *,
    budget: int | None = 1_000,
    seed: int = 0,
    scene: SceneEntry = FOX,
    iterations: int = 3_000,
) -> Run:
    """A run, by default of the default method."""
    return Run(scene, entrant or method_entrant(DEFAULT_METHOD), budget, iterations, seed)


def reference_run(seed: int = 0, scene: SceneEntry = FOX) -> Run:
    """The run of 3DGS beside `run_of`."""
    first = reference(scene, 3_000, "cpu")
    return Run(first.scene, first.entrant, None, 3_000, seed)


def figures(psnr: float = 30.0, **changes: Any) -> dict[str, Any]:
    """What a run came to, as `Results.write` takes it."""
    session = {"commit": "abc", "dirty": False, "wall_seconds": 60.0, "cpu_seconds": 100.0, "peak_memory_bytes": 10**9}
    moments = [
        {"iteration": 300 * step, "psnr": psnr - 3 + step, "wall_seconds": 20.0 * step, "cpu_seconds": 30.0 * step}
        for step in (1, 2, 3)
    ]
    return {
        "version": __version__,
        "machine": MACHINE,
        "sessions": [session],
        "gaussians": 1_000,
        "scores": {"PSNR": psnr, "SSIM": psnr / 40, "LPIPS": None},
        "per_view": {"PSNR": {"00000.png": psnr}, "SSIM": {"00000.png": psnr / 40}, "LPIPS": {"00000.png": None}},
        "moments": moments,
        "wall_seconds": 60.0,
        "cpu_seconds": 100.0,
        "peak_memory_bytes": 10**9,
        "finished_at": "2026-01-01T00:00:00+00:00",
        "photo_size": [800, 800],
        **changes,
    }


def write(results: Results, run: Run, psnr: float = 30.0, **changes: Any) -> None:
    """Put a result into the folder; its Gaussians are those asked for, where that was a number."""
    size = {} if run.budget is None else {"gaussians": run.budget}
    results.write(run, figures(psnr, **{**size, **changes}))
