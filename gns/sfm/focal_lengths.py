"""Focal lengths for the global mapper, from small incremental reconstructions.

The global mapper takes the rotation between every two photos from their matches alone, and needs the focal length for
that. Where EXIF tells none, COLMAP guesses from pairs of photos, which fails where most show something flat: photos of
a wall, with a focal length wrong by 60 %, came out as rubbish (docs/LOG.md, "Photos in"). The incremental mapper finds
it from a few photos.

Imports pycolmap: for `gns.sfm.worker` only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pycolmap

from gns.sfm.pairs import well_connected

ENOUGH = 20  # photos of a camera from which its focal length is found


def note_focal_lengths(database: Path, images: Path, workspace: Path, options: Any, verification: Any) -> None:
    """Write the focal length of each camera that has none from EXIF into the database, and verify its matches anew.

    `options` (pycolmap.IncrementalPipelineOptions) are those of the small reconstructions, `verification`
    (pycolmap.TwoViewGeometryOptions) those of the matches; `workspace` is a folder for COLMAP's own files. Cameras
    whose photos do not come together are guessed by COLMAP.
    """
    with pycolmap.Database.open(database) as opened:
        unknown = [camera for camera in opened.read_all_cameras() if not camera.has_prior_focal_length]
        photos = {image.image_id: image for image in opened.read_all_images()}
        matches = _matches(opened)
    if not unknown:
        return
    for camera in unknown:
        own = {number for number, image in photos.items() if image.camera_id == camera.camera_id}
        options.image_names = [photos[number].name for number in well_connected(matches, own, ENOUGH)]
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        found = pycolmap.incremental_mapping(database, images, workspace, options).values() if own else []
        if found:
            largest = max(found, key=lambda model: model.num_reg_images())
            camera.params = largest.cameras[camera.camera_id].params
            camera.has_prior_focal_length = True
            with pycolmap.Database.open(database) as opened:
                opened.update_camera(camera)
    shutil.rmtree(workspace, ignore_errors=True)
    pairs = database.with_name("verified.txt")
    with pycolmap.Database.open(database) as opened:
        opened.clear_two_view_geometries()
    lines = [f"{photos[first].name} {photos[second].name}" for first, second in matches]
    pairs.write_text("\n".join(lines), encoding="utf-8")
    pycolmap.verify_matches(database, pairs, verification)
    pycolmap.calibrate_view_graph(database)  # which leaves alone what is known


def _matches(database: Any) -> dict[tuple[int, int], int]:
    """How many verified matches each pair of photos has."""
    numbers, geometries = database.read_two_view_geometries()
    pairs = [pycolmap.pair_id_to_image_pair(number) for number in numbers]
    return {
        (int(first), int(second)): len(geometry.inlier_matches)
        for (first, second), geometry in zip(pairs, geometries, strict=True)
    }
