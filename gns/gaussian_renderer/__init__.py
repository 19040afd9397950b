"""Gaussians in, pictures out; differentiable. The device of the tensors decides the backend."""

from gns.gaussian_renderer.autograd import importance, render
from gns.gaussian_renderer.backends import release_memory
from gns.gaussian_renderer.backends.cpu import instruction_sets, set_threads, thread_count, use_instruction_set
from gns.gaussian_renderer.output import RenderOutput, ScreenGradients

__all__ = [
    "RenderOutput",
    "ScreenGradients",
    "importance",
    "instruction_sets",
    "release_memory",
    "render",
    "set_threads",
    "thread_count",
    "use_instruction_set",
]
