"""What Adam refuses. Its steps are judged in test_population.py and in tests/cuda."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gns.model.adam import AdamGroup, AdamTensors, adam_step
from gns.scene.gaussians import as_planes


def _four(*shape: int) -> list[Tensor]:
    return [as_planes(torch.ones(*shape)) for _ in range(4)]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_dtypes_are_refused(place: int, dtype: torch.dtype) -> None:
    tensors = _four(7, 3)
    tensors[place] = as_planes(tensors[place].to(dtype))
    with pytest.raises(ValueError, match=rf"float32 tensors stored as planes, not {dtype}"):
        adam_step([AdamGroup(AdamTensors(*tensors), 0.1, 1)])


@pytest.mark.parametrize("place", range(4))
def test_tensors_that_do_not_lie_as_planes_or_are_of_another_size_are_refused(place: int) -> None:
    tensors = _four(7, 3)
    tensors[place] = torch.ones(7, 3)
    with pytest.raises(ValueError, match=r"with stride \(3, 1\)"):
        adam_step([AdamGroup(AdamTensors(*tensors), 0.1, 1)])
    tensors[place] = as_planes(torch.ones(8, 3))
    with pytest.raises(ValueError, match="of one size, on one device"):
        adam_step([AdamGroup(AdamTensors(*tensors), 0.1, 1)])
    tensors[place] = as_planes(torch.ones(7, 3, device="meta"))
    with pytest.raises(ValueError, match="of one size, on one device"):
        adam_step([AdamGroup(AdamTensors(*tensors), 0.1, 1)])


def test_groups_on_several_devices_and_steps_before_the_first_are_refused() -> None:
    here, there = AdamTensors(*_four(5)), AdamTensors(*(values.to("meta") for values in _four(5)))
    with pytest.raises(ValueError, match="on one device"):
        adam_step([AdamGroup(here, 0.1, 1), AdamGroup(there, 0.1, 1)])
    with pytest.raises(ValueError, match="steps count from 1"):
        adam_step([AdamGroup(here, 0.1, 0)])
    assert all(values.eq(1).all() for values in here.flat), "nothing was stepped"
