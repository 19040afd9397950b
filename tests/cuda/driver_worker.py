"""What test_driver.py runs in a process of its own: production code, cuda-core included, on GPUs that are not there.

`python -W error tests/cuda/driver_worker.py DRIVER GUARD FOLDER`, the first two libraries of `driver.py`: runs each
function of `SCENARIOS` in turn, and prints a line of JSON with what each found, or the error that ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    for library in sys.argv[1:3]:  # before torch and cuda-core look for such things
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from gns.cli import main
from gns.gaussian_renderer import render
from gns.gaussian_renderer.backends import IN_USE
from gns.gaussian_renderer.backends.kernel_table import KERNELS
from gns.losses.photometric import photometric_loss
from gns.testing.comparison import example, trainable
from gns.testing.emulation.driver import Driver
from gns.testing.emulation.pretend import GPUS, STREAM, entered, installed
from gns.testing.scene_files import small_scene, write_colmap

Found = dict[str, Any]
ITERATIONS = 30
DRIVER = Driver()


def gns(*arguments: object) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    words = io.StringIO()
    with contextlib.redirect_stderr(words):
        status = main([str(argument) for argument in arguments])
    return status, words.getvalue()


def training(folder: Path, name: str, *more: object) -> tuple[int, str]:
    scene = ("-s", folder / "scene", "-m", folder / name)
    size = ("--final-budget", 100, "--iterations", ITERATIONS, "--sh-degree", 1, "-r", 1, "--threads", 1, "--quiet")
    return gns("train", *scene, *size, *more)


def model(folder: Path, name: str) -> bytes:
    return (folder / name / "point_cloud" / f"iteration_{ITERATIONS}" / "point_cloud.ply").read_bytes()


def commands(folder: Path) -> Found:
    """Train, render and score on the first GPU, as a user does."""
    begin = len(DRIVER.launches)
    checkpoint = ("--checkpoint-iterations", ITERATIONS // 2)
    trained = training(folder, "first", "--device", "cuda", *checkpoint)
    launched = DRIVER.launches[begin:]
    rendered = gns("render", "-m", folder / "first", "--device", "cuda", "--quiet")
    scored = gns("metrics", "-m", folder / "first", "--device", "cuda", "--quiet")
    results = json.loads((folder / "first" / "results.json").read_text())
    return {
        "ended": [trained, rendered, scored],
        "PSNR": next(iter(results.values()))["PSNR"],
        "kernels": sorted({name for name, _ in launched}),
        "devices": sorted({device for _, device in launched}),
        "threads": len(GPUS.threads),
        "stopped kernels": DRIVER.errors,
    }


def resume(folder: Path) -> Found:
    """From the checkpoint half way, to the same bits."""
    shutil.copytree(folder / "first", folder / "again")
    shutil.rmtree(folder / "again" / "point_cloud")
    for path in (folder / "again" / "checkpoints").iterdir():
        if f"_{ITERATIONS // 2}." not in path.name:
            path.unlink()
    ended = gns("train", "-m", folder / "again", "--resume", "--device", "cuda", "--quiet")
    return {"ended": [ended], "same bits": model(folder, "first") == model(folder, "again")}


def second_gpu(folder: Path) -> Found:
    """A whole run on the second GPU."""
    begin = len(DRIVER.launches)
    ended = training(folder, "second", "--device", "cuda:1")
    devices = sorted({device for _, device in DRIVER.launches[begin:]})
    torch.cuda.set_device(0)
    return {"ended": [ended], "devices": devices, "same bits": model(folder, "first") == model(folder, "second")}


def draw(device: int) -> tuple[int, float]:
    """One rendering with its way back on a GPU; how many kernels ran there, and the gradients' sum."""
    scene, where = example("15x17, degree 0"), torch.device("cuda", device)
    gaussians = trainable(scene.gaussians, torch.float32, where)
    photo = torch.zeros(scene.camera.height, scene.camera.width, 3, dtype=torch.uint8, device=where)
    begin = len(DRIVER.launches)
    seen = render(scene.camera, gaussians, scene.background.float().to(where))
    photometric_loss(seen.image, photo).backward()  # type: ignore[no-untyped-call]
    launched = DRIVER.launches[begin:]
    assert {at for _, at in launched} == {device}, launched
    assert gaussians.means.grad is not None
    return len(launched), float(gaussians.means.grad.abs().sum())


def in_a_thread(body: Callable[[], Any]) -> Any:
    """What `body` returns in a thread that has no context yet."""
    kept: list[Any] = []

    def run() -> None:
        entered()
        try:
            kept.append(body())
        except Exception as error:
            kept.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return kept[0]


def other_places(folder: Path) -> Found:
    """On the GPU that is not current, in threads without a context, on a stream that is not the default one."""
    torch.cuda.set_device(0)
    here = draw(0)
    found: Found = {"elsewhere": draw(1) == here, "current device": torch.cuda.current_device()}
    found["in a thread"] = [in_a_thread(partial(draw, device)) == here for device in (0, 1)]
    STREAM.number = 3
    found["on a stream"] = draw(0) == here
    STREAM.number = 0
    backend: Any = IN_USE[torch.device("cuda", 0)]
    found["streams"] = sorted(backend.idle)
    return found


def out_of_memory(folder: Path) -> Found:
    with mock.patch.object(GPUS, "largest", 3000):
        status, words = training(folder, "large", "--device", "cuda")
    return {"status": status, "words": words}


def refused(folder: Path) -> Found:
    """A driver that takes no code of this compiler: known before any photo is read."""
    IN_USE.pop(torch.device("cuda", 0))
    DRIVER.refuse_code(True)
    with mock.patch("gns.commands.train.read_scene", side_effect=AssertionError("the photos were read")):
        status, words = training(folder, "refused", "--device", "cuda")
    DRIVER.refuse_code(False)
    return {"status": status, "words": words, "folder": (folder / "refused").exists()}


def newer_gpu(folder: Path) -> Found:
    """A generation that the compiler does not know gets PTX."""
    IN_USE.pop(torch.device("cuda", 0), None)
    with mock.patch.object(DRIVER, "capability", (99, 0)):
        drawn = draw(0)
        backend: Any = IN_USE.pop(torch.device("cuda", 0))
    return {"arch": backend.kernels.launcher.arch, "same": drawn == draw(0)}


def current_device_before_and_after() -> list[int]:
    """… a rendering on the second GPU."""
    before = torch.cuda.current_device()
    draw(1)
    return [before, torch.cuda.current_device()]


class _Protocol:
    """How streams used to be handed to cuda-core."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._handle


def planted(folder: Path) -> Found:
    """What each fault, planted into the launcher, leads to."""
    launcher: Any = IN_USE[torch.device("cuda", 0)]
    launcher, patch = launcher.kernels.launcher, mock.patch.object
    found: Found = {}
    with patch(launcher, "_enter", lambda: None):
        found["no context"] = in_a_thread(lambda: draw(0))
    with patch(launcher, "_streams", {}), patch(launcher, "_stream_of", _Protocol):
        found["the old protocol of streams"] = in_a_thread(lambda: draw(0))
    with patch(torch.cuda, "device", lambda device: contextlib.nullcontext()):
        found["no guard"] = in_a_thread(current_device_before_and_after)
    with patch(torch.cuda, "current_stream", lambda device: type("", (), {"cuda_stream": 256 * 2 + 1})):
        found["a stream of another GPU"] = in_a_thread(lambda: draw(0))
    table = KERNELS["loss_sum"]
    swapped = {**launcher._tables, "loss_sum": replace(table, arguments=table.arguments[1:])}
    with patch(launcher, "_tables", swapped):
        found["an argument less"] = in_a_thread(lambda: draw(0))
    one, other = (torch.ones(2, device=f"cuda:{device}") for device in (0, 1))
    for name, body in {
        "two devices": lambda: one + other,
        "CPU and GPU": lambda: one + torch.ones(2),
        "numpy": lambda: np.asarray(one),
    }.items():
        found[name] = in_a_thread(body)
    return found


SCENARIOS = (commands, resume, second_gpu, other_places, out_of_memory, refused, newer_gpu, planted)


def run(folder: Path) -> None:
    installed(DRIVER)
    write_colmap(folder / "scene", small_scene(points=150))
    results: dict[str, Found] = {}
    for scenario in SCENARIOS:
        try:
            results[scenario.__name__] = scenario(folder)
        except Exception:
            results[scenario.__name__] = {"error": traceback.format_exc()}
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[3]))
    # Not by way of Python's own end. Threads of autograd let go of what they last held whenever they get to it, and one
    # that asks for the interpreter while that ends takes the process with it (pytorch/pytorch#38228, #190489). Seen
    # here once, under load. A run of train.py writes and scores its model between its last backward pass and its end.
    os._exit(0)
