from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gns.utils.readback import Readback


def test_the_last_number_arrives() -> None:
    readback, numbers = Readback(torch.device("cpu")), torch.tensor([3, 2**40])
    readback.start(numbers[:1])
    assert readback.finish().tolist() == [3]
    readback.start(numbers[1:])
    assert readback.finish().tolist() == readback.finish().tolist() == [2**40]


def test_fewer_numbers_than_there_is_room_for() -> None:
    readback = Readback(torch.device("cpu"), 4, torch.float32)
    readback.start(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    first = readback.finish()
    readback.start(torch.tensor([0.5, 0.25]))
    assert readback.finish().tolist() == [0.5, 0.25]
    assert first.tolist() == [1.0, 2.0, 3.0, 4.0]


class Mark:
    """Plays an event of a GPU."""

    def __init__(self, landed: Tensor) -> None:
        self.landed = landed
        self.calls: list[str] = []

    def record(self, stream: str) -> None:
        self.calls.append(f"recorded behind {int(self.landed)} on {stream}")

    def synchronize(self) -> None:
        self.calls.append("waited")
        self.landed.fill_(8)


def test_on_a_gpu_it_waits_for_its_own_copy_before_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    readback = Readback(torch.device("cpu"))
    mark = Mark(readback._landed)
    monkeypatch.setattr(readback, "_event", mark)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    readback.start(torch.tensor([7]))
    assert mark.calls == ["recorded behind 7 on stream"]
    assert readback.finish().tolist() == [8] and mark.calls[1:] == ["waited"]
