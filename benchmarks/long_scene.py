"""Train on thousands of photos in bounded memory, and print the most that the process took.

    python -m benchmarks.long_scene --photos 5000 --image-memory 40MB

The photos are drawn (discs before a ramp, 160 × 120 by default) into a folder below --work and stay there.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from gns.testing.scene_files import SmallScene, small_scene, write_colmap

_AT_ONCE = 100  # photos that are drawn before they are written
_POINTS = 20
_ITERATIONS, _BUDGET = 1000, 1000


def write_scene(folder: Path, photos: int, width: int, height: int) -> Path:
    """A scene of so many photos, drawn some at a time; one that is there already is kept."""
    if (folder / "sparse").is_dir():
        return folder
    cameras = []
    for first in range(0, photos, _AT_ONCE):
        part = small_scene(photos, width, height, _POINTS, drawn=range(first, min(first + _AT_ONCE, photos)))
        cameras += part.cameras
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for camera, image in zip(part.cameras, part.images, strict=True):
            Image.fromarray(image).save(folder / "images" / camera.name)
    write_colmap(folder, SmallScene(cameras, [], part.points), photos=part)
    return folder


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--size", type=int, nargs=2, default=(160, 120), metavar=("W", "H"))
    parser.add_argument("--image-memory", default="40MB")
    parser.add_argument("--work", type=Path, default=Path("build/long-scene"))
    options = parser.parse_args()
    print(f"drawing {options.photos:,} photos")
    scene = write_scene(options.work / f"{options.photos}", options.photos, *options.size)
    model = options.work / "model"
    command = [sys.executable, "train.py", "-s", str(scene), "-m", str(model), "--image-memory", options.image_memory]
    command += ["--iterations", str(_ITERATIONS), "--final-budget", str(_BUDGET), "--no-report", "--threads", "1"]
    begun = time.monotonic()
    status = subprocess.run(command, check=False).returncode
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"status {status}, {time.monotonic() - begun:.0f} s, at most {most:,.0f} MiB of main memory")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
