"""Does a process that trains again and again grow? Twenty short trainings, by default.

    python -m benchmarks.soak --trainings 20

Each trains a small scene to its end, saves, renders and lets go. The first three warm up what is kept on purpose; after
them the resident memory may grow by less than 1 %, and no tensor may stay. The exit status is 1 where it does.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from pathlib import Path

import torch

from gns.run_folder import RunFolder
from gns.testing.tiny import tiny_config, tiny_scene
from gns.training.loop import train

WARM_UP = 3


def resident_bytes() -> int:
    """What this process has in main memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def live_tensors() -> int:
    """Tensors that Python still knows."""
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def train_once(folder: Path) -> None:
    """One run from scene to model."""
    config = tiny_config(folder, final_budget=2000, iterations=150, checkpoint_iterations=(50, 100))
    scene = tiny_scene(points=2000, count=2000, width=160, height=120)
    train(scene, config, run=RunFolder.create(config.model_path, config))


def main() -> int:
    """Train, measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainings", type=int, default=20)
    options = parser.parse_args()
    sizes, tensors = [], []
    for number in range(options.trainings):
        with tempfile.TemporaryDirectory() as name:
            train_once(Path(name))
        tensors.append(live_tensors())
        sizes.append(resident_bytes())
        print(f"training {number + 1:3}: {sizes[-1] / 1e6:8.1f} MB, {tensors[-1]} tensors", flush=True)
    growth = sizes[-1] / sizes[min(WARM_UP, len(sizes)) - 1] - 1
    print(f"{options.trainings} trainings: {100 * growth:+.2f} % after the first {WARM_UP}")
    return 1 if growth >= 0.01 or tensors[-1] > tensors[0] else 0


if __name__ == "__main__":
    raise SystemExit(main())
