from __future__ import annotations

import torch

from gns.utils.workspace import Workspace


def test_workspaces_only_grow() -> None:
    space = Workspace(torch.device("cpu"))
    first = space.take("a", (10, 3))
    assert first.shape == (10, 3) and first.is_contiguous()
    assert space.take("a", (4,)).data_ptr() == first.data_ptr()
    assert space.take("a", (33,)).data_ptr() == first.data_ptr()  # an eighth was to spare
    assert space.take("a", (50, 2)).numel() == 100
    assert space.take("a", (0, 12)).shape == (0, 12)


def test_another_type_is_another_buffer() -> None:
    space = Workspace(torch.device("cpu"))
    assert space.take("a", (10,)).dtype == torch.float32
    assert space.take("a", (10,), torch.float64).dtype == torch.float64
