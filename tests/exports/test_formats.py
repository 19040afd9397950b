"""What every format loses, and what it must not: rotations, harmonics, the order of colours."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import gns
from gns.errors import UserError
from gns.exports import EXPORTS, LOADERS, export, load
from gns.exports.packing import Columns, from_smallest_three, morton_order, smallest_three
from gns.exports.sog import palette_size
from gns.gaussian_renderer import render
from gns.scene import Camera, Gaussians
from gns.scene.frame import LocalFrame
from gns.testing.examples import camera_at, gaussians_seen, random_gaussians

CAMERA = camera_at(64, 48, seed=3)
# dB of the picture of what was read again, on these Gaussians, which are harder to pack than those of a photo.
LOSSES = {
    ".ply": 90.0,
    ".glb": 90.0,
    ".compressed.ply": 37.0,
    ".spz": 33.0,
    ".html": 36.0,
    ".sog": 35.0,
}


def model(count: int = 600, sh_degree: int = 3) -> Gaussians:
    """Gaussians that fill the view of `CAMERA`, with colours as a trained model has them."""
    seen = gaussians_seen(CAMERA, count, sh_degree=sh_degree, seed=1)
    values = Gaussians(*(tensor.float() for _, tensor in seen.named_tensors()))
    return replace(values, sh_dc=values.sh_dc.clamp(-3, 3), sh_rest=(0.25 * values.sh_rest).clamp(-0.9, 0.9))


def picture(gaussians: Gaussians, camera: Camera = CAMERA) -> Tensor:
    return render(camera, gaussians, torch.tensor([0.2, 0.3, 0.1])).image.clamp(0, 1)


def decibels(first: Tensor, second: Tensor) -> float:
    return -10 * float(torch.log10(((first.double() - second.double()) ** 2).mean() + 1e-12))


def again(gaussians: Gaussians, ending: str, folder: Path) -> Gaussians:
    path = folder / f"model{ending}"
    export(gaussians, path)
    return load(path)


@pytest.mark.parametrize("ending", LOSSES)
@pytest.mark.parametrize("sh_degree", [3, 1])
def test_what_was_written_looks_like_the_model(ending: str, sh_degree: int, tmp_path: Path) -> None:
    gaussians = model(sh_degree=sh_degree)
    read = again(gaussians, ending, tmp_path)
    assert len(read) == len(gaussians) and read.sh_degree == sh_degree
    assert decibels(picture(read), picture(gaussians)) > LOSSES[ending]


@pytest.mark.parametrize("ending", LOSSES)
def test_the_usual_mistakes_would_show(ending: str, tmp_path: Path) -> None:
    gaussians, truth = model(), picture(model())
    rolled = replace(gaussians, quats=gaussians.quats.roll(-1, dims=1))
    mixed = replace(gaussians, sh_rest=gaussians.sh_rest.reshape(-1, 3, 15).transpose(1, 2))
    swapped = replace(gaussians, sh_dc=gaussians.sh_dc.flip(2))
    for mistake in (rolled, mixed, swapped):
        assert decibels(picture(again(mistake, ending, tmp_path)), truth) < LOSSES[ending] - 3


def test_splat_has_all_but_the_harmonics(tmp_path: Path) -> None:
    gaussians = model(sh_degree=0)
    read = again(gaussians, ".splat", tmp_path)
    # Its rotations have bytes: the picture is what eight bits can give.
    assert decibels(picture(read), picture(gaussians)) > 33
    assert again(model(), ".splat", tmp_path).sh_degree == 0


@pytest.mark.parametrize("ending", EXPORTS)
@pytest.mark.parametrize("count", [0, 1, 257])
def test_any_number_of_gaussians(ending: str, count: int, tmp_path: Path) -> None:
    assert len(again(random_gaussians(count, 1), ending, tmp_path)) == count


@pytest.mark.parametrize("ending", EXPORTS)
def test_opacities_stay_finite_and_the_same_model_gives_the_same_bytes(ending: str, tmp_path: Path) -> None:
    gaussians = random_gaussians(30, 2)
    gaussians.opacity_logits[:2] = torch.tensor([40.0, -40.0])
    assert torch.isfinite(again(gaussians, ending, tmp_path).opacity_logits).all()
    first = (tmp_path / f"model{ending}").read_bytes()
    export(gaussians, tmp_path / f"model{ending}")
    assert (tmp_path / f"model{ending}").read_bytes() == first


@pytest.mark.parametrize("ending", EXPORTS)
def test_what_is_not_finite_is_not_written(ending: str, tmp_path: Path) -> None:
    gaussians = random_gaussians(5, 1)
    gaussians.sh_dc[3] = torch.nan
    if ending != ".splat":  # 8 bits hold no NaN
        with pytest.raises(UserError, match="not written"):
            export(gaussians, tmp_path / f"model{ending}")


@pytest.mark.parametrize("ending", LOADERS)
def test_damage_is_a_sentence(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    export(random_gaussians(300, 1), path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 4], content[:10], b"", b"nonsense"):
        if ending == ".splat" and len(damaged) % 32 == 0:  # nothing in it tells
            continue
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model"):
            load(path)
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path / f"missing{ending}")


def test_the_longest_ending_decides_in_any_case(tmp_path: Path) -> None:
    export(random_gaussians(3, 1), tmp_path / "A.Compressed.PLY")
    assert b"packed_position" in (tmp_path / "A.Compressed.PLY").read_bytes()
    assert len(gns.load(tmp_path / "A.Compressed.PLY")) == 3
    with pytest.raises(UserError, match="read from"):
        load(tmp_path / "model.obj")


# Bytes worked out by hand


def one() -> Gaussians:
    """At (1, −2, 0.5), turned by 90° about x, half opaque, red."""
    return Gaussians(
        means=torch.tensor([[1.0, -2.0, 0.5]]),
        log_scales=torch.tensor([[-2.0, -3.0, -4.0]]),
        quats=torch.tensor([[1.0, 1.0, 0.0, 0.0]]),
        opacity_logits=torch.tensor([0.0]),
        sh_dc=torch.tensor([[[2.0, 0.0, -1.0]]]),
        sh_rest=torch.tensor([[[0.5, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, -0.5]]]),
    )


def test_bytes_of_spz(tmp_path: Path) -> None:
    export(one(), tmp_path / "one.spz")
    data = gzip.decompress((tmp_path / "one.spz").read_bytes())
    magic, version, count, degree, fraction, flags, _ = struct.unpack("<IIIBBBB", data[:16])
    assert (magic, version, count, degree, flags) == (0x5053474E, 3, 1, 1, 0)
    means = [int.from_bytes(data[16 + 3 * axis : 19 + 3 * axis], "little", signed=True) for axis in range(3)]
    assert np.array_equal(np.array(means) / 2.0**fraction, [1, 2, -0.5])  # y and z turned
    assert data[25] == 128
    assert list(data[26:29]) == [204, 128, 89]  # 255 (0.15 dc + 0.5)
    assert list(data[29:32]) == [128, 112, 96]  # 16 (s + 10)
    # x = w = √½: x, the first, counts as the largest; y, z are 0 and w = 511/511 of √½.
    assert int.from_bytes(data[32:36], "little") == 0 << 30 | 511
    # Harmonics y, z, x in all colours; y and z change their signs with the axes.
    assert list(data[36:45]) == [64, 128, 128, 128, 96, 128, 128, 128, 64]
    assert len(data) == 45


def test_bytes_of_compressed_ply(tmp_path: Path) -> None:
    export(one(), tmp_path / "one.compressed.ply")
    header, body = (tmp_path / "one.compressed.ply").read_bytes().split(b"end_header\n")
    assert b"element chunk 1" in header and b"element vertex 1" in header and b"element sh 1" in header
    ranges = np.frombuffer(body[:72], "<f4")
    color = (0.5 + 0.28209479177387814 * np.array([2.0, 0.0, -1.0])).tolist()
    assert ranges.tolist() == pytest.approx([1, -2, 0.5] * 2 + [-2, -3, -4] * 2 + color * 2)
    position, rotation, scale, rgba = np.frombuffer(body[72:88], "<u4").tolist()
    assert (position, scale, rgba) == (0, 0, 128)
    # w, the first, counts as the largest; x is √½, so at the end of its range, and y, z are in the middle of theirs.
    assert rotation == 0 << 30 | 1023 << 20 | 512 << 10 | 512
    # All of red, then of green, then of blue: (v / 8 + 0.5) · 256.
    assert list(body[88:]) == [144, 128, 128, 128, 136, 128, 128, 128, 112]


def test_glb_is_gltf_with_y_up(tmp_path: Path) -> None:
    export(one(), tmp_path / "one.glb")
    content = (tmp_path / "one.glb").read_bytes()
    magic, version, length, text, kind = struct.unpack_from("<IIIII", content)
    assert (magic, version, length, kind) == (0x46546C67, 2, len(content), 0x4E4F534A) and text % 4 == 0
    document = json.loads(content[20 : 20 + text])
    primitive = document["meshes"][0]["primitives"][0]
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    assert position["min"] == position["max"] == [-1, 2, 0.5]
    rotation = document["bufferViews"][primitive["attributes"]["KHR_gaussian_splatting:ROTATION"]]
    start = 28 + text + rotation["byteOffset"]
    half = 0.5**0.5
    assert struct.unpack_from("<4f", content, start) == pytest.approx([-half, 0, 0, half])
    assert struct.unpack_from("<II", content, 20 + text) == (document["buffers"][0]["byteLength"], 0x004E4942)


def test_sog_is_a_zip_of_pictures(tmp_path: Path) -> None:
    export(model(), tmp_path / "model.sog")
    with zipfile.ZipFile(tmp_path / "model.sog") as archive:
        meta = json.loads(archive.read("meta.json"))
        named = {name for part in meta.values() if isinstance(part, dict) for name in part.get("files", [])}
        assert named | {"meta.json"} == set(archive.namelist())
    assert meta["version"] == 2 and meta["count"] == 600 and meta["shN"]["bands"] == 3
    assert len(meta["scales"]["codebook"]) == len(meta["sh0"]["codebook"]) == 256
    assert (palette_size(600), palette_size(12_000), palette_size(10**6)) == (512, 8192, 65536)


# Parts


@pytest.mark.parametrize("signs", [(1, -1, -1), (-1, -1, 1)])
def test_a_turned_model_seen_by_a_turned_camera_looks_the_same(signs: tuple[int, int, int], tmp_path: Path) -> None:
    gaussians = model()
    turned = Columns.of(gaussians, tmp_path).turned(*signs).gaussians()
    pose = CAMERA.world_to_camera @ np.diag([*signs, 1.0])
    truth, camera = picture(gaussians), replace(CAMERA, world_to_camera=pose)
    assert decibels(picture(turned, camera), truth) > 90
    unturned_harmonics = replace(turned, sh_rest=gaussians.sh_rest)
    assert decibels(picture(unturned_harmonics, camera), truth) < 40


def test_smallest_three_gives_back_the_rotation() -> None:
    quats = torch.nn.functional.normalize(random_gaussians(100).quats, dim=1).numpy()
    found = from_smallest_three(*smallest_three(quats))
    assert np.abs((quats * found).sum(axis=1)) == pytest.approx(np.ones(100), abs=1e-6)


def test_neighbours_come_together_in_morton_order() -> None:
    means = np.stack(np.meshgrid(*[np.arange(8.0)] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    means = means[np.random.default_rng(0).permutation(len(means))]
    ordered = means[morton_order(means)]
    assert np.abs(np.diff(ordered, axis=0)).sum(axis=1).mean() < 2.5  # 8 in a random order
    for corner in range(0, 512, 64):  # every eighth is one of the cube's eight parts
        assert np.ptp(ordered[corner : corner + 64], axis=0).tolist() == [3, 3, 3]


# Where models lie


@pytest.mark.parametrize("scale", [2.0**-12, 2.0**12])
def test_a_page_holds_models_of_all_sizes_and_places(scale: float, tmp_path: Path) -> None:
    frame = LocalFrame((4096.0, -8192.0, 1024.0), scale) if scale < 1 else LocalFrame(scale=1.0)
    small = model()
    moved = (
        small.in_world(frame)
        if scale < 1
        else replace(small, means=scale * small.means, log_scales=small.log_scales + np.log(scale))
    )
    read = again(moved, ".html", tmp_path)
    pose = CAMERA.world_to_camera.copy()
    if scale < 1:
        pose[:3, 3] = scale * pose[:3, 3] - pose[:3, :3] @ np.array(frame.offset)
    else:
        pose[:3, 3] *= scale
    camera = replace(CAMERA, world_to_camera=pose)
    shown = replace(read, frame=moved.frame)
    assert decibels(picture(shown, camera), picture(small)) > LOSSES[".html"] - 1


def test_spz_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    gaussians = random_gaussians(50, 1)
    with pytest.raises(UserError, match=r"4\.5e-5 to 380"):
        export(replace(gaussians, log_scales=gaussians.log_scales - 15), tmp_path / "model.spz")
    with pytest.raises(UserError, match=r"4\.5e-5 to 380"):
        export(replace(gaussians, log_scales=gaussians.log_scales + 15), tmp_path / "model.spz")


def test_spz_of_version_2_is_read(tmp_path: Path) -> None:
    header = struct.pack("<IIIBBBB", 0x5053474E, 2, 1, 0, 12, 0, 0)
    body = (4096).to_bytes(3, "little") + (-4096 & 0xFFFFFF).to_bytes(3, "little") + bytes(3)
    body += bytes([128, 128, 128, 128, 160, 160, 160, 255, 128, 128])
    (tmp_path / "old.spz").write_bytes(gzip.compress(header + body))
    read = load(tmp_path / "old.spz")
    assert read.means.tolist() == [[1, 1, 0]]
    assert read.quats[0].tolist() == pytest.approx([0, 1, 0, 0], abs=0.01)
    assert read.log_scales.tolist() == [[0, 0, 0]]
    (tmp_path / "new.spz").write_bytes(gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 4, 0, 0, 12, 0, 0)))
    with pytest.raises(UserError, match="version 2 or 3"):
        load(tmp_path / "new.spz")
