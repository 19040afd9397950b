"""Room for tile instances that is made before their number is known: no result may depend on how much it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from gns.gaussian_renderer import importance, release_memory, render
from gns.gaussian_renderer.backends import IN_USE, gpu, kernel_table
from gns.gaussian_renderer.backends.forecast import Forecast
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.gaussian_renderer.backends.kernel_table import TILE
from gns.testing.comparison import Outcome, assert_same_bits, evaluate, example
from gns.testing.examples import converted, rows
from gns.testing.shim import Edit, ShimLauncher, compiler
from gns.utils.readback import Readback

pytestmark = pytest.mark.skipif(compiler() is None, reason="runs the CUDA kernels through a C++ compiler: install g++")

CPU = torch.device("cpu")
GUARD = 1 << 17  # elements behind every array: more than an int16 can count, times two
POISON = 77


class GuardedSpace(gpu._Space):
    """Arrays of exactly the size asked for, between contents that look usable and a zone that must stay as it is."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._zones: list[Tensor] = []

    def take(self, name: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        values = super().take(f"{name} {len(self._zones)}", (torch.Size(shape).numel() + GUARD,), dtype)
        values.zero_()
        size = len(values) - GUARD
        values[size:] = POISON
        self._zones.append(values[size:])
        return values[:size].view(*shape)

    def intact(self) -> bool:
        """Whether nothing was written behind an array."""
        return all(bool((zone == POISON).all()) for zone in self._zones)


class Fixed(Forecast):
    """Foresees what it is told to."""

    def __init__(self, room: int | None) -> None:
        super().__init__()
        self._room = room

    def capacity(self, view: Hashable, gaussians: int) -> int | None:
        return self._room


def _everywhere(name: str) -> Tensor:
    camera = example(name).camera
    return torch.ones(camera.height, camera.width, dtype=torch.bool)


def _outcome(name: str, launcher: ShimLauncher, room: int | None) -> tuple[Outcome, int]:
    """All results with a foreseen number of instances, and how many there really are."""
    spaces: list[GuardedSpace] = []
    counted: list[int] = []

    def guarded(device: torch.device) -> GuardedSpace:
        spaces.append(GuardedSpace(device))
        return spaces[-1]

    forecast = Fixed(room)
    forecast.learn = lambda view, gaussians, instances: counted.append(instances)  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(IN_USE, CPU, GpuBackend(CPU, launcher, forecast))
        patch.setattr(gpu, "_Space", guarded)
        outcome = evaluate(render, example(name), torch.float32, _everywhere(name))
    assert spaces and all(space.intact() for space in spaces), "a kernel wrote behind its array"
    return outcome, counted[0]


@pytest.fixture(params=[False, True], ids=["short ids", "wide ids"])
def wide(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param:
        monkeypatch.setattr(kernel_table, "MOST_SHORT_TILES", 0)
    return bool(request.param)


@pytest.mark.parametrize("name", ["33x47, degree 2", "130x70, degree 3", "one giant", "all behind", "no Gaussians"])
def test_what_is_foreseen_changes_no_bit(name: str, wide: bool, shim: ShimLauncher) -> None:
    exact, instances = _outcome(name, shim, None)
    for room in (2 * instances + 300, instances, max(0, instances - 1), 0):
        shim.launches.clear()
        outcome, again = _outcome(name, shim, room)
        assert again == instances
        assert_same_bits(outcome, exact)
        expected = 0 if name == "no Gaussians" else 1 if room >= instances else 2
        assert shim.launches.count("emit_wide" if wide else "emit") == expected


# What the kernels of tiles.cu must not leave out, and on how many instances fewer than there are it shows.
Room = Callable[[int], int]
PLANTS: list[tuple[str, str, Room]] = [
    ("fits = instances <= capacity", "fits = true", lambda instances: instances - 40),
    ("if (tile == kNoTile<Id>) return;", "", lambda instances: instances + 40),
    ("tile_ids[slot] = kNoTile<Id>;", ";", lambda instances: instances + 40),
    (
        "(fits ? size_t(instances) : 0) + rank",
        "(fits ? size_t(instances) : 0) + rank + 1",
        lambda instances: instances + 1,
    ),
    ("i == capacity - 1 || sorted_ids[i + 1] != tile", "i == capacity - 1", lambda instances: instances + 40),
]


@pytest.mark.parametrize(("good", "bad", "room"), PLANTS, ids=[bad or f"no {good}" for good, bad, _ in PLANTS])
def test_a_kernel_that_ignores_the_room_is_seen(good: str, bad: str, room: Room, shim: ShimLauncher) -> None:
    name = "33x47, degree 2"
    exact, instances = _outcome(name, shim, None)
    edit: Edit = lambda text: text.replace(good, bad, 1)  # noqa: E731
    faulty = ShimLauncher(edits={"tiles.cu": edit})
    assert_same_bits(_outcome(name, shim, room(instances))[0], exact)
    with pytest.raises(AssertionError):
        assert_same_bits(_outcome(name, faulty, room(instances))[0], exact)


def test_the_largest_short_id_is_no_tile() -> None:
    assert torch.iinfo(torch.int16).max == kernel_table.MOST_SHORT_TILES  # ids run up to one below
    most = gpu.MOST_PIXELS_ACROSS // TILE + 1
    assert most**2 < torch.iinfo(torch.int32).max


@pytest.fixture
def calls(shim: ShimLauncher, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Launches in order, and among them "wait" where the host waits for the number of instances."""
    monkeypatch.setitem(IN_USE, CPU, GpuBackend(CPU, shim))
    finish = Readback.finish

    def waiting(readback: Readback) -> Tensor:
        shim.launches.append("wait")
        return finish(readback)

    monkeypatch.setattr(Readback, "finish", waiting)
    shim.launches.clear()
    yield shim.launches


def test_the_host_waits_after_all_is_queued(calls: list[str]) -> None:
    scene = example("33x47, degree 2")
    gaussians, background = converted(scene.gaussians, torch.float32), scene.background.float()
    render(scene.camera, gaussians, background)
    assert calls == ["project", "wait", "emit", "ranges", "blend"]
    calls.clear()
    render(scene.camera, gaussians, background)
    assert calls == ["project", "emit", "ranges", "blend", "wait"]
    calls.clear()
    importance(scene.camera, gaussians, scene.edges.float())
    assert calls == ["project", "emit", "ranges", "score", "wait", "sum_scores"]


def test_a_view_that_has_changed_costs_a_second_pass_and_is_learnt(calls: list[str]) -> None:
    scene = example("130x70, degree 3")
    gaussians, background = converted(scene.gaussians, torch.float32), scene.background.float()
    gaussians.log_scales -= 6.0
    render(scene.camera, gaussians, background)
    gaussians.log_scales += 8.0
    calls.clear()
    render(scene.camera, gaussians, background)
    assert calls == ["project", "emit", "ranges", "blend", "wait", "emit", "ranges", "blend"]
    calls.clear()
    render(scene.camera, gaussians, background)
    assert calls == ["project", "emit", "ranges", "blend", "wait"]


def test_released_memory_does_not_grow_back(calls: list[str]) -> None:
    scene = example("130x70, degree 3")
    gaussians, background = converted(scene.gaussians, torch.float32), scene.background.float()
    render(scene.camera, gaussians, background)
    release_memory()
    few = rows(gaussians, torch.arange(8))
    render(scene.camera, few, background)
    backend = IN_USE[CPU]
    assert isinstance(backend, GpuBackend)
    (space,) = backend.idle[0]
    assert space._buffers["list"].numel() < 1024, "room was made for the Gaussians of before"
