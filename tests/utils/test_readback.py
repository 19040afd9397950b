from __future__ import annotations

import torch

from gns.utils.readback import Readback


def test_the_last_number_arrives() -> None:
    readback, numbers = Readback(torch.device("cpu")), torch.tensor([3, 2**40])
    readback.start(numbers[:1])
    assert readback.finish() == 3
    readback.start(numbers[1:])
    assert readback.finish() == readback.finish() == 2**40
