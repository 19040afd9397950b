"""What the blocks share: where they run and how large they get, a crowd of Gaussians, times."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gns.gaussian_renderer.backends import backend_of
from gns.gaussian_renderer.backends.forecast import Forecast
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.scene import Camera, Gaussians
from gns.testing.examples import EXAMPLES

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SEED = 0
Result = dict[str, Any]


class Skipped(Exception):
    """A block cannot run here, for a reason that is no fault."""


class Failed(Exception):
    """A block found what must not be; carries its figures."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Bench:
    """Where a block runs and how large it gets; tests make it small."""

    device: torch.device
    out: Path
    scene: Path | None
    examples: tuple[str, ...] = tuple(EXAMPLES)  # small scenes, by name
    timed: tuple[int, ...] = (600_000, 1_800_000)  # Gaussians
    size: tuple[int, int] = (1600, 1000)  # pixels
    rounds: int = 50
    synthetic: tuple[int, int, int, int] = (16, 320, 240, 3000)  # views, pixels across and down, Gaussians
    beside_cpu: int = 200  # iterations
    alone: int = 2000
    photo_iterations: int = 3000
    vast: tuple[int, int] = (4112, 2064)  # pixels of an image with more tiles than an int16 can number
    pile: int = 20_000  # Gaussians in one tile
    mirrored: tuple[int, int, int] = (4000, 320, 180)  # Gaussians and pixels of the largest scene repeated on the CPU
    pictured: tuple[int, int, int] = (20_000, 640, 359)  # the same of a scene that the CPU backend judges


def judged(device: torch.device) -> GpuBackend:
    """The backend that is judged here."""
    backend = backend_of(device)
    assert isinstance(backend, GpuBackend)
    return backend


def crowd(count: int, width: int, height: int, device: torch.device) -> tuple[Camera, Gaussians]:
    """Gaussians like those of a trained outdoor model: half of them in view, each in about eight tiles.

    Sizes are log-normal, opacities from faint to nearly 1, so that pixels end after some 85 contributions.
    """
    generator = torch.Generator().manual_seed(SEED)
    focal = 0.9 * width
    depth = 2 + 6 * torch.rand(count, generator=generator) ** 2
    reach = torch.tensor([math.sqrt(2.0) * width / focal, math.sqrt(2.0) * height / focal])
    across = (torch.rand(count, 2, generator=generator) - 0.5) * reach
    # The same share of the image however many there are: a denser model has smaller Gaussians.
    pixels = 4.3 * math.sqrt(width * height / 1.6e6) * math.sqrt(600_000 / max(count, 1)) ** 0.5
    sigma = (pixels * depth / focal)[:, None] * torch.exp(0.7 * torch.randn(count, 3, generator=generator))
    gaussians = Gaussians(
        means=torch.cat([across * depth[:, None], depth[:, None]], dim=1),
        log_scales=torch.log(sigma),
        quats=torch.randn(count, 4, generator=generator),
        opacity_logits=-0.7 + 1.5 * torch.randn(count, generator=generator),
        sh_dc=torch.randn(count, 1, 3, generator=generator),
        sh_rest=0.1 * torch.randn(count, 15, 3, generator=generator),
    )
    return Camera(width, height, focal, focal, width / 2, height / 2, np.eye(4), "crowd"), gaussians.to(device)


class Room(Forecast):
    """Foresees a share of the instances that the view last made; with share 0 it foresees nothing."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    def capacity(self, view: Hashable, gaussians: int) -> int | None:
        """See `Forecast`."""
        seen = view in self._last and self._share > 0
        return int(self._share * self._last[view][1]) if seen else None


def milliseconds(device: torch.device, body: Callable[[], Any], rounds: int) -> list[float]:
    """Times of `rounds` runs of `body` after three that warm up: between events on a GPU, of the wall elsewhere."""
    for _ in range(3):
        body()
    if device.type != "cuda":
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            body()
            times.append(1e3 * (time.perf_counter() - start))
        return times
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for mark in marks[1:]:
        body()
        mark.record()
    torch.cuda.synchronize(device)
    return [begin.elapsed_time(end) for begin, end in pairwise(marks)]


def median(times: Sequence[float]) -> float:
    """To a tenth of a microsecond where `times` are milliseconds."""
    return round(statistics.median(times), 4)


def reset_memory(device: torch.device) -> None:
    """Free what earlier renderings keep, and measure the peak from here on."""
    judged(device).idle.clear()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
