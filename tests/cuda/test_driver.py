"""The real cuda-core on a driver that stands in for NVIDIA's, with tensors that call themselves cuda.

All but the GPU is production: commands, training, autograd's threads, NVRTC's machine code, cuda-core's launches.
Kernels run in the shim. `driver_worker.py` does it in a process of its own, in which every warning is an error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gns.gaussian_renderer.backends.nvrtc import missing_parts
from gns.testing.emulation.driver import driver_path, guard_path
from gns.testing.shim import compiler

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(missing_parts() is not None, reason=f"cannot compile for a GPU: {missing_parts()}"),
    pytest.mark.skipif(compiler() is None, reason="builds the stand-in driver: install g++"),
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA, and would take the real driver"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each scenario of the worker found."""
    folder = tmp_path_factory.mktemp("driver")
    command = [sys.executable, "-W", "error", str(ROOT / "tests" / "cuda" / "driver_worker.py")]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(driver_path()), str(guard_path()), str(folder)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    results["compiled"] = sorted(path.name for path in (folder / "cache" / "gns").iterdir())
    return results


def test_a_run_is_trained_rendered_and_scored(found: dict[str, Any]) -> None:
    result = found["commands"]
    assert result["ended"] == [[0, ""]] * 3 and not result["stopped kernels"]
    assert result["PSNR"] > 5 and result["devices"] == [0]
    assert {"project", "emit", "ranges", "blend", "loss_maps", "loss_gradient", "project_backward"} <= set(
        result["kernels"]
    )
    assert {"score", "sum_scores"} <= set(result["kernels"]), "the survey took place"
    assert result["threads"] >= 2, "autograd had a thread of its own"


def test_a_resumed_run_ends_in_the_same_bits(found: dict[str, Any]) -> None:
    assert found["resume"] == {"ended": [[0, ""]], "same bits": True}


def test_a_run_on_the_second_gpu_stays_there(found: dict[str, Any]) -> None:
    assert found["second_gpu"] == {"ended": [[0, ""]], "devices": [1], "same bits": True}


def test_other_devices_threads_and_streams(found: dict[str, Any]) -> None:
    result = found["other_places"]
    assert result["elsewhere"] is True and result["current device"] == 0
    assert result["in a thread"] == [True, True]
    assert result["on a stream"] is True and len(result["streams"]) == 2, "idle buffers are kept by stream"


def test_a_lack_of_memory_is_a_sentence(found: dict[str, Any]) -> None:
    result = found["out_of_memory"]
    assert result["status"] == 2 and "the memory of cuda:0 is used up" in result["words"]
    assert "Traceback" not in result["words"]


def test_a_driver_that_takes_no_code_is_known_before_photos_are_read(found: dict[str, Any]) -> None:
    result = found["refused"]
    assert result["status"] == 2 and "the driver does not take the kernels that NVRTC" in result["words"]
    assert "pip install '.[cuda13]'" in result["words"] and result["folder"] is False


def test_a_newer_gpu_gets_ptx(found: dict[str, Any]) -> None:
    result = found["newer_gpu"]
    assert result["arch"].startswith("compute_") and result["same"] is True
    assert any("-compute_" in name for name in found["compiled"])
    assert any("-sm_90-" in name for name in found["compiled"])


@pytest.mark.parametrize(
    ("fault", "consequence"),
    [
        ("no context", "no context bound to the current thread"),
        ("the old protocol of streams", "DeprecationWarning"),
        ("no guard", [0, 1]),  # the current device before and after a launch on the second GPU
        ("a stream of another GPU", "resource handle"),
        ("an argument less", "TypeError: loss_sum takes 4 arguments, not 5"),
        ("two devices", "found ['cuda:0', 'cuda:1']"),
        ("CPU and GPU", "found ['cpu', 'cuda:0']"),
        ("numpy", "can't convert cuda device type tensor to numpy"),
    ],
)
def test_planted_faults_are_seen(found: dict[str, Any], fault: str, consequence: Any) -> None:
    result = found["planted"][fault]
    assert consequence in result if isinstance(consequence, str) else result == consequence
