"""The last step of a reconstruction: its cameras adjusted once more, and its points found anew.

Mapping is generous, so that photos find their place at all: it takes the middle of the photo for the principal point,
keeps observations within 4 pixels and leaves out points that only two photos see. Once all photos have their place,
more can be asked of the cameras, and less of the points (docs/LOG.md, "Photos in").

Imports pycolmap: for `gns.sfm.worker` only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pycolmap

# Where the lens's axis meets the photo can hardly be told from where the camera points: it takes many photos.
PHOTOS_FOR_PRINCIPAL_POINT = 15
FARTHEST = 0.05  # of the longer side: farther from the middle is no principal point, but an adjustment astray
_LEAST_ANGLE = 1.5  # degrees between the rays to a point, as in COLMAP


def refined(
    model: Any, database: Path, images: Path, workspace: Path, *, principal_point: bool, threads: int, seed: int
) -> Any:
    """A reconstruction with better cameras and more points than `model`, a finished one, which may be changed.

    With `principal_point` each camera of at least `PHOTOS_FOR_PRINCIPAL_POINT` photos gets one. `workspace` is a folder
    for COLMAP's own files; `threads` 0 means all cores.
    """
    free = _cameras_of_many(model) if principal_point else set()
    if free:
        before = pycolmap.Reconstruction(model)
        _adjust(model, free, threads)
        if any(_off_the_middle(model.cameras[number]) > FARTHEST for number in free):
            model, free = before, set()
    error = _largest_error(model)
    options = pipeline_options(threads, seed)
    options.mapper.filter_max_reproj_error = error
    options.triangulation.complete_max_reproj_error = options.triangulation.merge_max_reproj_error = error
    options.triangulation.ignore_two_view_tracks = False
    workspace.mkdir(exist_ok=True)
    model = pycolmap.triangulate_points(model, database, images, workspace, clear_points=True, options=options)
    _adjust(model, free, threads)
    pycolmap.ObservationManager(model).filter_all_points3D(error, _LEAST_ANGLE)
    model.update_point_3d_errors()
    return model


def pipeline_options(threads: int, seed: int) -> Any:
    """COLMAP's options of mapping one by one, its defaults but for these; `threads` 0: all cores."""
    options = pycolmap.IncrementalPipelineOptions()
    options.num_threads = threads or -1
    options.random_seed = options.mapper.random_seed = options.triangulation.random_seed = seed
    return options


def _adjust(model: Any, free: set[int], threads: int) -> None:
    """Bundle adjustment of all photos; the principal points of the cameras in `free` move too.

    COLMAP frees all principal points or none: where some must stay, those cameras stay as they are altogether.
    """
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_principal_point = bool(free)
    options.print_summary = False
    options.ceres.solver_options.num_threads = threads or -1
    config = pycolmap.BundleAdjustmentConfig()
    for number in model.reg_image_ids():
        config.add_image(number)
    if free:
        for number in set(model.cameras) - free:
            config.set_constant_cam_intrinsics(number)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(options, config, model).solve()


def _cameras_of_many(model: Any) -> set[int]:
    numbers = [model.images[number].camera_id for number in model.reg_image_ids()]
    return {number for number in set(numbers) if numbers.count(number) >= PHOTOS_FOR_PRINCIPAL_POINT}


def _off_the_middle(camera: Any) -> float:
    """How far the principal point is from the middle of the photo, in longer sides of it."""
    away = camera.principal_point_x - camera.width / 2, camera.principal_point_y - camera.height / 2
    return math.hypot(*away) / float(max(camera.width, camera.height))


def _largest_error(model: Any) -> float:
    """Pixels within which a point must be seen: 2 in small photos and 4, as in COLMAP, in those of 2,000 and more."""
    longest = max(float(max(camera.width, camera.height)) for camera in model.cameras.values())
    return min(4.0, max(2.0, 0.002 * longest))
