"""render.py's further pictures and videos."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gns.arguments import RenderConfig, parse_render
from gns.commands.film import beside, film, path_of, sampled_scale
from gns.commands.render import render_run
from gns.errors import UserError
from gns.gaussian_renderer import render
from gns.run_folder import RunFolder
from gns.scene import Gaussians, Scene
from gns.testing.scene_files import small_scene, write_colmap
from gns.testing.tiny import small_gaussians, tiny_config, tiny_scene
from gns.utils.map_pictures import Scale, alpha_picture, count_picture, depth_picture
from gns.utils.png import to_eight_bit


@pytest.fixture
def model() -> Gaussians:
    return small_gaussians(200, torch.Generator().manual_seed(1))


def _config(folder: Path, **options: object) -> RenderConfig:
    return RenderConfig(model_path=folder, device="cpu", threads=1, quiet=True, **options)  # type: ignore[arg-type]


def _frames(video: Path) -> list[np.ndarray]:
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    reader = ffmpeg.read_frames(str(video))
    size = next(reader)["size"]
    return [np.frombuffer(frame, np.uint8).reshape(size[1], size[0], 3) for frame in reader]


# Options


def test_options_of_a_video() -> None:
    config = parse_render(["-m", "run", "--video", "o.mp4", "--size", "640x360", "--outputs", "depth,count"])
    assert config.outputs == ("depth", "count") and config.film_size == (640, 360) and config.path is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--path", "spline"], "--video"),
        (["--size", "640x360"], "--video"),
        (["--video", "o.mp4", "--size", "641x360"], "two even numbers"),
        (["--video", "o.mp4", "--size", "big"], "two even numbers"),
        (["--video", "o.mp4", "--size", "9000x9000"], "two even numbers"),
        (["--video", "o.mp4", "--seconds", "0"], "above 0"),
        (["--video", "o.mp4", "--seconds", "nan"], "."),
        (["--outputs", "depth,normals"], "depth, alpha, count"),
    ],
)
def test_options_that_cannot_be(options: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_render(["-m", "run", *options])


# Films


def test_a_film_shows_the_model_from_a_training_camera_on(tmp_path: Path, model: Gaussians) -> None:
    scene = tiny_scene()
    config = _config(
        tmp_path, video=tmp_path / "o.mp4", seconds=0.4, fps=10, size="160x120", outputs=("depth", "alpha")
    )
    film(config, model, scene)
    first_camera = path_of(config, [view.camera for view in scene.train])[0]
    distances = [np.abs(view.camera.center - first_camera.center).max() for view in scene.train]
    assert min(distances) < 1e-6
    frames = _frames(tmp_path / "o.mp4")
    assert len(frames) == 4
    wanted = to_eight_bit(render(first_camera, model, scene.background).image).numpy()
    off, mirrored = (
        np.abs(frames[0].astype(int) - picture.astype(int)).mean() for picture in (wanted, wanted[:, ::-1])
    )
    assert off < 12 and mirrored > 2 * off  # lossy, with halved colour resolution
    assert len(_frames(beside(config.video or Path(), "depth"))) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"o.mp4", "o.depth.mp4", "o.alpha.mp4"}


def test_a_film_that_fails_leaves_nothing(tmp_path: Path, model: Gaussians, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")

    def broken(*args: object, **options: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("gns.commands.film.drawn_with_maps", broken)
    with pytest.raises(KeyboardInterrupt):
        film(_config(tmp_path, video=tmp_path / "o.mp4", seconds=0.4, size="160x120"), model, tiny_scene())
    assert not list(tmp_path.iterdir())


def test_without_the_encoder_a_sentence_says_what_to_install(
    tmp_path: Path, model: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"imageio-ffmpeg: run pip install \"\.\[video\]\""):
        film(_config(tmp_path, video=tmp_path / "o.mp4"), model, tiny_scene())


def test_a_video_of_another_ending_is_refused(tmp_path: Path, model: Gaussians) -> None:
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(UserError, match=r"o\.mp4"):
        film(_config(tmp_path, video=tmp_path / "o.gif"), model, tiny_scene())


def test_upright_photos_are_filmed_upright(tmp_path: Path) -> None:
    upright: Scene = tiny_scene(width=30, height=40)
    cameras = [view.camera for view in upright.train]
    path = path_of(_config(tmp_path, video=tmp_path / "o.mp4", seconds=0.1), cameras)
    assert (path[0].width, path[0].height, len(path)) == (1080, 1920, 3)


# Pictures


def test_render_writes_the_pictures_that_are_asked_for(tmp_path: Path, model: Gaussians) -> None:
    source = write_colmap(tmp_path / "scene", small_scene(count=9))
    config = tiny_config(tmp_path, source_path=source, final_budget=100)
    run = RunFolder.create(config.model_path, config)
    run.save_model(model, 300)
    render_run(_config(config.model_path, skip_train=True))
    pictures = config.model_path / "test" / "ours_300"
    assert not (pictures / "depth").exists()
    render_run(_config(config.model_path, skip_train=True, outputs=("depth", "count", "alpha")))
    names = sorted(path.name for path in (pictures / "renders").iterdir())
    for kind in ("depth", "count", "alpha"):
        assert sorted(path.name for path in (pictures / kind).iterdir()) == names
        with Image.open(pictures / kind / names[0]) as picture, Image.open(pictures / "renders" / names[0]) as colours:
            assert picture.size == colours.size


def test_colours_of_maps() -> None:
    scale = Scale(farthest=4.0, nearest=1.0, most=10)
    inverse_depth = torch.tensor([[0.25, 1.0, 0.0, 0.5]])
    alpha = torch.tensor([[1.0, 1.0, 0.0, 1.0]])
    far, near, nothing, middle = depth_picture(inverse_depth, alpha, scale)[0].tolist()
    assert far[2] > far[0] and near[0] > near[2] and nothing == [0, 0, 0] and middle[1] > max(middle[0], middle[2])
    assert alpha_picture(alpha)[0, :3, 0].tolist() == [255, 255, 0]
    none, most, more = count_picture(torch.tensor([[0, 10, 50]], dtype=torch.int32), scale)[0].tolist()
    assert sum(none) < 10 and most == more and sum(most) > 500


def test_the_scale_is_of_what_the_cameras_see(model: Gaussians) -> None:
    scene = tiny_scene()
    scale = sampled_scale([view.camera for view in scene.train], model, torch.zeros(3))
    assert 2.2 < scale.nearest < scale.farthest < 6.0 and scale.most > 1  # a cube of 2 units, 4 units away
    nothing = sampled_scale([scene.train[0].camera], model.mapped(lambda values: values[:0]), torch.zeros(3))
    assert nothing.nearest < nothing.farthest and nothing.most == 1
