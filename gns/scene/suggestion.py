"""How many Gaussians a scene is worth, for who does not say.

Published budgets (gns/budget.txt) have a Gaussian for about 200 to 1,400 pixels of their training photos, half of them
for fewer than 450. A Gaussian for 400 is a proposal: fewer are often as good, and how much so is seen by trying.
"""

from __future__ import annotations

from collections.abc import Sequence

from gns.scene.scene import Scene
from gns.scene.view import View

PIXELS_PER_GAUSSIAN = 400
LEAST = 5_000
MOST = 600_000  # the largest published budget: beyond it somebody should have asked for it
_DIGITS = 2  # that count: nobody takes 55,532 for a number with a meaning


def suggested_budget(scene: Scene) -> int:
    """The number of Gaussians to train to where nobody has said one."""
    pixels = training_pixels(scene.train)
    # Points are what was measured of the scene: half of them are worth keeping, however small the photos.
    suggestion = max(pixels / PIXELS_PER_GAUSSIAN, len(scene.points.positions) / 2)
    return _rounded(min(max(suggestion, LEAST), MOST))


def training_pixels(views: Sequence[View]) -> int:
    """The number of pixels of all `views`, masked ones included."""
    return sum(view.camera.width * view.camera.height for view in views)


def _rounded(count: float) -> int:
    return int(float(f"{count:.{_DIGITS - 1}e}"))
