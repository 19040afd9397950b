"""Tensors that call themselves cuda, on a torch that has none; their numbers lie in main memory.

To mix devices is an error as on a real GPU, and so is what a GPU cannot do. Autograd gives each device a thread of its
own, as it does there. `installed` changes torch for good, in a process that has loaded the libraries of driver.py.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from gns.testing.emulation.driver import Driver

_COPIES = ("aten.copy_.", "aten._to_copy.", "aten._copy_from")  # take tensors of two devices
_INDEXING = ("aten.index.", "aten.index_put", "aten._index_put")  # take an index from the CPU


class Gpus:
    """What was done on the GPUs of this process, and what they allow."""

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()  # by torch's name
        self.threads: set[int] = set()  # in which they took place
        self.largest = 1 << 40  # bytes of one tensor; a larger one raises as torch does when memory is full
        self.growing_fails = False  # whether the driver cannot reserve addresses, as on WSL2
        self.growing = True  # what torch's allocator was last asked


GPUS = Gpus()


class Pretend(Tensor):
    """A tensor that says that it is on a GPU; `numbers` has what it holds."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> Pretend:
        made: Pretend = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=device,
        )
        made.numbers = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(function, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.numbers.data_ptr()

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy


class _Everywhere(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Also sees what makes new tensors, which takes none."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation of torch, on the numbers; its results lie where a real one's would."""
    name = str(function)
    leaves = tree_leaves((args, kwargs))
    ours = [leaf for leaf in leaves if isinstance(leaf, Pretend)]
    others = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, Pretend)]
    _refuse_mixtures(name, ours, others, leaves[0] if leaves else None)
    if ours:
        GPUS.operations[name] += 1
        GPUS.threads.add(threading.get_ident())
    asked = kwargs.get("device")
    target = ours[0].device if ours else None
    if asked is not None:
        asked = torch.device(asked)
        target = asked if asked.type == "cuda" else None
        kwargs = {**kwargs, "device": torch.device("cpu") if target else asked}
    if target is not None and target.index is None:
        target = torch.device("cuda", torch.cuda.current_device())
    if kwargs.get("pin_memory"):
        kwargs = {**kwargs, "pin_memory": False}
    known = {id(tensor.numbers): tensor for tensor in ours} | {id(tensor): tensor for tensor in others}
    result = function(*tree_map(_inner, args), **tree_map(_inner, kwargs))

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or target is None:
            return value
        if id(value) in known:
            return known[id(value)]
        if value.untyped_storage().nbytes() > GPUS.largest:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {value.nbytes} bytes.\nSee …")
        return Pretend(value, target)

    return args[0] if name.startswith("aten.copy_.") else tree_map(wrapped, result)


def _inner(value: Any) -> Any:
    return value.numbers if isinstance(value, Pretend) else value


def _refuse_mixtures(name: str, ours: Sequence[Tensor], others: Sequence[Tensor], first: Any) -> None:
    """Raise RuntimeError where an operation takes tensors of two devices. A scalar on the CPU goes everywhere."""
    if name.startswith(_COPIES):
        return
    devices = {str(tensor.device) for tensor in ours}
    for tensor in others if ours else ():
        index = name.startswith(_INDEXING) and tensor is not first and not tensor.is_floating_point()
        if not index and (tensor.dim() > 0 or tensor is first):
            devices.add(str(tensor.device))
    if len(devices) > 1:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found {sorted(devices)}")


class _Stream:
    """The default stream of a device, or another one."""

    def __init__(self, handle: int) -> None:
        self.cuda_stream = handle

    def record_event(self) -> _Event:
        event = _Event()
        event.record(self)
        return event


class _Event:
    def __init__(self, **settings: Any) -> None:
        self._recorded = False

    def record(self, stream: Any = None) -> None:
        self._recorded = True

    def synchronize(self) -> None:
        assert self._recorded, "waited for an event that nobody has recorded"


def installed(driver: Driver) -> None:
    """Give this process's torch the two GPUs of `driver`, in this thread and in those of autograd.

    Other threads call `entered`.
    """
    library = driver.library
    torch.version.cuda = "13.0"
    gpu: Any = torch.cuda
    gpu._lazy_init = lambda: None
    gpu.is_available = lambda: True
    gpu.device_count = lambda: 2
    gpu.get_device_capability = lambda device=None: driver.capability
    gpu.get_device_name = lambda device=None: "Stand-in"
    gpu.current_device = lambda: library.stand_in_current_device()
    gpu.set_device = lambda device: library.stand_in_set_device(torch.device("cuda", device).index)
    gpu._exchange_device = gpu._maybe_exchange_device = _exchanged(library)
    gpu.current_stream = lambda device=None: _Stream(library.stand_in_stream(_index(device), STREAM.number))
    gpu.mem_get_info = lambda device=None: (8 << 30, 12 << 30)
    gpu.memory_reserved = gpu.max_memory_allocated = lambda device=None: 1 << 30
    gpu.synchronize = gpu.empty_cache = gpu.reset_peak_memory_stats = lambda device=None: None
    gpu.Event = _Event
    torch._C._set_only_lift_cpu_tensors(True)
    _save_what_lies_on_the_cpu()
    entered()


class _CurrentStream(threading.local):
    number = 0


STREAM = _CurrentStream()


def entered() -> None:
    """Let this thread make tensors on the GPUs."""
    _Everywhere().__enter__()  # type: ignore[no-untyped-call]


def _index(device: Any) -> int:
    index = device.index if isinstance(device, torch.device) else device
    return int(torch.cuda.current_device() if index is None else index)


def _exchanged(library: Any) -> Callable[[int], int]:
    def exchange(device: int) -> int:
        before: int = library.stand_in_current_device()
        library.stand_in_set_device(device)
        return before

    return exchange


def _save_what_lies_on_the_cpu() -> None:
    """A file of torch holds numbers, which it reads from memory: those of `numbers`."""
    save = torch.save

    def saving(document: Any, *args: Any, **kwargs: Any) -> None:
        document = tree_map(_inner, document)
        with _disable_current_modes():
            save(document, *args, **kwargs)

    torch.save = saving  # type: ignore[assignment]
