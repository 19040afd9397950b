"""Renderers behind one protocol: native kernels on the CPU, and on an NVIDIA GPU. The listing is the registry.

Whatever depends on where tensors lie is asked of `backend_of(their device)`, and nothing falls back by itself.
"""

from __future__ import annotations

import torch

from gns.gaussian_renderer.backends.cpu import CpuBackend
from gns.gaussian_renderer.backends.gpu import GpuBackend
from gns.gaussian_renderer.backends.protocol import Backend

# Those in use, by device. A stand-in for one is put in here.
IN_USE: dict[torch.device, Backend] = {torch.device("cpu"): CpuBackend()}


def backend_of(device: torch.device) -> Backend:
    """The backend for tensors on `device`. Raises ValueError where there is none for that kind of device."""
    backend = IN_USE.get(device)
    if backend is None:
        if device.type != "cuda":
            raise ValueError(f"tensors on {device} cannot be rendered: move them to the CPU or to an NVIDIA GPU")
        backend = IN_USE[device] = GpuBackend(device)
    return backend


def release_memory() -> None:
    """Let go of the buffers that renderings keep for the next one: they have the size of the largest so far."""
    for backend in IN_USE.values():
        backend.release_memory()
