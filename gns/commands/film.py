"""A video of a trained model, along a path fitted to the cameras of its photos or through those of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

from gns.appearance.exposure import adjusted
from gns.arguments import RenderConfig
from gns.gaussian_renderer import render
from gns.scene import Camera, Gaussians, Scene
from gns.scene.camera_path import PATHS, filming, fitted_path, path_through, read_key_cameras
from gns.scene.layout import subject_of
from gns.utils.console import say
from gns.utils.map_pictures import Scale, alpha_picture, count_picture, depth_picture, surface_inverse_depth
from gns.utils.png import to_eight_bit
from gns.utils.progress import Progress
from gns.utils.video import check_video, video_file

LONG_SIDE, SHORT_SIDE = 1920, 1080  # unless --size says otherwise; upright where the photos are
_SAMPLES = 5  # cameras by which the colours of depth and count are scaled


def film(config: RenderConfig, gaussians: Gaussians, scene: Scene) -> None:
    """Write the video that `config` asks for, and one beside it for each of its outputs (`out.depth.mp4`).

    Raises UserError where no video can be written, or the path is none.
    """
    assert config.video is not None
    check_video(config.video)
    cameras = path_of(config, [view.camera for view in scene.train])
    size = cameras[0].width, cameras[0].height
    place = f"{size[0]}×{size[1]}, {len(cameras)} frames, {config.fps} a second"
    say(f"filming {place}, to {config.video}", config.quiet)
    background = torch.tensor(scene.background, device=gaussians.means.device)
    scale = sampled_scale(cameras, gaussians, background) if config.outputs else None
    with ExitStack() as files:
        take = files.enter_context(video_file(config.video, size, config.fps))
        takes = {
            kind: files.enter_context(video_file(beside(config.video, kind), size, config.fps))
            for kind in config.outputs
        }
        progress = files.enter_context(Progress(quiet=config.quiet))
        for done, camera in enumerate(cameras):
            progress.tell("filming", done, len(cameras), "frame")
            image, maps = drawn_with_maps(camera, gaussians, background, config.outputs, scale)
            take(image)
            for kind, picture in maps.items():
                takes[kind](picture)
        progress.tell("filming", len(cameras), len(cameras), "frame")


def path_of(config: RenderConfig, training: Sequence[Camera]) -> list[Camera]:
    """The cameras of all frames, of the video's size. Raises UserError where the path is none."""
    frames = max(1, round(config.seconds * config.fps))
    kind = config.path or ("spline" if subject_of(training) is None else "ellipse")
    if kind in PATHS:
        cameras = fitted_path(kind, training, frames)
    else:
        cameras = path_through(read_key_cameras(Path(kind)), frames)
    size = config.film_size or _usual_size(cameras[0])
    return [filming(camera, size) for camera in cameras]


def drawn_with_maps(
    camera: Camera,
    gaussians: Gaussians,
    background: Tensor,
    kinds: Sequence[str],
    scale: Scale | None,
    exposure: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The picture and those of `kinds`, all uint8 [H, W, 3] on the CPU; `scale` may be None where there are none.

    The picture has the `exposure` of a photo, [3, 4], where one is given.
    """
    with torch.no_grad():
        output = render(camera, gaussians, background, inverse_depth="depth" in kinds, counts="count" in kinds)
    makers: dict[str, Callable[[], Tensor]] = {}
    if scale is not None:
        depth, counts = output.inverse_depth, output.counts
        makers["alpha"] = lambda: alpha_picture(output.alpha)
        if depth is not None:
            makers["depth"] = lambda: depth_picture(depth, output.alpha, scale)
        if counts is not None:
            makers["count"] = lambda: count_picture(counts, scale)
    image = output.image if exposure is None else adjusted(output.image, exposure.to(output.image.device))
    return to_eight_bit(image).cpu(), {kind: makers[kind]() for kind in kinds}


def sampled_scale(cameras: Sequence[Camera], gaussians: Gaussians, background: Tensor) -> Scale:
    """How depth and count are coloured: by what some of the cameras see."""
    depths, counts = [], []
    for camera in cameras[:: max(1, len(cameras) // _SAMPLES)][:_SAMPLES]:
        small = filming(camera, (max(1, camera.width // 4), max(1, camera.height // 4)))
        with torch.no_grad():
            output = render(small, gaussians, background, inverse_depth=True)
            numbers = render(camera, gaussians, background, counts=True).counts
        assert output.inverse_depth is not None and numbers is not None
        depths.append(surface_inverse_depth(output.inverse_depth, output.alpha))
        counts.append(numbers[::4, ::4])
    return Scale.of(depths, counts)


def beside(video: Path, kind: str) -> Path:
    """The video of another output: `out.mp4` → `out.depth.mp4`."""
    return video.with_suffix(f".{kind}{video.suffix}")


def _usual_size(camera: Camera) -> tuple[int, int]:
    return (LONG_SIDE, SHORT_SIDE) if camera.width >= camera.height else (SHORT_SIDE, LONG_SIDE)
