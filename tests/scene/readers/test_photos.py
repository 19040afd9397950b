"""Photos are found under the names that other programs, systems and machines gave them; nothing outside is read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gns.errors import UserError
from gns.scene import Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.scene.readers.photos import parts_inside
from gns.testing.scene_files import SmallScene, small_scene, write_blender, write_colmap, write_nerfstudio

Rename = Callable[[str], str]


def read(folder: Path, options: SceneOptions | None = None, report: Callable[[str], None] = lambda line: None) -> Scene:
    return read_scene(folder, options or SceneOptions(eval=False), report)


def named(small: SmallScene, rename: Rename) -> SmallScene:
    """The scene with photos called otherwise."""
    return replace(small, cameras=[replace(camera, name=rename(camera.name)) for camera in small.cameras])


def assert_read(scene: Scene, small: SmallScene, names: list[str]) -> None:
    """Every photo with its own camera and pixels, and without a mask."""
    assert [view.camera.name for view in scene.train] == names
    for view, camera, image in zip(scene.train, small.cameras, small.images, strict=True):
        np.testing.assert_allclose(view.camera.world_to_camera, camera.world_to_camera, atol=1e-9)
        assert (view.image.numpy() == image).all()
        assert view.mask is None


# What the list of photos calls a photo, and what it is called in the folder images/.
SPELLINGS: dict[str, tuple[Rename, Rename]] = {
    "backslashes": (lambda name: f"left\\{name}", lambda name: f"left/{name}"),
    "backslashes in the file's own name": (lambda name: f"left\\{name}", lambda name: f"left\\{name}"),
    "backslashes in the file's own name only": (lambda name: f"left/{name}", lambda name: f"left\\{name}"),
    "upper case of the suffix": (lambda name: name, lambda name: name.replace("png", "PNG")),
    "lower case of the suffix": (lambda name: name.replace("png", "PNG"), lambda name: name),
    "upper case of the name": (lambda name: f"img{name}", lambda name: f"IMG{name}"),
    "another suffix": (lambda name: name.replace("png", "jpg"), lambda name: name),
    "another suffix in upper case": (lambda name: name.replace("png", "JPG"), lambda name: name.replace("png", "TIF")),
    "no suffix": (lambda name: name.replace(".png", ""), lambda name: name.replace("png", "tiff")),
    "images/ in front": (lambda name: f"images/{name}", lambda name: name),
    "images/ in front of folders": (lambda name: f"images/left/{name}", lambda name: f"left/{name}"),
    "a dot in front": (lambda name: f"./{name}", lambda name: name),
    "an absolute path": (lambda name: f"/home/someone/scene/images/{name}", lambda name: name),
    "an absolute path with folders": (lambda name: f"/data/x/images/left/{name}", lambda name: f"left/{name}"),
    "an absolute path of Windows": (lambda name: f"C:\\Users\\me\\{name}", lambda name: name),
    "a path out of the folder": (lambda name: f"../../elsewhere/{name}", lambda name: name),
    "a path out and in": (lambda name: f"../images/{name}", lambda name: name),
    "accents composed by macOS": (lambda name: f"é{name}", lambda name: f"e\u0301{name}"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
def test_colmap(tmp_path: Path, spelling: str, binary: bool) -> None:
    listed, on_disk = SPELLINGS[spelling]
    small = small_scene(count=3)
    folder = write_colmap(tmp_path, named(small, listed), binary=binary, photos=named(small, on_disk))
    lines: list[str] = []
    scene = read(folder, report=lines.append)
    assert_read(scene, small, [on_disk(camera.name) for camera in small.cameras])
    same = os.path.normpath(listed("00.png")) == on_disk("00.png")
    assert same != lines[0].startswith("3 of 3 photos are named otherwise in images.")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_nerfstudio(tmp_path: Path, spelling: str) -> None:
    listed, on_disk = SPELLINGS[spelling]
    small = small_scene(count=3)
    folder = write_nerfstudio(tmp_path, named(small, listed), prefix="", photos=named(small, on_disk))
    assert_read(read(folder), small, [f"images/{on_disk(camera.name)}" for camera in small.cameras])


@pytest.mark.parametrize("encoding", ["gb18030", "cp1252", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("same_bytes", [True, False])
def test_encodings(tmp_path: Path, encoding: str, same_bytes: bool) -> None:
    """The list was written on another system; the photos kept the bytes of their names, or were given right ones."""
    legacy = encoding in ("gb18030", "cp1252")
    name = {"gb18030": "照片{}", "cp1252": "café{}"}.get(encoding, "照片{}")
    small = small_scene(count=3)
    listed = named(small, name.format)
    folder = write_colmap(tmp_path, listed, binary=False)
    for file in ("cameras.txt", "images.txt", "points3D.txt"):
        path = folder / "sparse/0" / file
        path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    if legacy and same_bytes:
        for camera in listed.cameras:
            as_bytes = camera.name.encode(encoding).decode("utf-8", "surrogateescape")
            (folder / "images" / camera.name).rename(folder / "images" / as_bytes)
    assert_read(read(folder), small, [camera.name for camera in listed.cameras])


@pytest.mark.parametrize("encoding", ["gb18030", "cp1252"])
def test_encodings_in_binary_models(tmp_path: Path, encoding: str) -> None:
    name = {"gb18030": "照片{}", "cp1252": "café{}"}[encoding]
    small = small_scene(count=3)
    folder = write_colmap(tmp_path, named(small, name.format), encoding=encoding)
    assert_read(read(folder), small, [name.format(camera.name) for camera in small.cameras])


@pytest.mark.parametrize("suffix", [".webp", ".JPEG", ".tif", ".TIFF", ".bmp", ".Png"])
def test_suffix_left_out(tmp_path: Path, suffix: str) -> None:
    small = small_scene(count=3)
    folder = write_blender(tmp_path, small, test_count=1)
    for camera in small.cameras:
        for path in folder.glob(f"*/{camera.name}"):
            Image.open(path).save(path.with_suffix(suffix), lossless=True)
            path.unlink()
    scene = read(folder, SceneOptions(eval=True))
    assert [view.camera.name for view in scene.train] == [f"train/00{suffix}", f"train/01{suffix}"]
    if suffix != ".JPEG":
        assert (scene.train[1].image.numpy() == small.images[1]).all()


def test_photos_at_the_root(tmp_path: Path) -> None:
    small = small_scene(count=3)
    folder = write_nerfstudio(tmp_path / "transforms", small, photos=named(small, lambda name: f"../{name}"))
    assert_read(read(folder), small, ["00.png", "01.png", "02.png"])
    folder = write_colmap(tmp_path / "colmap", small, images=".")
    lines: list[str] = []
    assert_read(read(folder, report=lines.append), small, ["00.png", "01.png", "02.png"])
    assert lines[0] == f"photos in {folder}, as there is no folder images"
    assert_read(read(folder, SceneOptions(images=".", eval=False)), small, ["00.png", "01.png", "02.png"])
    (folder / "masks").mkdir()
    for camera in small.cameras:
        Image.new("L", (40, 30), 255).save(folder / "masks" / camera.name)
    assert all(view.mask is not None and view.mask.all() for view in read(folder).train)


def test_photos_in_images_although_listed_elsewhere(tmp_path: Path) -> None:
    small = small_scene(count=3)
    folder = write_nerfstudio(tmp_path, small, prefix="rgb/")
    assert_read(read(folder), small, [f"images/0{index}.png" for index in range(3)])


def test_a_photo_folder_that_is_not_used_is_told_of(tmp_path: Path) -> None:
    small = small_scene(count=3)
    folder = write_blender(tmp_path, small, test_count=0)
    lines: list[str] = []
    assert_read(
        read(folder, SceneOptions(images="images_2", eval=False), lines.append),
        small,
        ["train/00.png", "train/01.png", "train/02.png"],
    )
    assert lines[0] == "-i images_2 is not used: the photos that transforms_train.json lists are not in that folder"


def test_photos_in_another_folder_are_pointed_at(tmp_path: Path) -> None:
    small = small_scene(count=3)
    folder = write_nerfstudio(tmp_path / "transforms", small)
    (folder / "images").rename(folder / "frames")
    with pytest.raises(UserError, match=r"images/00\.png \(and 2 more of 3\), .*frames has it: give .* -i frames"):
        read(folder)
    assert_read(read(folder, SceneOptions(images="frames", eval=False)), small, [f"frames/0{i}.png" for i in range(3)])
    folder = write_colmap(tmp_path / "colmap", small)
    (folder / "images").rename(folder / "images_2")
    shutil.copytree(folder / "images_2", folder / "images_4")
    with pytest.raises(UserError, match=r"images does not exist: the photos are in images_2, images_4: name the right"):
        read(folder)
    (folder / "images").mkdir()
    with pytest.raises(UserError, match=r"images/00\.png \(and 2 more of 3\), .*images_2 has it: give .*-i images_2"):
        read(folder)


def test_no_photo_outside_is_read_unless_its_folder_is_given(tmp_path: Path) -> None:
    small = small_scene(count=3)
    scene, outside = tmp_path / "scene", tmp_path / "photos"
    for prefix in ("../photos/", f"{outside}/"):
        for write in (write_colmap, write_nerfstudio):
            shutil.rmtree(scene, ignore_errors=True)
            extra = {} if write is write_colmap else {"prefix": ""}
            write(scene, named(small, lambda name, prefix=prefix: prefix + name), photos=small, **extra)  # type: ignore
            shutil.rmtree(outside, ignore_errors=True)
            (scene / "images").rename(outside)
            (scene / "images").mkdir()
            with pytest.raises(UserError, match=r"00\.png \(and 2 more of 3\), listed in .*lies outside the scene"):
                read(scene)
            for given in ("../photos", str(outside)):
                found = read(scene, SceneOptions(images=given, eval=False))
                assert_read(found, small, ["00.png", "01.png", "02.png"])


def test_a_photo_does_not_stand_in_for_another(tmp_path: Path) -> None:
    """`b/00.png` is missing, and `00.png`, which has a pose of its own, is not it."""
    small = small_scene(count=3)
    cameras = [*small.cameras[:2], replace(small.cameras[2], name="b/00.png")]
    folder = write_colmap(tmp_path, replace(small, cameras=cameras))
    (folder / "images/b/00.png").unlink()
    with pytest.raises(UserError, match=r"images/b/00\.png, listed in .* does not exist: restore it"):
        read(folder)


def test_several_photos_for_one_name(tmp_path: Path) -> None:
    small = small_scene(count=3)
    folder = write_colmap(tmp_path, named(small, lambda name: name.replace("png", "jpg")), photos=small)
    Image.fromarray(small.images[1]).save(folder / "images/00.tif")
    with pytest.raises(UserError, match=r"both 00\.(png|tif) and 00\.(png|tif) for the listed 00\.jpg: keep one"):
        read(folder)


@pytest.mark.parametrize(
    "name", ["x" * 5000, "a/" * 3000 + "b.jpg", "/", "..", "../..", "C:\\", "\n.jpg", "\udcff\udcfe"]
)
def test_names_of_nothing_are_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    small = small_scene(count=1)
    folder = write_colmap(tmp_path / "colmap", named(small, "{}".format), photos=small)
    path = folder / "sparse/0/images.bin"
    path.write_bytes(path.read_bytes().replace(b"00.png", name.encode("utf-8", "surrogateescape")))
    with pytest.raises(UserError, match=r"images\.bin"):
        read(folder)
    folder = write_nerfstudio(tmp_path / "transforms", small)
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][0]["file_path"] = name
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"transforms\.json"):
        read(folder)


def test_photos_without_a_pose_are_reported(tmp_path: Path) -> None:
    small = small_scene(count=6)
    part = SmallScene(small.cameras[:4], small.images[:4], small.points)
    for folder in (
        write_colmap(tmp_path / "colmap", part, photos=small),
        write_nerfstudio(tmp_path / "transforms", part, photos=small),
    ):
        lines: list[str] = []
        assert len(read(folder, report=lines.append).train) == 4
        assert "2 of 6 photos in" in lines[0] and lines[0].endswith("are not used (04.png, 05.png)")


def test_git_lfs_pointers(tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"
    for file in ("images/01.png", "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin"):
        folder = write_colmap(tmp_path / file.replace("/", "-"), small_scene(count=3))
        (folder / file).write_text(pointer)
        with pytest.raises(UserError, match=rf"^\S*{file} is a Git LFS pointer in place of the file: run git lfs pull"):
            read(folder)
    for file in ("images/01.png", "transforms.json", "points.ply"):
        folder = write_nerfstudio(tmp_path / ("n" + file.replace("/", "-")), small_scene(count=3))
        content = json.loads((folder / "transforms.json").read_text())
        for frame in content["frames"]:
            del frame["w"], frame["h"]  # the size is then read from the photo
        (folder / "transforms.json").write_text(json.dumps(content))
        (folder / file).write_text(pointer)
        with pytest.raises(UserError, match=rf"{file} is a Git LFS pointer in place of the file: run git lfs pull"):
            read(folder)


def test_hidden_files_and_loops_of_links(tmp_path: Path) -> None:
    small = small_scene(count=3)
    folder = write_colmap(tmp_path, named(small, str.upper), photos=small)
    (folder / "images/._00.png").write_bytes(b"what macOS leaves behind")
    (folder / "images/loop").symlink_to(folder / "images", target_is_directory=True)
    assert_read(read(folder), small, ["00.png", "01.png", "02.png"])


@pytest.mark.parametrize(
    ("name", "parts", "outside"),
    [
        ("a/b.jpg", ("a", "b.jpg"), False),
        ("./a//b.jpg", ("a", "b.jpg"), False),
        ("a/../b.jpg", ("b.jpg",), False),
        ("a/../../b.jpg", ("b.jpg",), True),
        ("/a/b.jpg", ("a", "b.jpg"), True),
        ("D:\\a\\b.jpg", ("a", "b.jpg"), True),
        ("D:b.jpg", ("b.jpg",), True),
        ("\\\\server\\share\\b.jpg", ("server", "share", "b.jpg"), True),
        ("file:///a/b.jpg", ("a", "b.jpg"), True),
        ("..", (), True),
    ],
)
def test_parts(name: str, parts: tuple[str, ...], outside: bool) -> None:
    assert parts_inside(name) == (parts, outside)
