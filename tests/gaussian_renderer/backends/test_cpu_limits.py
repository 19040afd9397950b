"""The native module at its limits: no memory, no threads, calls in an order that makes no sense. It never dies."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from gns.utils import native

KERNELS: Any = native.load().float32
POSE = tuple(np.eye(4).ravel().tolist())


def groups(kind: Any, count: int) -> Any:
    """Parameters or gradients of `count` Gaussians of degree 0, five units in front of the camera."""
    sizes = {"means": (3,), "log_scales": (3,), "quats": (4,), "opacity_logits": (), "sh_dc": (1, 3), "sh_rest": (0, 3)}
    arrays = {name: np.zeros((*shape, count), np.float32) for name, shape in sizes.items()}
    arrays["quats"][0], arrays["means"][2] = 1, 5
    return kind(**arrays)


def inputs(count: int = 50, width: int = 32, height: int = 24, edges: Any = None) -> Any:
    intrinsics = (30.0, 30.0, width / 2, height / 2)
    parameters = groups(KERNELS.Parameters, count)
    return KERNELS.RenderInputs(intrinsics, (width, height), POSE, parameters, 0, (0.0, 0.0, 0.0), edges)


def image(width: int = 32, height: int = 24) -> Any:
    return np.zeros((3, height, width), np.float32)


def drawn(count: int = 50, width: int = 32, height: int = 24) -> Any:
    targets = KERNELS.RenderTargets(image(width, height), None, None, None)
    return KERNELS.Rendering(inputs(count, width, height), targets)


def gradients(count: int = 50, width: int = 32, height: int = 24) -> Any:
    parameters = groups(KERNELS.Gradients, count)
    return KERNELS.RenderGradients(image(width, height) + 1, None, parameters, None, None)


# Calls in an order that makes no sense


def test_there_is_no_way_back_from_a_rendering_without_an_image() -> None:
    drawn().backward(image(), gradients())  # warm memory, from which it would take the gradients of this one
    edges = np.ones((24, 32), np.float32)
    scores = KERNELS.RenderTargets(None, None, None, np.zeros(50, np.float32))
    with pytest.raises(ValueError, match="drew no image"):
        KERNELS.Rendering(inputs(edges=edges), scores).backward(image(), gradients())


def test_a_refused_rendering_leaves_the_one_before_it_as_it_was() -> None:
    before = drawn()
    with pytest.raises(ValueError, match="image must be"):
        KERNELS.Rendering(inputs(width=640, height=480), KERNELS.RenderTargets(image(), None, None, None))
    before.backward(image(), gradients())


@pytest.mark.parametrize(
    ("pixels", "sizes", "message"),
    [
        (np.zeros((0, 24, 32), np.float32), {}, "image must be"),
        (np.zeros((3, 24, 31), np.float32), {}, "image must be"),
        (image(), {"width": 31}, "image's gradient must be"),
        (image(), {"count": 51}, "shapes of their parameters"),
    ],
)
def test_a_way_back_with_another_shape_is_refused(pixels: Any, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drawn().backward(pixels, gradients(**sizes))


# The last of 2²⁴ + 16 columns, as a float, is one outside the image: in a tile that is not there.
@pytest.mark.parametrize(
    "size", [(0, 5), (5, 0), (2**24 + 16, 1), (1, 2**24 + 16), (2**15 + 1, 2**15), (2**31 - 1, 2**31 - 1)]
)
def test_a_camera_whose_pixels_cannot_be_counted_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"at least one pixel|at most 2\^24 pixels each way|at most 2\^30 pixels"):
        inputs(width=size[0], height=size[1])


def test_the_loss_of_no_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pixel"):
        KERNELS.photometric_loss(np.zeros((3, 5, 0), np.float32), np.zeros((5, 0, 3), np.uint8), None, None)


@pytest.mark.filterwarnings("ignore:nanobind")
def test_objects_without_or_with_a_second_init_are_refused() -> None:
    with pytest.raises(TypeError):
        KERNELS.Rendering.__new__(KERNELS.Rendering).backward(image(), gradients())
    with pytest.raises(TypeError):
        drawn().__init__(inputs(width=64), KERNELS.RenderTargets(image(64), None, None, None))


def test_several_threads_may_go_back_from_one_rendering() -> None:
    rendering, results = drawn(3000), [groups(KERNELS.Gradients, 3000) for _ in range(4)]

    def go_back(parameters: Any) -> None:
        for _ in range(20):
            rendering.backward(image(), KERNELS.RenderGradients(image() + 1, None, parameters, None, None))

    threads = [threading.Thread(target=go_back, args=(parameters,)) for parameters in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# No memory, no threads: in a process of its own, which would die of it


def in_a_process(code: str) -> str:
    """What the code prints, in a process that has imported this module. Fails where it dies."""
    begin = f"import resource; from gns.gaussian_renderer import *; from {__name__} import *\n"
    ended = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, f"status {ended.returncode}: {ended.stderr}"
    return ended.stdout


LIMITED = """
import os, itertools
set_threads({threads})
drawn(2000).backward(image(), gradients(2000))
big, small = inputs(100_000, 1000, 1000), inputs(2000)
targets = KERNELS.RenderTargets(image(1000, 1000), None, None, None)
seen = set()
for megabytes in itertools.chain(range(1, 64, 4), range(64, 700, 30)):
    used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
    try:
        KERNELS.Rendering(big, targets)
        seen.add("drawn")
        break
    except MemoryError:
        seen.add("refused")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = image()
    KERNELS.Rendering(small, KERNELS.RenderTargets(again, None, None, None)).backward(again, gradients(2000))
    native.load().release_memory()
print(*sorted(seen))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_without_memory_a_rendering_is_refused_and_the_next_one_is_right(threads: int) -> None:
    assert "refused" in in_a_process(LIMITED.format(threads=threads))


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited on Linux only")
@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer ends without address space")
def test_where_the_system_gives_no_more_threads_fewer_do_the_work() -> None:
    code = """
set_threads(1)
expected, found = image(), image()
KERNELS.Rendering(inputs(20_000), KERNELS.RenderTargets(expected, None, None, None))
set_threads(1024)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, used + 100 * 2**20))
KERNELS.Rendering(inputs(20_000), KERNELS.RenderTargets(found, None, None, None))
print(expected.any(), (found == expected).all(), thread_count())
"""
    assert in_a_process(code).split() == ["True", "True", "1024"]


def test_threads_are_capped() -> None:
    assert in_a_process("set_threads(100_000); drawn(5000); print(thread_count())").split() == ["1024"]
