"""COLMAP scenes: what is read is what was written, and what is damaged is refused with a sentence."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gns.errors import UserError
from gns.scene import Camera, Scene
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import SmallScene, small_scene, write_colmap
from gns.utils.undistortion import MODELS, Lens, undistort, undistorted_lens

FOX = Path(__file__).parents[3] / "../shared/data/fox480"


def read(folder: Path, options: SceneOptions | None = None) -> Scene:
    return read_scene(folder, options or SceneOptions(), report=lambda line: None)


def assert_same_camera(camera: Camera, expected: Camera) -> None:
    assert (camera.name, camera.width, camera.height) == (expected.name, expected.width, expected.height)
    actual = [camera.fx, camera.fy, camera.cx, camera.cy]
    np.testing.assert_allclose(actual, [expected.fx, expected.fy, expected.cx, expected.cy], rtol=1e-12)
    np.testing.assert_allclose(camera.world_to_camera, expected.world_to_camera, atol=1e-12)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "text"])
@pytest.mark.parametrize("sparse", ["sparse/0", "sparse"])
def test_round_trip(tmp_path: Path, binary: bool, sparse: str) -> None:
    small = small_scene()
    scene = read(write_colmap(tmp_path, small, binary=binary, sparse=sparse))
    assert [view.camera.name for view in scene.test] == ["00.png", "08.png"]
    assert [view.camera.name for view in scene.train] == [f"0{index}.png" for index in range(1, 8)]
    for view in (*scene.train, *scene.test):
        index = int(view.camera.name[:2])
        assert_same_camera(view.camera, small.cameras[index])
        assert (view.image.numpy() == small.images[index]).all()
        assert view.mask is None
    np.testing.assert_array_equal(scene.points.positions, small.points.positions)
    np.testing.assert_array_equal(scene.points.colors, small.points.colors)


def test_names_with_folders_and_spaces(tmp_path: Path) -> None:
    small = small_scene(count=3)
    names = ["b/one.png", "a/two words.png", "b.png"]
    cameras = [replace(camera, name=name) for camera, name in zip(small.cameras, names, strict=True)]
    folder = write_colmap(tmp_path, SmallScene(cameras, small.images, small.points), binary=False)
    scene = read(folder, SceneOptions(eval=False))
    assert [view.camera.name for view in scene.train] == ["a/two words.png", "b.png", "b/one.png"]
    assert_same_camera(scene.train[0].camera, cameras[1])


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("SIMPLE_PINHOLE", "PINHOLE")])
def test_distorted_cameras_never_stay_as_they_are(tmp_path: Path, model: str) -> None:
    small = small_scene(count=2, width=64, height=48)
    count = len(MODELS[model].coefficient_names)
    coefficients = (0.5, 1.1) if model == "EUCM" else (0.7,) if model == "FOV" else (-0.1,) * count
    folder = write_colmap(tmp_path, small, model=model, coefficients=coefficients)
    view = read(folder, SceneOptions(eval=False)).train[0]
    camera = small.cameras[0]
    lens = Lens(model, 64, 48, camera.fx, camera.fy, camera.cx, camera.cy, coefficients)
    expected = undistorted_lens(lens)
    assert (view.camera.width, view.camera.height) == (expected.width, expected.height) != (64, 48)
    assert (view.camera.cx, view.camera.cy) == (expected.cx, expected.cy)
    assert (view.image.numpy() == undistort(small.images[0], lens)).all()


def test_zero_distortion_leaves_pixels_alone(tmp_path: Path) -> None:
    small = small_scene(count=2)
    folder = write_colmap(tmp_path, small, model="OPENCV", coefficients=(0, 0, 0, 0))
    view = read(folder).train[0]
    assert (view.image.numpy() == small.images[1]).all()
    assert_same_camera(view.camera, small.cameras[1])


def test_world_points_land_on_their_pixels_after_undistortion(tmp_path: Path) -> None:
    """A dot is drawn where the distorting lens sees a world point; the pinhole view must show it where it projects."""
    small = small_scene(count=2, width=160, height=120)
    camera = small.cameras[1]
    coefficients = (-0.2, 0.05, 0.003, -0.002)
    lens = Lens("OPENCV", 160, 120, camera.fx, camera.fy, camera.cx, camera.cy, coefficients)
    point = np.array([0.7, 0.5, 0.2])
    x, y, z = camera.rotation @ point + camera.translation
    u, v = lens.project(np.array([x / z]), np.array([y / z]))
    columns, rows = np.meshgrid(np.arange(160) + 0.5, np.arange(120) + 0.5)
    dot = (255 * np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 8)).astype(np.uint8)
    images = [small.images[0], np.repeat(dot[:, :, None], 3, axis=2)]
    folder = write_colmap(
        tmp_path, SmallScene(small.cameras, images, small.points), model="OPENCV", coefficients=coefficients
    )
    view = read(folder).train[0]
    seen = view.camera
    weights = view.image[:, :, 0].double().numpy()
    weights /= weights.sum()
    columns, rows = np.meshgrid(np.arange(seen.width) + 0.5, np.arange(seen.height) + 0.5)
    assert (weights * columns).sum() == pytest.approx(seen.fx * x / z + seen.cx, abs=0.1)
    assert (weights * rows).sum() == pytest.approx(seen.fy * y / z + seen.cy, abs=0.1)


def test_reduced_photos_scale_the_intrinsics(tmp_path: Path) -> None:
    small = small_scene(width=41, height=31)
    folder = write_colmap(tmp_path, small)
    for camera, image in zip(small.cameras, small.images, strict=True):
        (folder / "images_4").mkdir(exist_ok=True)
        Image.fromarray(image).resize((10, 8)).save(folder / "images_4" / camera.name)
    view = read(folder, SceneOptions(images="images_4")).train[0]
    assert view.image.shape == (8, 10, 3)
    assert_same_camera(view.camera, small.cameras[1].resized(10, 8))


def test_resolution_scales_the_intrinsics(tmp_path: Path) -> None:
    small = small_scene(width=40, height=30)
    view = read(write_colmap(tmp_path, small), SceneOptions(resolution=2)).train[0]
    assert_same_camera(view.camera, small.cameras[1].resized(20, 15))
    expected = np.array(Image.fromarray(small.images[1]).resize((20, 15)))
    assert (view.image.numpy() == expected).all()


def test_points_may_be_absent(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene())
    (folder / "sparse/0/points3D.bin").unlink()
    lines: list[str] = []
    scene = read_scene(folder, SceneOptions(), report=lines.append)
    assert len(scene.points.positions) == 20_000
    assert lines[-1] == "only 8 points triangulated: 20,000 random ones inside the camera frustums"
    (folder / "sparse/0/points3D.bin").write_bytes(struct.pack("<Q", 0))
    np.testing.assert_array_equal(read(folder).points.positions, scene.points.positions)


# --- bad input ---

Damage = Callable[[Path], object]


def patched(name: str, offset: int, value: bytes) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:offset] + value + content[offset + len(value) :])

    return damage


CAMERAS, IMAGES, POINTS = "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin"
NAN = struct.pack("<d", float("nan"))
DAMAGES: dict[str, tuple[Damage, str]] = {
    "garbage count of cameras": (patched(CAMERAS, 0, b"\xff" * 8), r"cameras\.bin is cut short .*entries do not fit"),
    "garbage count of images": (patched(IMAGES, 0, b"\xff" * 8), r"images\.bin is cut short .*entries do not fit"),
    "garbage count of points": (patched(POINTS, 0, b"\xff" * 8), r"points3D\.bin is cut short .*entries do not fit"),
    "garbage track length": (patched(POINTS, 8 + 43, b"\xff" * 8), r"points3D\.bin is cut short"),
    "garbage number of observations": (patched(IMAGES, 8 + 64 + 7, b"\xff" * 8), r"images\.bin is cut short"),
    "name of another photo": (
        patched(IMAGES, 8 + 64, b"\xff"),
        r"images/ÿ0\.png, listed in .*images\.bin, does not exist",
    ),
    "unknown model": (patched(CAMERAS, 12, b"\x63"), r"cameras\.bin: camera 1 has the model number 99"),
    "equirectangular": (patched(CAMERAS, 12, b"\x11"), r"cameras\.bin: camera 1 has the model EQUIRECTANGULAR"),
    "size beyond reason": (patched(CAMERAS, 16, b"\xff" * 8), r"cameras\.bin is cut short or no COLMAP file"),
    "size of zero": (patched(CAMERAS, 16, b"\0" * 8), r"cameras\.bin is cut short or no COLMAP file"),
    "focal length NaN": (patched(CAMERAS, 32, NAN), r"cameras\.bin is cut short or no COLMAP file"),
    "pose NaN": (patched(IMAGES, 8 + 4 + 32, NAN), r"images\.bin gives the photo 00\.png a pose that is not finite"),
    "pose zero": (patched(IMAGES, 8 + 4, b"\0" * 32), r"images\.bin gives the photo 00\.png a pose that is not finite"),
    "point NaN": (patched(POINTS, 8 + 8, NAN), r"points3D\.bin holds 1 points that are not finite"),
    "camera that is not there": (patched(IMAGES, 8 + 60, b"\x63"), r"00\.png camera 99, which"),
    "no photos": (lambda folder: (folder / IMAGES).write_bytes(b"\0" * 8), r"images\.bin lists no photos"),
    "no cameras file": (lambda folder: (folder / CAMERAS).unlink(), r"neither cameras\.bin nor cameras\.txt"),
    "no images file": (lambda folder: (folder / IMAGES).unlink(), r"neither images\.bin nor images\.txt"),
    "empty file": (lambda folder: (folder / POINTS).write_bytes(b""), r"points3D\.bin is cut short"),
    "missing photo": (lambda folder: (folder / "images/03.png").unlink(), r"images/03\.png, listed in"),
    "photo cut short": (patched("images/03.png", 60, b"garbage garbage"), r"03\.png cannot be read as an image"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    folder = write_colmap(tmp_path, small_scene())
    damage, sentence = DAMAGES[name]
    damage(folder)
    with pytest.raises(UserError, match=sentence) as refusal:
        read(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [CAMERAS, IMAGES, POINTS])
def test_every_truncation_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_colmap(tmp_path, small_scene(count=2, points=3))
    content = (folder / name).read_bytes()
    for kept in range(len(content)):
        (folder / name).write_bytes(content[:kept])
        with pytest.raises(UserError, match=Path(name).name):
            read(folder)
    (folder / name).write_bytes(content + b"\0")
    with pytest.raises(UserError, match="cut short or no COLMAP file"):
        read(folder)


TEXTS = {
    "cameras.txt": ["1 PINHOLE forty 30 48 48 20 15", "1"],
    "images.txt": ["1 1 0 0 0 0 0 0", "1 a 0 0 0 0 0 0 1 00.png"],
    "points3D.txt": ["1 0 0", "1 0 0 0 300 0 0 0.5", "1 0 0 zero 1 2 3 0.5", "1 1 1\n2 2 2"],
}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in TEXTS.items() for line in lines])
def test_damaged_text_is_refused(tmp_path: Path, name: str, line: str) -> None:
    folder = write_colmap(tmp_path, small_scene(count=2), binary=False)
    (folder / "sparse/0" / name).write_text(line + "\n")
    with pytest.raises(UserError, match=f"{name} is cut short or no COLMAP file"):
        read(folder)


def test_text_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(count=2), binary=False)
    (folder / "sparse/0/images.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"images\.txt is cut short"):
        read(folder)


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    small = small_scene(count=3)
    cameras = [small.cameras[0], small.cameras[1], replace(small.cameras[2], name="00.png")]
    folder = write_colmap(tmp_path, SmallScene(cameras, small.images, small.points))
    with pytest.raises(UserError, match=r"lists the photo 00\.png 2 times"):
        read(folder)


def test_other_proportions_are_refused_with_both_sizes(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(width=40, height=30))
    Image.new("RGB", (30, 40)).save(folder / "images/02.png")
    with pytest.raises(UserError, match=r"02\.png has 30 × 40 pixels but its camera 40 × 30"):
        read(folder)


def test_hopeless_distortion_names_the_photo(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene(), model="SIMPLE_RADIAL", coefficients=(-900.0,))
    with pytest.raises(UserError, match=r"00\.png: the SIMPLE_RADIAL camera|01\.png: the SIMPLE_RADIAL camera"):
        read(folder)


def test_photo_folder_that_is_not_there(tmp_path: Path) -> None:
    folder = write_colmap(tmp_path, small_scene())
    with pytest.raises(UserError, match="images_2 does not exist: the photos are in images: name the right"):
        read(folder, SceneOptions(images="images_2"))


# --- real photos ---


def observations(images_bin: bytes) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """(photo, [K, 3] of x, y, point id) as COLMAP tracked them: the reader skips these."""
    offset = 8
    for _ in range(*struct.unpack_from("<Q", images_bin)):
        end = images_bin.index(b"\0", offset + 64)
        name = images_bin[offset + 64 : end].decode()
        (count,) = struct.unpack_from("<Q", images_bin, end + 1)
        table = np.frombuffer(images_bin, np.dtype([("xy", "<f8", 2), ("id", "<i8")]), count, end + 9)
        yield name, np.concatenate([table["xy"], table["id"][:, None]], axis=1)
        offset = end + 9 + 24 * count


@pytest.mark.skipif(not FOX.is_dir(), reason="the real scene fox480 is not beside the repository")
def test_a_real_reconstruction_projects_onto_its_own_observations() -> None:
    """The data's README gives a mean reprojection error of 0.25 pixels: half a pixel or a wrong axis would show."""
    scene = read(FOX)
    assert (len(scene.train), len(scene.test), len(scene.points.positions)) == (43, 7, 14654)
    assert scene.train[0].camera.name == "0002.jpg"
    starts, content = [8], (FOX / "sparse/0/points3D.bin").read_bytes()
    for _ in range(14654):
        starts.append(starts[-1] + 51 + 8 * struct.unpack_from("<Q", content, starts[-1] + 43)[0])
    position_of = {
        struct.unpack_from("<Q", content, start)[0]: position
        for start, position in zip(starts, scene.points.positions, strict=False)
    }
    cameras = {view.camera.name: view.camera for view in (*scene.train, *scene.test)}
    errors = []
    for name, table in observations((FOX / "sparse/0/images.bin").read_bytes()):
        camera = cameras[name]
        local = np.array([position_of[int(point)] for point in table[:, 2]]) @ camera.rotation.T + camera.translation
        u, v = camera.fx * local[:, 0] / local[:, 2] + camera.cx, camera.fy * local[:, 1] / local[:, 2] + camera.cy
        errors.append(np.stack([u, v], axis=1) - table[:, :2])
    offsets = np.concatenate(errors)
    assert np.linalg.norm(offsets, axis=1).mean() < 0.3
    assert np.abs(offsets.mean(axis=0)).max() < 0.02
