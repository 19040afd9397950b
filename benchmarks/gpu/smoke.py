"""The smallest thing that can work."""

from __future__ import annotations

from benchmarks.gpu.bench import Bench, Result
from benchmarks.gpu.comparing import against_reference
from gns.testing.examples import camera_at, example_of, gaussians_seen


def smoke(bench: Bench) -> Result:
    """The smallest thing that can work."""
    camera = camera_at(64, 64)
    return against_reference(bench, example_of(camera, gaussians_seen(camera, 60)))
