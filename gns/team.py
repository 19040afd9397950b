"""Training on several processes, each of which holds the whole model and renders its own view of an iteration.

Only sums are exchanged, and they are formed in the order of ranks. All else is computed by every process from the same
numbers, so that the copies of the model stay equal to the last bit; their fingerprints are compared from time to time.
What a batch of views does to the learning rates: docs/multi_gpu.md.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gns.errors import UserError
from gns.utils.torchrun import Place, place

# A process waits this long for the others: rank 0 may be writing a model and scoring the held-out views meanwhile.
TIMEOUT = timedelta(minutes=10)

_PIECE = 1 << 23  # elements summed at a time: two buffers of 32 MB, however large the model
_WORDS = 1 << 22  # elements fingerprinted at a time
_ODD = -0x61C8864680B583EB  # 2⁶⁴ divided by the golden ratio, as a signed number: neighbours get unlike factors


class Team:
    """The processes of a run, as one of them sees it. A team of one exchanges nothing and costs nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, which alone writes files and shows progress."""
        return self.rank == 0

    @contextmanager
    def summing(self, sums: Sequence[Tensor]) -> Iterator[None]:
        """Let each of `sums` grow, in place, by what every process adds to it inside the block.

        The sums must be equal on all processes before, and are so after. Rank 0 adds first, then rank 1, and so on: the
        bits are those of one process that makes the same additions one after the other, whatever the backend. Each is a
        dense tensor, contiguous or stored as planes. Raises UserError where another process is lost.
        """
        if self.size == 1:
            yield
            return
        if not self.is_main:  # rank 0 keeps what is there already
            for values in sums:
                values.zero_()
        yield
        for values in sums:
            flat = _in_memory_order(values)
            for begin in range(0, len(flat), _PIECE):
                self._add_up(flat[begin : begin + _PIECE])

    def _add_up(self, piece: Tensor) -> None:
        """Replace `piece` [n] by its sum over the ranks: each process adds up one part, and all parts are shared.

        Moves as much as the usual all-reduce, whose order of additions is the library's secret.
        """
        part = -(-len(piece) // self.size)
        sent = piece.new_zeros(self.size * part)
        sent[: len(piece)] = piece
        received = torch.empty_like(sent)
        with _connected():
            dist.all_to_all_single(received, sent)
            total, *others = received.view(self.size, part)
            for other in others:
                total += other
            dist.all_gather(list(sent.view(self.size, part)), total)
        piece.copy_(sent[: len(piece)])

    def gather(self, values: Tensor) -> Tensor:
        """The `values` [n], on the CPU, of every process: [size, n], by rank. Waits for all.

        Raises UserError where another process is lost.
        """
        if self.size == 1:
            return values[None]
        gathered = values.new_empty(self.size, len(values))
        with _connected():
            dist.all_gather(list(gathered), values)
        return gathered

    def any(self, *flags: bool) -> list[bool]:
        """Each of the flags, True where it is on some process."""
        gathered: list[bool] = self.gather(torch.tensor(flags, dtype=torch.uint8)).any(dim=0).tolist()
        return gathered

    def wait(self) -> None:
        """Return when every process has come here."""
        self.any(False)

    def require_equal(self, state: Mapping[str, Any], iteration: int) -> None:
        """Raise UserError, on all processes, where `state` is not the same on all of them to the last bit."""
        if self.size == 1:
            return
        prints = self.gather(torch.tensor([fingerprint(state)]))[:, 0].tolist()
        strays = [str(rank) for rank, value in enumerate(prints) if value != prints[0]]
        if strays:
            raise UserError(
                f"after iteration {iteration} the model of process {', '.join(strays)} is no longer that of process 0: "
                "give all processes the same scene, options, versions and kind of processor or GPU, and --resume from "
                "the last checkpoint"
            )


SINGLE = Team()


@contextmanager
def joined_team(device: torch.device) -> Iterator[Team]:
    """The team of the processes that torchrun started; `SINGLE` without torchrun. They train on `device`.

    Raises UserError where they do not find each other.
    """
    here = place()
    if here.size == 1:
        yield SINGLE
        return
    # Losses, flags and fingerprints travel from CPU to CPU, which does not make a host wait for its GPU.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    with _connected():
        dist.init_process_group(backend, timeout=TIMEOUT)
    yield Team(here.rank, here.size)
    # Not after an error: to leave in good order can take the process that was lost.
    dist.destroy_process_group()


def device_option(option: str, here: Place) -> str:
    """The value of `--device` for one process: with several on a machine, each has the GPU of its local rank.

    Raises UserError where they cannot.
    """
    if here.local_size == 1 or option == "cpu" or (option == "auto" and not torch.cuda.is_available()):
        return option
    count = torch.cuda.device_count()
    if option.startswith("cuda:"):
        raise UserError(
            f"--device {option} is one GPU, and {here.local_size} processes were started on this machine: use "
            "--device cuda, and each takes its own"
        )
    if 0 < count < here.local_size:
        raise UserError(
            f"{here.local_size} processes were started on this machine, and torch sees {count} GPU"
            f"{'' if count == 1 else 's'}: start one for each, --nproc-per-node {count}"
        )
    return f"cuda:{here.local_rank}"


def fingerprint(state: Any) -> int:
    """A signed 64-bit number that any single changed bit of `state` changes.

    `state` holds tensors, numbers, strings, None, and dicts of them.
    """
    if isinstance(state, Mapping):
        total = len(state)
        for name, value in state.items():
            total = total * 31 + zlib.crc32(str(name).encode())
            total = total * 31 + fingerprint(value)
        return _signed(total)
    if isinstance(state, Tensor):
        return _tensor_fingerprint(state)
    return zlib.crc32(repr(state).encode())


def _tensor_fingerprint(values: Tensor) -> int:
    """Σ word · odd factor of its place, modulo 2⁶⁴: integer sums are the same in any order, so a GPU may form them."""
    flat = _in_memory_order(values)
    words = flat.view(torch.int32 if flat.element_size() == 4 else torch.uint8)
    total = torch.zeros((), dtype=torch.int64, device=values.device)
    for begin in range(0, len(words), _WORDS):
        piece = words[begin : begin + _WORDS].to(torch.int64)
        places = torch.arange(begin, begin + len(piece), device=values.device)
        total += (piece * (places * _ODD | 1)).sum()
    return _signed(int(total) + len(words))


def _signed(value: int) -> int:
    """`value` modulo 2⁶⁴, in the range of int64."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _in_memory_order(values: Tensor) -> Tensor:
    """All elements as they lie in memory, [numel]; a view of tensors that are contiguous or stored as planes."""
    values = values.detach()
    return (values if values.is_contiguous() else values.movedim(0, -1)).view(-1)


@contextmanager
def _connected() -> Iterator[None]:
    """Turn the complaints of torch.distributed into a sentence."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"lost touch with another process of this run ({reason}): if it ended, its own message says why; go on "
            "from the last checkpoint with --resume"
        ) from error
