"""Losses arrive whole and in order, late where the device works later, and the first that is not finite is named."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gns.team import SINGLE
from gns.training import losses
from gns.training.losses import Diverged, LossReader, Spoilt
from gns.utils.readback import Readback


class LaterReadback(Readback):
    """From a device that does its work later, as a GPU does."""

    def __init__(self, device: torch.device, count: int = 1, dtype: torch.dtype = torch.int64) -> None:
        super().__init__(device, count, dtype)
        self.queued = True


@pytest.fixture(params=[False, True], ids=["cpu", "gpu"])
def later(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the device works later."""
    if request.param:
        monkeypatch.setattr(losses, "Readback", LaterReadback)
    return bool(request.param)


def _reader() -> LossReader:
    return LossReader(torch.device("cpu"), SINGLE)


def test_ten_are_read_at_once_on_a_gpu_ten_iterations_later(later: bool) -> None:
    reader, read = _reader(), {}
    for it in range(1, 36):
        reader.add(it, ["a.png"], torch.tensor(float(it)))
        assert reader.full == (it % 10 == 0)
        if reader.full:
            read[it] = reader.read_some()
    arrived = {10: [], 20: [*range(1, 11)], 30: [*range(11, 21)]}
    if not later:
        arrived = {10: [*range(1, 11)], 20: [*range(11, 21)], 30: [*range(21, 31)]}
    assert read == {it: [(each, float(each)) for each in numbers] for it, numbers in arrived.items()}
    assert reader.read_all() == [(it, float(it)) for it in range(21 if later else 31, 36)]
    assert reader.read_all() == reader.read_some() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_that_diverged_is_named_with_its_view(later: bool, bad: float) -> None:
    reader, it = _reader(), 0
    with pytest.raises(Diverged) as caught:
        while it < 50:
            it += 1
            reader.add(it, [f"{it}.png"], torch.tensor(bad if it >= 13 else 0.1))
            if reader.full:
                reader.read_some()
    assert it == (30 if later else 20)
    assert (caught.value.iteration, caught.value.view) == (13, "13.png")
    assert reader.read_all() == []  # those that came after it are no news


class Pair:
    """A team of two, whose other process has losses a hundred times as large."""

    rank, size, is_main = 0, 2, True

    def gather(self, values: Tensor) -> Tensor:
        return torch.stack([values, 100 * values])


def test_a_team_on_the_cpu_reads_every_iteration_and_takes_the_mean() -> None:
    reader = LossReader(torch.device("cpu"), Pair())  # type: ignore[arg-type]
    reader.add(1, ["a.png", "b.png"], torch.tensor(2.0))
    assert reader.full and reader.read_some() == [(1, 101.0)]
    reader.add(2, ["c.png", "d.png"], torch.tensor(3e37))  # times 100 it is infinite
    with pytest.raises(Diverged) as caught:
        reader.read_all()
    assert (caught.value.iteration, caught.value.view) == (2, "d.png")


def test_parameters_that_are_not_finite_are_noticed_though_no_loss_is(later: bool) -> None:
    parameters = [torch.zeros(5), torch.zeros(4, 3)]
    reader, it = LossReader(torch.device("cpu"), SINGLE, lambda: parameters), 0
    with pytest.raises(Spoilt) as caught:
        while it < 50:
            it += 1
            reader.add(it, [f"{it}.png"], torch.tensor(0.1))
            if it == 13:
                parameters[1][2, 1] = math.nan
            if reader.full:
                reader.read_some()
    assert it == (30 if later else 20)
    assert caught.value.iterations == [*range(11, 21)] and caught.value.views[2] == "13.png"
    assert reader.read_all() == []


def test_parameters_whose_sum_alone_is_infinite_are_finite() -> None:
    reader = LossReader(torch.device("cpu"), SINGLE, lambda: [torch.full((4,), 3e38)])
    reader.add(1, ["a.png"], torch.tensor(0.25))
    assert reader.read_all() == [(1, 0.25)]
