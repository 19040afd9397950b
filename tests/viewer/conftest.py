"""A viewer that several files of tests connect to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gns.testing.tiny import tiny_config, tiny_scene
from gns.training.loop import train
from gns.viewer.window import Window


def opened(port: int) -> Window:
    """A viewer of a model that has learned next to nothing."""
    scene = tiny_scene()
    view, state = scene.train[0], train(scene, tiny_config(iterations=1))
    return Window(port, "tiny", view.camera, state.gaussians, scene.background, [view.camera])


@pytest.fixture
def window(port: int) -> Iterator[Window]:
    window = opened(port)
    yield window
    window.close()
