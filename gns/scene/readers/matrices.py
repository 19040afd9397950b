"""Poses and cameras of `transforms*.json` that are not what the format means, recognised by their form."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gns.errors import UserError

_PANORAMAS = ("EQUIRECTANGULAR", "EQUIRECT", "SPHERICAL", "PANORAMA", "LATLONG", "ERP")


def refuse_panorama(model: object, where: str) -> None:
    """Raise UserError where the camera model `model` is a whole sphere; the sentence begins with `where`."""
    if isinstance(model, str) and model.upper().replace("-", "_").removesuffix("_PANORAMA") in _PANORAMAS:
        raise UserError(
            f"{where} {model}: a panorama of the whole sphere is no photo of a pinhole camera; cut "
            "it into perspective views first, as COLMAP's example panorama_sfm.py does"
        )


def refuse_transposed(matrix: npt.NDArray[np.float64], where: str) -> None:
    """Raise UserError where `matrix`, camera to world, has its translation in the last row; shapes as they come.

    Read as it stands, such a file has every camera at the origin. The sentence begins with `where`.
    """
    rows, columns = matrix.shape
    last_row, last_column = matrix[-1, :3], matrix[:3, -1]
    if (rows, columns) == (4, 3) or (rows == 4 and not np.any(last_column) and np.any(last_row)):
        raise UserError(
            f"{where} a transform_matrix that is transposed: its translation must be the last column, and its last row "
            "0 0 0 1; transpose all matrices of the file"
        )
    if rows == 4 and np.any(last_row):
        raise UserError(f"{where} a transform_matrix whose last row is not 0 0 0 1: it is no pose of a camera")
