"""The same iterations twice: equal input, equal bits."""

from __future__ import annotations

from unittest import mock

import torch
from torch import Tensor

from benchmarks.gpu.bench import CPU, Bench, Failed, Result, Room, crowd, judged
from benchmarks.gpu.comparing import iterate
from benchmarks.gpu.training import train_synthetic
from gns.testing.examples import EXAMPLES, example_of


def determinism(bench: Bench) -> Result:
    """Equal input, equal bits: small scenes, a large one, and a short training run.

    Also where the host knows the number of tile instances, makes room for twice as many, and has to come again; and
    without screen gradients.
    """
    result: Result = {}
    backend = judged(bench.device)
    scenes = {name: EXAMPLES[name]() for name in bench.examples}
    scenes["large"] = example_of(*crowd(bench.timed[0], *bench.size, CPU))
    for name, scene in scenes.items():
        first = iterate(scene, bench.device, steps=3)
        for label, room in (("", None), (", known", Room(0)), (", ample", Room(2)), (", too little", Room(0.5))):
            with mock.patch.object(backend, "forecast", room or backend.forecast):
                again = iterate(scene, bench.device, steps=3)
            result[name + label] = _different(first, again)
        plain = iterate(scene, bench.device, steps=3, observed=False)
        result[f"{name}, no screen gradients"] = _different(plain, first)
    runs = [train_synthetic(bench, bench.device, bench.beside_cpu)[1] for _ in range(2)]
    result["training"] = [] if runs[0] == runs[1] else ["losses"]
    different = [name for name, found in result.items() if found]
    if different:
        raise Failed(f"not the same bits twice: {', '.join(different)}", result)
    return result


def _different(first: dict[str, Tensor], second: dict[str, Tensor]) -> list[str]:
    """Names of what is in `first` and not the same in `second`."""
    return [name for name, values in first.items() if not _same_bits(values, second[name])]


def _same_bits(first: Tensor, second: Tensor) -> bool:
    return torch.equal(first.contiguous().view(torch.int32), second.contiguous().view(torch.int32))
