"""Points to start from where a scene has none: from the photos if they give enough, else at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gns.errors import UserError
from gns.scene.checks import OTHER_CONVENTION, other_convention
from gns.scene.points import PointCloud, random_points
from gns.scene.triangulation import find_features, triangulated_points
from gns.scene.view import View

ENOUGH_POINTS = 500  # triangulated ones; fewer start worse than random ones (docs/LOG.md)


def starting_points(views: Sequence[View], seed: int, report: Callable[[str], None] = lambda _: None) -> PointCloud:
    """Triangulated points, or random ones that `seed` decides; `report` is told in a line before and after.

    Raises UserError where the photos say that the matrices are in the other convention.
    """
    report(f"no 3D points: looking for features that {len(views)} photos have in common")
    features = find_features(views)
    points = triangulated_points(features)
    count = len(points.positions)
    if count >= ENOUGH_POINTS:
        report(f"{count:,} points triangulated from the photos")
        return points
    turned = [
        replace(
            found,
            camera=replace(found.camera, world_to_camera=other_convention(found.camera.world_to_camera)),
        )
        for found in features
    ]
    if (others := len(triangulated_points(turned).positions)) > max(ENOUGH_POINTS, 5 * count):
        raise UserError(
            f"the photos have {count:,} points in common as their cameras stand, and {others:,} with {OTHER_CONVENTION}"
        )
    points = random_points(views, seed)
    report(f"only {count:,} points triangulated: {len(points.positions):,} random ones inside the camera frustums")
    return points
