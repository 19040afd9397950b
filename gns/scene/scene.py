"""What a run learns from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gns.scene.camera import Camera
from gns.scene.frame import WORLD, LocalFrame, frame_for
from gns.scene.layout import stray_cameras
from gns.scene.points import PointCloud
from gns.scene.start import starting_points
from gns.scene.view import View
from gns.utils.images import compose

Pixels = npt.NDArray[np.uint8] | Tensor


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything a run learns from. Readers sort both lists by image name."""

    name: str
    train: list[View]  # to learn from
    test: list[View]  # held out
    points: PointCloud  # to start from
    extent: float  # see `scene_extent`, in world units
    background: tuple[float, float, float]  # RGB in [0, 1]

    @property
    def frame(self) -> LocalFrame:
        """The coordinates to train in; those of the scene unless it is small or far away."""
        return frame_for(np.stack([view.camera.center for view in self.train]), self.extent)

    def local(self) -> Scene:
        """The scene in its frame's coordinates; itself where that is the world."""
        if self.frame == WORLD:
            return self
        return replace(
            self,
            train=[_in_frame(view, self.frame) for view in self.train],
            test=[_in_frame(view, self.frame) for view in self.test],
            points=PointCloud(self.frame.positions(self.points.positions), self.points.colors),
            extent=self.extent / self.frame.scale,
        )

    @classmethod
    def from_arrays(
        cls,
        cameras: Sequence[Camera],
        images: Sequence[Pixels],
        points: PointCloud | None = None,
        masks: Sequence[npt.NDArray[np.bool_] | Tensor | None] | None = None,
        *,
        held_out: Collection[int] = (),
        background: tuple[float, float, float] = (0.0, 0.0, 0.0),
        seed: int = 0,
        name: str = "arrays",
    ) -> Scene:
        """A scene of photos that are in memory already.

        Args:
            cameras: one for each photo, of its size, without distortion.
            images: uint8, [H, W, 3], or [H, W, 4] with an alpha channel that is composed on the background.
            points: to start from; None: triangulated from the photos, or random ones inside the cameras' frustums,
                drawn from `seed`, where they give too few.
            masks: bool [H, W] for each photo, False where its pixels must not be learned from; None: all count.
            held_out: indices of the photos that are not learned from but scored.
            background: RGB in [0, 1] behind the scene.

        Raises:
            ValueError: lists differ in length, an array has another shape or dtype, or no photo is left to learn from.
        """
        masks = [None] * len(images) if masks is None else masks
        if not len(cameras) == len(images) == len(masks):
            raise ValueError(f"there are {len(cameras)} cameras, {len(images)} images and {len(masks)} masks")
        if strays := [index for index in held_out if not 0 <= index < len(images)]:
            raise ValueError(f"held_out names photo {strays[0]}, and there are {len(images)}")
        views = [_view(*parts, background) for parts in zip(cameras, images, masks, strict=True)]
        train = [view for index, view in enumerate(views) if index not in set(held_out)]
        if not train:
            raise ValueError("no photo is left to learn from")
        points = starting_points(train, seed) if points is None else points
        return cls(
            name=name,
            train=train,
            test=[views[index] for index in sorted(set(held_out))],
            points=points,
            extent=scene_extent(train, points),
            background=background,
        )


def _in_frame(view: View, frame: LocalFrame) -> View:
    camera = frame.camera(view.camera)

    def moved(view: View) -> View:
        depth = None if view.inverse_depth is None else view.inverse_depth * frame.scale
        return replace(view, camera=camera, inverse_depth=depth)

    return view.changed(camera, moved)


def _view(camera: Camera, image: Any, mask: Any, background: tuple[float, float, float]) -> View:
    """A view of arrays or tensors. Raises ValueError where they do not fit the camera."""
    pixels = image.cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.shape not in [(camera.height, camera.width, depth) for depth in (3, 4)]:
        raise ValueError(
            f"the image of camera {camera.name!r} must be uint8 [{camera.height}, {camera.width}, 3 or 4], not "
            f"{pixels.dtype} {list(pixels.shape)}"
        )
    alpha = torch.from_numpy(pixels[:, :, 3].copy()) if pixels.shape[2] == 4 else None
    if mask is None:
        return View(camera, torch.from_numpy(_composed(pixels, background)), alpha=alpha)
    counts = mask.cpu() if isinstance(mask, Tensor) else torch.from_numpy(np.ascontiguousarray(mask))
    if counts.dtype != torch.bool or counts.shape != (camera.height, camera.width):
        raise ValueError(
            f"the mask of camera {camera.name!r} must be bool [{camera.height}, {camera.width}], not {counts.dtype} "
            f"{list(counts.shape)}"
        )
    return View(camera, torch.from_numpy(_composed(pixels, background)), counts, alpha)


def _composed(pixels: npt.NDArray[np.uint8], background: tuple[float, float, float]) -> npt.NDArray[np.uint8]:
    """[H, W, 3] of a copy; an alpha channel is composed on the background."""
    return np.array(compose(pixels, [round(255 * level) for level in background]), order="C")


def scene_extent(train: list[View], points: PointCloud) -> float:
    """1.1 × the largest distance of a training camera centre to their mean, in world units.

    Learning rates are proportional to it, so it must not vanish. Where all cameras stand at one place (a single photo,
    a panorama) it is the median distance from there to the points, as when one walks round a subject at that distance.
    Cameras that `stray_cameras` names do not count: one wrong pose would decide how the whole scene is learned.
    """
    centers = np.stack([view.camera.center for view in train])
    centers = centers[~stray_cameras(centers)]
    middle = centers.mean(axis=0)
    radius = 1.1 * float(np.linalg.norm(centers - middle, axis=1).max())
    to_points = float(np.median(np.linalg.norm(points.positions - middle, axis=1)))
    if radius > 1e-6 * to_points:
        return radius
    return to_points if to_points > 0 else 1.0
