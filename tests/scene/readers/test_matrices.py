"""Transposed matrices and panoramas are recognised and refused, whatever their values; poses pass."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gns.errors import UserError
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.readers.matrices import refuse_panorama, refuse_transposed
from gns.testing.scene_files import opengl_pose, small_scene, write_nerfstudio

POSE = np.array(opengl_pose(small_scene().cameras[3]))


@pytest.mark.parametrize("matrix", [POSE, POSE[:3], 2 * POSE, np.eye(4), np.eye(4)[:3], np.diag([1.0, 1, 1, 0])])
def test_poses_pass(matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    refuse_transposed(matrix, "a.json gives the photo b")


@pytest.mark.parametrize("matrix", [POSE.T, POSE[:3].T, 2 * POSE.T])
def test_transposed_matrices_are_refused(matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    with pytest.raises(
        UserError, match=r"^a\.json gives the photo b a transform_matrix that is transposed: .*last column"
    ):
        refuse_transposed(matrix, "a.json gives the photo b")


def test_matrices_that_are_no_poses_are_refused() -> None:
    matrix = POSE.copy()
    matrix[3, 1] = 0.2
    with pytest.raises(UserError, match="last row is not 0 0 0 1"):
        refuse_transposed(matrix, "a.json gives the photo b")


@pytest.mark.parametrize("rows", [4, 3])
def test_a_file_of_transposed_matrices_is_refused(tmp_path: Path, rows: int) -> None:
    listing = write_nerfstudio(tmp_path, small_scene()) / "transforms.json"
    content = json.loads(listing.read_text())
    for frame in content["frames"]:
        frame["transform_matrix"] = np.array(frame["transform_matrix"])[:rows].T.tolist()
    listing.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"transforms\.json gives the photo images/00\.png .* transposed"):
        read_scene(tmp_path, SceneOptions(), report=lambda line: None)


@pytest.mark.parametrize(
    "model",
    [
        "EQUIRECTANGULAR",
        "equirectangular",
        "Equirect",
        "spherical",
        "SPHERICAL",
        "panorama",
        "equirectangular-panorama",
    ],
)
def test_panoramas_are_refused(model: str) -> None:
    with pytest.raises(UserError, match=f"^a has the model {model}: a panorama .* cut it into perspective views"):
        refuse_panorama(model, "a has the model")


@pytest.mark.parametrize("model", ["OPENCV", "PINHOLE", "OPENCV_FISHEYE", "SIMPLE_RADIAL", "", None, 3])
def test_other_models_pass(model: object) -> None:
    refuse_panorama(model, "a has the model")
