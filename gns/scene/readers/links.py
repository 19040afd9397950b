"""Links in a scene that lead out of it: a stranger's archive could make any picture of this machine part of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gns.scene.readers.frames import Frame, SceneOptions


def link_out(frames: Sequence[Frame], source: Path, options: SceneOptions) -> str | None:
    """The first photo or mask that is in truth a file elsewhere, as half a sentence; None where all are in the scene.

    The scene's folder may itself be reached by a link, and a folder that `-i` names may be anywhere: the user has named
    them.
    """
    roots = [os.path.realpath(source)]
    if options.images != SceneOptions.images:
        roots.append(os.path.realpath(source / options.images))
    for path in (path for frame in frames for path in (frame.image_path, frame.mask_path) if path is not None):
        real = os.path.realpath(path)
        if not any(os.path.commonpath([root, real]) == root for root in roots):
            return f"{path} is a link to {real}, outside the scene"
    return None
