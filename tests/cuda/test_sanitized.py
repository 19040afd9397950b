"""The kernels under the address and undefined-behaviour sanitizers, in a process of their own.

Every tensor is then surrounded by forbidden memory, so that an index that is off by one ends the process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gns.testing.shim import compiler

ROOT = Path(__file__).parents[2]


def sanitizer_libraries() -> list[str]:
    """What has to be loaded before Python itself; empty where the compiler has none."""
    command = compiler()
    if command is None:
        return []
    found = []
    for name in ("libasan.so", "libubsan.so"):
        answer = subprocess.run([command, f"-print-file-name={name}"], capture_output=True, text=True, check=False)
        path = Path(answer.stdout.strip())
        if not path.is_absolute():
            return []
        found.append(str(path))
    return found


PROGRAM = """
import sys
import torch
from gns.testing.comparison import example
from gns.testing.reference_loss import images
from gns.testing.shim import ShimLauncher
from tests.cuda.stages import evaluate_stages, prepared
from tests.cuda.test_loss_and_adam import SIZES_TOGETHER, adam_together, loss_and_gradient

file, good, bad = sys.argv[1:] or (None, None, None)
launcher = ShimLauncher(sanitized=True, edits={file: lambda text: text.replace(good, bad)} if file else None)
for name in ("33x47, degree 2", "15x17, degree 0", "no Gaussians", "deep opaque stack", "wide giants"):
    scene = example(name)
    everywhere = torch.ones(scene.camera.height, scene.camera.width, dtype=torch.bool)
    evaluate_stages(launcher, scene, everywhere)
    evaluate_stages(launcher, scene, everywhere, maps=True)
    prepared(launcher, scene).list_instances(spare=9)
loss_and_gradient(launcher, *images(17, 40))
adam_together(launcher, SIZES_TOGETHER)
print("all kernels ran")
"""


@pytest.fixture(scope="module")
def sanitized() -> list[subprocess.CompletedProcess[str]]:
    """How the program ended with the kernels as shipped, and with one that reads an element too far; both at once."""
    libraries = sanitizer_libraries()
    if not libraries:
        pytest.skip("the C++ compiler has no sanitizers")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # fibers have stacks of their own
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }

    def run(plant: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, *plant]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(run, ((), ("tiles.cu", "i == capacity - 1 || ", ""))))


def test_the_kernels_stay_inside_their_memory(sanitized: list[subprocess.CompletedProcess[str]]) -> None:
    assert sanitized[0].returncode == 0 and "all kernels ran" in sanitized[0].stdout, sanitized[0].stderr


def test_one_element_too_far_is_seen(sanitized: list[subprocess.CompletedProcess[str]]) -> None:
    assert sanitized[1].returncode != 0 and "heap-buffer-overflow" in sanitized[1].stderr
