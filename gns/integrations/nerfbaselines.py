"""gns as a method of nerfbaselines, the benchmark of novel view synthesis (Kulhanek & Sattler 2024).

Its protocol is one class whose data are dictionaries of arrays, so this file needs nothing of nerfbaselines: single
steps, rendering, saving, and export for its web demo. A checkpoint is an output folder of train.py, which
`gns view` and `gns export` open too, and from which training goes on to the same bits.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import gns
from gns.arguments import Config, TrainConfig, parse_train
from gns.errors import UserError
from gns.gaussian_renderer import render
from gns.gaussian_renderer.devices import pick_device
from gns.gaussian_renderer.threads import renderer_threads
from gns.run_folder import RunFolder
from gns.scene import Camera, Gaussians, PointCloud, Scene
from gns.scene.on_demand import memory_of
from gns.training.events import CallbackListener, Event, Progress
from gns.training.loop import Trainer, expected_size, with_budget
from gns.training.memory import refuse_too_large, room_for_photos, views_on
from gns.training.recorder import Recorder
from gns.training.scaled_views import ScaledViews
from gns.training.state import TrainState
from gns.utils.atomic_files import write_text
from gns.utils.option_table import flag
from gns.utils.untrusted_json import parse_json

PINHOLE = 0  # the number of the camera model
BACKGROUND_FILE = "background.json"  # in a checkpoint: RGB in [0, 1], which the dataset decides
INFO_FILE = "nb-info.json"  # in a checkpoint, by nerfbaselines itself: never copied

Floats = npt.NDArray[np.float32]


class GnsMethod:
    """A run of gns, driven step by step from outside.

    `config_overrides` are options of train.py by their names, such as {"final_budget": "100k"}; values may be text.
    What concerns files is nerfbaselines' business and refused. Where a dataset names no `background_color` it is black,
    or white with {"white_background": True}.
    """

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        train_dataset: Mapping[str, Any] | None = None,
        config_overrides: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin a run on `train_dataset`, or go on from `checkpoint`, which alone is enough to render.

        Raises UserError where neither is given, an option is unknown, or the dataset cannot be learned from.
        """
        if checkpoint is None and train_dataset is None:
            raise UserError("give a checkpoint to render, or a train_dataset to learn from")
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._state: TrainState | None = None
        self._model: Gaussians | None = None  # what is rendered: made anew after a step
        self._heard: dict[str, float] = {}
        if self._checkpoint is None:
            self._config = _config(config_overrides or {})
            self._loaded_step: int | None = None
        else:
            self._run = RunFolder.open(self._checkpoint)
            if not isinstance(self._run.config, TrainConfig):
                raise UserError(f"{checkpoint} is no checkpoint of gns: it has no config.json")
            self._config = self._run.config
            self._loaded_step = self._run.resolve_iteration(None)
            self._model = self._run.load_model(self._loaded_step)
            self._background = _read_background(self._checkpoint / BACKGROUND_FILE)
            _refuse_changes(config_overrides or {}, self._config)
        self._device = pick_device(self._config.device)
        finished = self._loaded_step is not None and self._loaded_step >= self._config.iterations
        if train_dataset is not None and not finished:
            self._begin(scene_of(train_dataset, white=self._config.white_background, seed=self._config.seed))

    def _begin(self, scene: Scene) -> None:
        self._background = scene.background
        white = scene.background == (1.0, 1.0, 1.0)
        self._config = replace(with_budget(self._config, scene), white_background=white)
        needed, largest = expected_size(self._config, scene, self._device)
        refuse_too_large(self._device, needed, largest, memory_of([*scene.train, *scene.test]))
        with renderer_threads(self._config.threads):
            room = room_for_photos(self._device, needed, self._config.image_memory)
            views = ScaledViews(scene.local().train, lambda views: views_on(views, self._device, room))
            self._trainer = Trainer(self._config, scene, device=self._device, views=views)
            saved = None if self._checkpoint is None else self._run.load_checkpoint()
            self._state = self._trainer.begin(saved)
        self._recorder = Recorder(self._state, self._config.iterations, [CallbackListener(self._hear)])

    def _hear(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._heard = {"loss": event.loss, "num_gaussians": float(event.count)}

    @classmethod
    def get_method_info(cls) -> dict[str, Any]:
        """What nerfbaselines has to know before it reads a dataset: it undistorts photos of other cameras itself."""
        return {
            "method_id": gns.__name__,
            "required_features": frozenset(("color", "points3D_xyz", "points3D_rgb")),
            "supported_camera_models": frozenset(("pinhole",)),
            "supported_outputs": ("color", {"name": "depth", "type": "depth"}, "accumulation"),
            "can_resume_training": True,
        }

    def get_info(self) -> dict[str, Any]:
        """The same, and the length of this run, its options and where it was taken up."""
        stored = {field.name for field in fields(Config)} - {"rules"}
        return {
            **self.get_method_info(),
            "num_iterations": self._config.iterations,
            "loaded_step": self._loaded_step,
            "loaded_checkpoint": None if self._checkpoint is None else str(self._checkpoint),
            "hparams": {name: getattr(self._config, name) for name in sorted(stored)},
        }

    def get_train_embedding(self, index: int) -> None:
        """None: photos have no embeddings."""

    def optimize_embedding(self, dataset: Mapping[str, Any], *, embedding: object = None) -> dict[str, Any]:
        """Raises NotImplementedError, as the protocol wants it of methods without embeddings."""
        raise NotImplementedError("gns has no embeddings")

    def train_iteration(self, step: int) -> dict[str, float]:
        """Train the iteration after `step` finished ones; returns the smoothed loss, known every ten iterations.

        Raises UserError where there is nothing to train with, `step` is not the next one, or training diverged.
        """
        if self._state is None:
            raise UserError("this model was loaded without photos, or its run has ended: it cannot be trained on")
        if step != self._state.iteration:
            raise UserError(f"step {step} was asked for, and the next one is {self._state.iteration}")
        if step >= self._config.iterations:
            raise UserError(f"the run has ended after {step} iterations: set iterations to another number")
        self._model = None
        self._heard = {}
        with renderer_threads(self._config.threads):
            self._trainer.advance(self._state, self._recorder.add_loss)
            self._recorder.after_iteration()
        return self._heard

    @property
    def _gaussians(self) -> Gaussians:
        if self._model is None:
            assert self._state is not None  # the constructor makes one of them
            self._model = self._state.gaussians
        return self._model

    @torch.no_grad()
    def render(self, camera: Any, *, options: Mapping[str, Any] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Pictures of one camera: "color" float32 [H, W, 3] in [0, 1]; others if `options["outputs"]` names them.

        "depth" is the z of what is seen, in the world's units, 0 where nothing is; "accumulation" the alpha; both
        float32 [H, W]. Raises UserError for a camera that is no pinhole.
        """
        wanted = (options or {}).get("outputs") or ("color",)
        camera = camera.item()
        model = self._gaussians.to(self._device)
        with renderer_threads(self._config.threads):
            view = camera_of(camera, "rendered")
            drawn = render(view, model, self._background, inverse_depth="depth" in wanted)
        pictures = {"color": drawn.image.clamp(0, 1).permute(1, 2, 0), "accumulation": drawn.alpha}
        if drawn.inverse_depth is not None:
            inverse = drawn.inverse_depth
            pictures["depth"] = torch.where(inverse > 0, drawn.alpha / inverse.clamp(min=1e-12), 0)
        return {name: picture.cpu().numpy() for name, picture in pictures.items() if name in wanted}

    def save(self, path: str) -> None:
        """Write the model, and everything to go on from, to the folder `path`.

        What was loaded and not trained since is copied. Raises UserError where the folder cannot be written.
        """
        folder = Path(path)
        if self._checkpoint is not None and (self._state is None or self._state.iteration == self._loaded_step):
            if folder.resolve() != self._checkpoint.resolve():
                ignored = shutil.ignore_patterns(INFO_FILE)
                shutil.copytree(self._checkpoint, folder, ignore=ignored, dirs_exist_ok=True)
            return
        assert self._state is not None
        run = RunFolder.create(folder, replace(self._config, model_path=Path(), resume=True))
        write_text(folder / BACKGROUND_FILE, json.dumps(self._background) + "\n")
        run.save_checkpoint(self._state.state_dict(), self._state.iteration)
        run.save_model(self._gaussians, self._state.iteration)

    def export_gaussian_splats(self, *, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Arrays of the activated model, float32 or wider, for the web demo.

        "means" and "scales" [N, 3], "opacities" [N], "quaternions" [N, 4] (w, x, y, z) of length one,
        "spherical_harmonics" [N, 3, K].
        """
        model = self._gaussians
        arrays = {
            "means": model.means,
            "scales": model.log_scales.exp(),
            "opacities": model.opacities,
            "quaternions": torch.nn.functional.normalize(model.quats, dim=1),
            "spherical_harmonics": torch.cat([model.sh_dc, model.sh_rest], dim=1).transpose(1, 2),
        }
        return {name: values.detach().cpu().numpy() for name, values in arrays.items()}


def scene_of(dataset: Mapping[str, Any], *, white: bool = False, seed: int = 0) -> Scene:
    """The scene in a dataset of nerfbaselines, all of whose photos are learned from.

    Raises UserError where a camera is no pinhole, or photos are not of eight bits in sRGB.
    """
    if (space := dataset["metadata"].get("color_space", "srgb")) != "srgb":
        raise UserError(f"the photos are in the color space {space!r}: gns learns from photos of eight bits in sRGB")
    level = dataset["metadata"].get("background_color")
    background = (float(white),) * 3 if level is None else tuple(int(value) / 255 for value in level)
    root = dataset.get("image_paths_root")
    cameras, images, masks = [], [], []
    for index, path in enumerate(dataset["image_paths"]):
        name = path.removeprefix(str(root)).lstrip("/") if root else path
        camera = camera_of(dataset["cameras"][index], name)
        cameras.append(camera)
        # Photos of several sizes may be padded to one array.
        images.append(_photo(dataset["images"][index][: camera.height, : camera.width], name))
        mask = None if dataset.get("masks") is None else dataset["masks"][index]
        masks.append(None if mask is None else np.asarray(mask)[: camera.height, : camera.width] > 0)
    positions, colors = dataset.get("points3D_xyz"), dataset.get("points3D_rgb")
    points = None
    if positions is not None and len(positions):
        colors = np.full((len(positions), 3), 128, np.uint8) if colors is None else np.asarray(colors, np.uint8)
        points = PointCloud(np.asarray(positions, np.float64), colors)
    red, green, blue = background
    name = str(dataset["metadata"].get("scene") or "dataset")
    return Scene.from_arrays(cameras, images, points, masks, background=(red, green, blue), seed=seed, name=name)


def camera_of(camera: Any, name: str) -> Camera:
    """Our camera for a single one of nerfbaselines: camera to world [3 or 4, 4], the same axes and pixel centres.

    Raises UserError where it is no pinhole.
    """
    if int(camera.camera_models) != PINHOLE:
        raise UserError(f"the camera of {name} is no pinhole: load the dataset with supported_camera_models of gns")
    pose = np.asarray(camera.poses, np.float64)
    # The poses are float32, and often products of such: the nearest rotation.
    left, _, right = np.linalg.svd(pose[:3, :3])
    rotation = left @ right
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = rotation.T
    world_to_camera[:3, 3] = -rotation.T @ pose[:3, 3]
    width, height = (int(size) for size in camera.image_sizes)
    fx, fy, cx, cy = (float(value) for value in camera.intrinsics)
    return Camera(width, height, fx, fy, cx, cy, world_to_camera, name)


def _photo(pixels: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3 or 4] of what may be grey, with or without alpha. Raises UserError."""
    if pixels.dtype != np.uint8:
        raise UserError(f"{name} has pixels of type {pixels.dtype}: gns learns from photos of eight bits")
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] <= 2:
        pixels = np.concatenate([pixels[:, :, :1].repeat(3, axis=2), pixels[:, :, 1:]], axis=2)
    return np.ascontiguousarray(pixels)


def _config(overrides: Mapping[str, Any]) -> TrainConfig:
    """The options of a run; what nerfbaselines decides itself is refused. Raises UserError."""
    own = {field.name for field in fields(TrainConfig)} - {field.name for field in fields(Config)}
    own -= {"white_background"}
    words: list[str] = []
    for key, value in overrides.items():
        name = key.replace("-", "_")
        if name in own or name == "json":
            raise UserError(f"{name} is not decided by the method: nerfbaselines reads and writes all files itself")
        words += _words(name, value)
    return replace(parse_train(["-s", ".", "-m", ".", "--quiet", *words], prog=gns.__name__), source_path=Path())


def _words(name: str, value: Any) -> Iterable[str]:
    """An override as words of a command line; switches come as bools, or as text that says so."""
    if str(value).lower() in ("true", "false"):
        return [flag(name if str(value).lower() == "true" else f"no_{name}")]
    if isinstance(value, list | tuple):
        return [flag(name), *map(str, value)]
    return [] if value is None else [flag(name), str(value)]


def _refuse_changes(overrides: Mapping[str, Any], config: TrainConfig) -> None:
    """Raise UserError where an override would change a run that has begun; presets come again as they were."""
    asked = _config(overrides)
    defaults = _config({})
    for field in fields(Config):
        value = getattr(asked, field.name)
        if value not in (getattr(defaults, field.name), getattr(config, field.name)):
            raise UserError(f"{flag(field.name)} cannot be changed in a run that has begun: leave it out")


def _read_background(path: Path) -> tuple[float, float, float]:
    try:
        red, green, blue = parse_json(path.read_text(encoding="utf-8"))
        return float(red), float(green), float(blue)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is missing or damaged ({error}): restore the checkpoint") from None
