"""A picture of a scene's cameras and points, from above and from the side. Needs matplotlib, which is optional."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.camera import Camera
from gns.scene.points import PointCloud
from gns.utils.atomic_files import atomic_file

Floats = npt.NDArray[np.float64]

_MOST_POINTS = 60_000
_TRAINING, _HELD_OUT, _PAPER = "#1f4e9c", "#e07b00", "#d9d9d9"  # grey, so that white and black points show
_WIDTH, _HEIGHTS, _DOTS = 14.0, (3.5, 11.0), 110  # inches, the height by what is shown; dots an inch
_MANY = 80  # cameras, from where on they are drawn smaller
_UPRIGHT = 0.3  # length of the mean of the cameras' up axes; photos taken downwards have none in common


def check_plot(path: Path) -> None:
    """Raise UserError where `draw_scene` could not write `path`: no matplotlib, or an ending of no format."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError('--plot needs the package matplotlib: run pip install ".[plot]" in the folder of gns')
    if path.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise UserError(f"--plot {path} has no ending of a picture: call it {path.with_suffix('.png').name}")


def draw_scene(
    name: str, train: Sequence[Camera], test: Sequence[Camera], points: PointCloud | None, path: Path
) -> None:
    """Draw the cameras as pyramids and the points in their colours; lengths in the units of the scene.

    Raises UserError as `check_plot` does, and where `path` cannot be written.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cameras = [*train, *test]
    axes = viewing_axes(cameras)
    cloud = points or PointCloud(np.empty((0, 3)), np.empty((0, 3), np.uint8))
    step = max(1, -(-len(cloud.positions) // _MOST_POINTS))
    positions, colors = cloud.positions[::step] @ axes.T, cloud.colors[::step] / 255
    centers = np.stack([camera.center for camera in cameras]) @ axes.T
    low, high = shown_box(centers, positions)
    length = 0.03 * float((high - low).max()) * min(1.0, (_MANY / len(cameras)) ** 0.5)

    size = float(np.clip(20_000 / max(len(positions), 1), 2, 12))  # square points of the printer: few are drawn larger
    tallest = float(max(high[1:] - low[1:]) / (high[0] - low[0]))  # of the two panels, for a width of 1
    height = float(np.clip(_WIDTH / 2 * tallest + 1, *_HEIGHTS))
    figure = Figure(figsize=(_WIDTH, height), dpi=_DOTS, layout="constrained")
    FigureCanvasAgg(figure)
    counted = f"{len(cloud.positions):,} points" if len(cloud.positions) else "no points"
    figure.suptitle(f"{name}: {len(train)} cameras to learn from (blue), {len(test)} held out (orange), {counted}")
    titles = (("from above", 0, 1, 2), ("from the side", 0, 2, 1))
    for panel, (title, across, up, towards) in zip(figure.subplots(1, 2), titles, strict=True):
        # What is nearer to the eye covers the rest: from above the higher points, from the side those in front.
        order = np.argsort(positions[:, towards] * (1 if title == "from above" else -1))
        panel.scatter(positions[order, across], positions[order, up], s=size, c=colors[order], linewidths=0)
        for group, colour in ((train, _TRAINING), (test, _HELD_OUT)):
            _draw_cameras(panel, group, axes[[across, up]], length, colour)
        panel.set(xlim=(low[across], high[across]), ylim=(low[up], high[up]), title=title, facecolor=_PAPER)
        panel.set_aspect("equal", adjustable="box")
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower())


def viewing_axes(cameras: Sequence[Camera]) -> Floats:
    """Rows: right, away and up, [3, 3], orthonormal and right-handed: from above, right and up in the picture.

    Up is the mean of the cameras' own, and where these have none in common, as in aerial photos, across the plane that
    the cameras are in, against where they look. Right is the direction in which they are spread most.
    """
    up = -np.mean([camera.rotation[1] for camera in cameras], axis=0)
    centers = np.stack([camera.center for camera in cameras])
    spread = np.cov((centers - centers.mean(axis=0)).T) if len(cameras) > 1 else np.zeros((3, 3))
    if np.linalg.norm(up) < _UPRIGHT:
        up = np.linalg.eigh(spread)[1][:, 0]
        if up @ np.mean([camera.rotation[2] for camera in cameras], axis=0) > 0:
            up = -up
    up = up / np.linalg.norm(up)
    flat = np.eye(3) - np.outer(up, up)
    right = np.linalg.eigh(flat @ spread @ flat)[1][:, -1] if spread.any() else cameras[0].rotation[0]
    right = flat @ right
    if np.linalg.norm(right) < 1e-9:  # all cameras on a vertical line
        right = flat @ cameras[0].rotation[0]
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(up, right), up])


def shown_box(centers: Floats, positions: Floats) -> tuple[Floats, Floats]:
    """Corners of the part to show: all cameras, and the points but for those far out on either side."""
    corners = [centers.min(axis=0), centers.max(axis=0)]
    if len(positions):
        corners += list(np.percentile(positions, [4, 96], axis=0))
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    margin = max(0.06 * float((high - low).max()), 1e-6 * float(np.abs(high).max()), 1e-9)
    return low - margin, high + margin


def _draw_cameras(panel: Any, cameras: Sequence[Camera], plane: Floats, length: float, colour: str) -> None:
    """Pyramids from each camera's centre to the corners of its picture; `plane` [2, 3] is what they are drawn in."""
    from matplotlib.collections import LineCollection

    lines = []
    for camera in cameras:
        right, bottom = camera.width - camera.cx, camera.height - camera.cy
        u = np.array([-camera.cx, right, right, -camera.cx]) / camera.fx
        v = np.array([-camera.cy, -camera.cy, bottom, bottom]) / camera.fy
        rays = np.stack([u, v, np.ones(4)], axis=1)
        # Fisheyes see more than a half-space, which no pyramid shows: they are drawn as wide as can be read.
        rays[:, :2] *= min(1.0, 2.0 / float(np.abs(rays[:, :2]).max()))
        corners = (length * rays @ camera.rotation + camera.center) @ plane.T
        center = plane @ camera.center
        lines += [np.stack([center, corner]) for corner in corners]
        lines.append(np.concatenate([corners, corners[:1]]))
    panel.add_collection(LineCollection(lines, colors=colour, linewidths=0.6))
