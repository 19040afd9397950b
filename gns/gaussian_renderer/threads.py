"""Who has the processor: the renderer's threads, or torch's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gns.gaussian_renderer.backends.cpu import set_threads, thread_count
from gns.utils.torchrun import place


@contextmanager
def renderer_threads(count: int) -> Iterator[None]:
    """Give the renderer `count` threads inside the block, 0: all cores, and torch a single one; then as it was before.

    The native renderer and loss have a thread pool of their own: torch's workers would spin against it between calls.
    Processes that torchrun has started on this machine share its cores.
    """
    torchs, ours = torch.get_num_threads(), thread_count()
    torch.set_num_threads(1)
    set_threads(count)
    if count == 0:
        set_threads(max(1, thread_count() // place().local_size))
    try:
        yield
    finally:
        torch.set_num_threads(torchs)
        set_threads(ours)
