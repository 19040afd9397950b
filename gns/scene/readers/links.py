"""Links in a scene that lead out of it: a stranger's archive could make any picture of this machine part of a model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gns.errors import UserError
from gns.scene.readers.frames import Frame, SceneOptions


def refuse_links_out(frames: Sequence[Frame], source: Path, options: SceneOptions) -> None:
    """Raise UserError where a photo or mask is in truth a file elsewhere, unless the options ask for that.

    The scene's folder may itself be reached by a link, and a folder that `-i` names may be anywhere: the user has named
    them.
    """
    if options.follow_links:
        return
    roots = [os.path.realpath(source)]
    if options.images != SceneOptions.images:
        roots.append(os.path.realpath(source / options.images))
    for path in (path for frame in frames for path in (frame.image_path, frame.mask_path) if path is not None):
        real = os.path.realpath(path)
        if not any(os.path.commonpath([root, real]) == root for root in roots):
            raise UserError(
                f"{path} is a link to {real}, outside the scene: copy the file, name its folder with -i, or give "
                "--follow-links where you trust the scene"
            )
