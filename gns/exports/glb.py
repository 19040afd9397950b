"""glTF with the extension KHR_gaussian_splatting, as one binary file: all values in float32, y up."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.exports.packing import Columns, opacity_bytes, read_whole
from gns.scene.gaussians import SH_C0, Gaussians
from gns.utils.atomic_files import write_bytes

_EXTENSION = "KHR_gaussian_splatting"
_MAGIC, _JSON, _BINARY = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _BYTE, _ARRAY_BUFFER, _POINTS = 5126, 5121, 34962, 0
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_Y_UP = (-1, -1, 1)  # glTF's y points up, that of 3DGS models down


def save_glb(gaussians: Gaussians, path: Path) -> None:
    """Write the model, turned by 180° about z. Raises UserError where a value is not finite or `path` not writable.

    Programs that do not know the extension draw coloured points. A model too far from the origin for float32 is written
    relative to its frame's offset.
    """
    columns = Columns.of(gaussians, path).turned(*_Y_UP)
    arrays = _attributes(columns)
    views, accessors, start = list[dict[str, Any]](), list[dict[str, Any]](), 0
    for index, (name, values) in enumerate(arrays.items()):
        views.append({"buffer": 0, "byteOffset": start, "byteLength": values.nbytes, "target": _ARRAY_BUFFER})
        accessors.append(_accessor(index, name, values))
        start += values.nbytes
    primitive = {
        "attributes": {name: index for index, name in enumerate(arrays)},
        "mode": _POINTS,
        "extensions": {
            _EXTENSION: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "sortingMethod": "cameraDistance",
                "projection": "perspective",
            }
        },
    }
    document = {
        "asset": {"version": "2.0", "generator": "gns"},
        "extensionsUsed": [_EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "buffers": [{"byteLength": start}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<IIIII", _MAGIC, 2, 28 + len(text) + start, len(text), _JSON)
    body = b"".join(values.tobytes() for values in arrays.values())
    write_bytes(path, head + text + struct.pack("<II", start, _BINARY) + body)


def load_glb(path: Path) -> Gaussians:
    """Read the first primitive of such a file, with floats and no compression, as `save_glb` writes it.

    Raises UserError where it is missing, damaged or holds something else.
    """
    content = read_whole(path)
    try:
        magic, _, _, length, _ = struct.unpack_from("<IIIII", content)
        document = json.loads(content[20 : 20 + length])
        attributes = document["meshes"][0]["primitives"][0]["attributes"]
        arrays = {
            name: _read(document, content[28 + length :], index)
            for name, index in attributes.items()
            if name == "POSITION" or name.startswith(_EXTENSION)
        }
        if magic != _MAGIC:
            raise ValueError("it is no glTF")
        rest = [
            arrays[f"{_EXTENSION}:SH_DEGREE_{degree}_COEF_{index}"]
            for degree in range(1, 4)
            for index in range(2 * degree + 1)
            if f"{_EXTENSION}:SH_DEGREE_{degree}_COEF_{index}" in arrays
        ]
        count = len(arrays["POSITION"])
        return (
            Columns(
                means=arrays["POSITION"],
                log_scales=np.log(arrays[f"{_EXTENSION}:SCALE"]),
                quats=np.roll(arrays[f"{_EXTENSION}:ROTATION"], 1, axis=1),
                opacities=arrays[f"{_EXTENSION}:OPACITY"][:, 0],
                sh_dc=arrays[f"{_EXTENSION}:SH_DEGREE_0_COEF_0"],
                sh_rest=np.stack(rest, axis=1) if rest else np.zeros((count, 0, 3), np.float32),
            )
            .turned(*_Y_UP)
            .gaussians()
        )
    except (struct.error, ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged, or no glTF of Gaussians in float32 ({error})") from None


def _attributes(columns: Columns) -> dict[str, npt.NDArray[Any]]:
    """The vertex attributes by name, in their order in the file; all have rows of a multiple of four bytes."""
    colors = np.rint(255 * (0.5 + SH_C0 * columns.sh_dc)).clip(0, 255).astype(np.uint8)
    limit = np.finfo(np.float32).eps / 2  # an opacity of exactly 1 has no logit
    rest = {
        f"{_EXTENSION}:SH_DEGREE_{degree}_COEF_{index}": columns.sh_rest[:, degree**2 - 1 + index]
        for degree in range(1, columns.sh_degree + 1)
        for index in range(2 * degree + 1)
    }
    floats = {
        f"{_EXTENSION}:ROTATION": np.roll(columns.quats, -1, axis=1),  # x, y, z, w
        f"{_EXTENSION}:SCALE": np.exp(columns.log_scales),
        f"{_EXTENSION}:OPACITY": columns.opacities.clip(limit, 1 - limit)[:, None],
        f"{_EXTENSION}:SH_DEGREE_0_COEF_0": columns.sh_dc,
        **rest,
    }
    return {
        "POSITION": columns.means.astype("<f4"),
        "COLOR_0": np.concatenate([colors, opacity_bytes(columns.opacities)[:, None]], axis=1),
        **{name: np.ascontiguousarray(values, "<f4") for name, values in floats.items()},
    }


def _accessor(view: int, name: str, values: npt.NDArray[Any]) -> dict[str, Any]:
    kind = next(kind for kind, width in _WIDTHS.items() if width == values.shape[1])
    is_float = values.dtype == np.float32
    accessor = {"bufferView": view, "componentType": _FLOAT if is_float else _BYTE, "count": len(values), "type": kind}
    if not is_float:
        accessor["normalized"] = True
    if name == "POSITION" and len(values):  # the only one for which glTF wants the range
        accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
    return accessor


def _read(document: Any, body: bytes, index: int) -> npt.NDArray[np.float32]:
    """The values of an accessor, [N, width]. Raises ValueError, KeyError or IndexError where they are not there."""
    accessor = document["accessors"][index]
    if accessor["componentType"] != _FLOAT:
        raise ValueError("its values are not float32")
    width, view = _WIDTHS[accessor["type"]], document["bufferViews"][accessor["bufferView"]]
    count, start = int(accessor["count"]), int(view.get("byteOffset", 0)) + int(accessor.get("byteOffset", 0))
    return np.frombuffer(body, "<f4", count * width, start).reshape(count, width).astype(np.float32)
