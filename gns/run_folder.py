"""The output folder of a run: who writes which file where, and how it is read back.

    config.json                                the run's options (`gns.arguments.TrainConfig`)
    cfg_args, cameras.json, input.ply          for viewers and other tools of the 3DGS family
    point_cloud/iteration_N/point_cloud.ply    the model after iteration N
    …/point_cloud.offset.json, input.offset.json    far from the origin: what the PLY file's positions lack
    point_cloud/iteration_N/model.json         its digest, by which a damaged one is noticed
    point_cloud/iteration_N/exposure.json      of a run with --exposure: the colour transform [3, 4] of each photo
    checkpoints/iteration_N.pt                 everything needed to continue after iteration N
    log.jsonl                                  one record a line
    {train,test}/ours_N/{renders,gt}/*.png     rendered views and the photos they imitate
    {train,test}/ours_N/{depth,alpha,count}/*  further pictures of the same views
    {train,test}/ours_N/masks/*.png            white where pixels count, for photos that have a mask
    {train,test}/ours_N/rendered.json          digests of the model and the views that these pictures are of
    results.json, per_view.json                scores

Every file is replaced as a whole (`gns.utils.atomic_files`), so that a stop at any moment leaves the old one or the new
one; log.jsonl alone grows line by line.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from gns import __version__
from gns.arguments import CONFIG_FILE, SceneConfig, TrainConfig, config_text, decisive_options, read_config
from gns.errors import UserError
from gns.scene.camera import Camera
from gns.scene.gaussians import Gaussians
from gns.scene.ply import load_ply, save_ply, save_points
from gns.scene.scene import Scene
from gns.utils.atomic_files import atomic_file, cannot_write, write_text
from gns.utils.folder_lock import locked
from gns.utils.untrusted_json import parse_json

CHECKPOINT_FORMAT = 2  # raise it when the content of a checkpoint changes its meaning
_AUTOMATIC_CHECKPOINTS = 2  # the newest is what --resume takes; one more in case it is lost


class RunFolder:
    """The folder `path` of a run with the options `config`.

    `config` is a plain `SceneConfig` where another program of the 3DGS family wrote the folder.
    """

    def __init__(self, path: Path, config: SceneConfig) -> None:
        self.path = path
        self.config = config
        self.scene_digest = ""  # of what its run learns from (`gns.scene.digest`), where that is known

    @classmethod
    def create(cls, path: Path, config: TrainConfig) -> RunFolder:
        """Start a run in `path`, or enter it again where `config.resume`; writes config.json and cfg_args.

        Raises UserError where a new run meets the models or checkpoints of an older one, or the folder cannot be
        written.
        """
        run = cls(path, config)
        older = [*run.saved_iterations(), *run.checkpoint_iterations()]
        if older and not config.resume:
            raise UserError(
                f"{path} holds a run already (iteration {max(older)}): continue it with --resume, choose another "
                "folder with -m, or delete it"
            )
        if older and not (path / CONFIG_FILE).exists():
            raise UserError(
                f"{path} holds a run (iteration {max(older)}) without its {CONFIG_FILE}: restore that file, or choose "
                "another folder with -m"
            )
        write_text(path / CONFIG_FILE, config_text(config))
        if not older:
            run.log_path.unlink(missing_ok=True)  # of a run that was stopped before its first checkpoint
        write_text(path / "cfg_args", _cfg_args_text(config))
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Enter an existing folder, written by us (config.json) or by another tool (cfg_args).

        Raises UserError where it is neither.
        """
        if (path / CONFIG_FILE).exists():
            return cls(path, read_config(path / CONFIG_FILE))
        if (path / "cfg_args").exists():
            return cls(path, _read_cfg_args(path / "cfg_args", path))
        raise UserError(f"{path} is no output folder of a training: it has neither {CONFIG_FILE} nor cfg_args")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other trainings out of the folder inside the block, and clear away what a killed one left half-written.

        Raises UserError where one is at work there, or nothing can be written.
        """
        with locked(self.path, "point_cloud/iteration_*", "checkpoints"):
            yield

    @contextmanager
    def rendering(self, split: str, iteration: int) -> Iterator[None]:
        """Keep other renderings of the model after `iteration` out, as `locked` does for trainings."""
        with locked(self.renders_path(split, iteration).parent, "*"):
            yield

    def begin_renders(self, split: str, iteration: int, views_digest: str) -> None:
        """Remove pictures of `split` that are not of the model after `iteration` as it is now and of these views.

        By digests, since times of files mean nothing once a folder was copied or a clock was set.
        """
        folder = self.renders_path(split, iteration).parent
        made_of = {"model": _sha256(self.model_path(iteration)), "views": views_digest}
        if _read_json(folder / "rendered.json") != made_of:
            for picture in folder.glob("*/*.png"):
                picture.unlink(missing_ok=True)
            write_text(folder / "rendered.json", json.dumps(made_of, indent=2) + "\n")

    def rendered_model(self, split: str, iteration: str) -> str:
        """SHA-256 of the model that the pictures in the folder `iteration` of `split` are of; "" where nobody knows."""
        made_of = _read_json(self.path / split / iteration / "rendered.json")
        return str(made_of.get("model", "")) if isinstance(made_of, dict) else ""

    # Models

    def model_path(self, iteration: int) -> Path:
        """Where the model after `iteration` lies."""
        return self.path / "point_cloud" / f"iteration_{iteration}" / "point_cloud.ply"

    def save_model(
        self, gaussians: Gaussians, iteration: int, records: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Path:
        """Write the model, and beside it `records`, each to the file NAME.json; returns the model's path.

        Raises UserError where that fails.
        """
        path = self.model_path(iteration)
        for name, kept in (records or {}).items():
            write_text(path.with_name(f"{name}.json"), json.dumps(kept, indent=2) + "\n")

        def take_down(whole: Path) -> None:
            record = {"iteration": iteration, "gaussians": len(gaussians), "sha256": _sha256(whole)}
            write_text(self._record_path(iteration), json.dumps(record, indent=2) + "\n")

        # The record first: a model that is there ends its run, and nobody comes back to write the record. A crash in
        # between leaves it beside no model, or one of the same bits, since only a resumed run writes one twice.
        save_ply(gaussians, path, take_down)
        return path

    def load_model(self, iteration: int | None = None) -> Gaussians:
        """The model after `iteration`, the newest for None. Raises UserError where there is none or it is damaged."""
        iteration = self.resolve_iteration(iteration)
        path, digest = self.model_path(iteration), self.model_digest(iteration)
        gaussians = load_ply(path)
        if digest and digest != _sha256(path):
            raise UserError(
                f"{path} is not what was written there: its SHA-256 is not that in {self._record_path(iteration)}; "
                "restore it, or delete the latter if you changed the model on purpose"
            )
        trained_so = isinstance(self.config, TrainConfig) and self.config.antialiasing
        return replace(gaussians, antialiased=gaussians.antialiased or trained_so)

    def model_digest(self, iteration: int) -> str:
        """SHA-256 of the model after `iteration` as it was written; "" where nothing says so, as other tools write."""
        record = _read_json(self._record_path(iteration))
        return str(record.get("sha256", "")) if isinstance(record, dict) else ""

    def _record_path(self, iteration: int) -> Path:
        return self.model_path(iteration).with_name("model.json")

    def exposures(self, iteration: int) -> dict[str, Tensor]:
        """The colour transforms, [3, 4], that the model after `iteration` was trained with, by the photo's name.

        None of them for a run without. Raises UserError where their file is damaged.
        """
        path = self.model_path(iteration).with_name("exposure.json")
        if not path.exists():
            return {}
        try:
            found = {name: torch.tensor(rows) for name, rows in parse_json(path.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}): restore it, or delete it to go without") from None
        if any(transform.shape != (3, 4) or not transform.is_floating_point() for transform in found.values()):
            raise UserError(f"{path} does not hold 3 × 4 matrices: restore it, or delete it to go without")
        return found

    def is_model(self, iteration: int, digest: str) -> bool:
        """Whether the model after `iteration` is the one of this SHA-256."""
        return self.model_path(iteration).is_file() and _sha256(self.model_path(iteration)) == digest

    def saved_iterations(self) -> list[int]:
        """The iterations whose model is saved, ascending."""
        return _iterations(path.parent.name for path in self.path.glob("point_cloud/iteration_*/point_cloud.ply"))

    def resolve_iteration(self, iteration: int | None) -> int:
        """`iteration`, or the newest saved one for None. Raises UserError where no such model is saved."""
        saved = self.saved_iterations()
        if not saved:
            raise UserError(f"{self.path} holds no saved model: finish its training first")
        if iteration is None:
            return saved[-1]
        if iteration not in saved:
            raise UserError(
                f"{self.path} holds no model of iteration {iteration}: saved are {', '.join(map(str, saved))}"
            )
        return iteration

    # Checkpoints

    def checkpoint_path(self, iteration: int) -> Path:
        """Where the checkpoint after `iteration` lies."""
        return self.path / "checkpoints" / f"iteration_{iteration}.pt"

    def checkpoint_iterations(self) -> list[int]:
        """The iterations whose checkpoint is there, ascending."""
        return _iterations(path.stem for path in self.path.glob("checkpoints/iteration_*.pt"))

    def save_checkpoint(self, state: dict[str, Any], iteration: int) -> Path:
        """Write a checkpoint and return its path; older ones that nobody asked for go, except the newest.

        `state` may hold tensors, numbers, strings, None, and dicts, lists and tuples of them: nothing that needs code
        to be read. Raises UserError where the file cannot be written.
        """
        path = self.checkpoint_path(iteration)
        document = {
            "format": CHECKPOINT_FORMAT,
            "gns": __version__,
            "iteration": iteration,
            "state": state,
            "options": decisive_options(self.config) if isinstance(self.config, TrainConfig) else {},
            "scene": self.scene_digest,
        }
        with atomic_file(path) as file:
            try:
                torch.save(document, file)
            except RuntimeError as error:
                # Torch's writer covers the operating system's complaint, such as a full disk, with one of its own.
                raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        self._drop_old_checkpoints()
        return path

    def load_checkpoint(self, tell: Callable[[str], object] = lambda sentence: None) -> dict[str, Any]:
        """The state in the newest checkpoint that is whole; tensors on the CPU.

        `tell` gets a sentence where a damaged one is passed over. Raises UserError where there is none, all are
        damaged, or the newest is of another version, other options or another scene than this run.
        """
        damage: DamagedCheckpoint | None = None
        for iteration in reversed(self.checkpoint_iterations()):
            try:
                document = _checkpoint_document(self.checkpoint_path(iteration))
            except DamagedCheckpoint as error:
                damage = damage or error
                continue
            if damage:
                tell(f"{damage.path} is damaged or cut short: going on from iteration {iteration} instead")
            self._refuse_another_origin(document)
            state: dict[str, Any] = document["state"]
            return state
        raise damage or UserError(f"{self.path} holds no checkpoint")

    def _refuse_another_origin(self, document: Mapping[str, Any]) -> None:
        """Raise UserError where the run of a checkpoint had other options, or learned from something else."""
        now = decisive_options(self.config) if isinstance(self.config, TrainConfig) else {}
        for name, then in (document.get("options") or {}).items():
            if name in now and now[name] != then:
                raise UserError(
                    f"{name} is {now[name]} in {self.path / CONFIG_FILE}, but was {then} until the run was stopped: "
                    "restore that value, or start another run with another -m"
                )
        if self.scene_digest and document.get("scene", "") not in ("", self.scene_digest):
            raise UserError(
                f"the photos, masks or cameras are not those that the run in {self.path} has learned from so far: "
                "restore them, or start another run with another -m"
            )

    def _drop_old_checkpoints(self) -> None:
        asked_for = self.config.checkpoint_iterations if isinstance(self.config, TrainConfig) else ()
        automatic = [iteration for iteration in self.checkpoint_iterations() if iteration not in asked_for]
        for iteration in automatic[:-_AUTOMATIC_CHECKPOINTS]:
            self.checkpoint_path(iteration).unlink(missing_ok=True)

    # What other tools read

    def write_scene(self, scene: Scene) -> None:
        """Write cameras.json, held-out cameras first, and input.ply with the initial points."""
        views = [*scene.test, *scene.train]
        cameras = [_camera_record(index, view.camera) for index, view in enumerate(views)]
        write_text(self.path / "cameras.json", json.dumps(cameras))
        save_points(scene.points, self.path / "input.ply", scene.frame.offset)

    def cameras(self) -> list[Camera]:
        """The cameras in cameras.json, held-out ones first, with their principal points in the middle; [] without it.

        Raises UserError where the file is damaged.
        """
        path = self.path / "cameras.json"
        if not path.exists():
            return []
        try:
            return [_camera_of(record) for record in parse_json(path.read_text(encoding="utf-8"))]
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is no list of cameras ({error}): restore or delete it") from None

    # Log

    @property
    def log_path(self) -> Path:
        """The file that `log` appends to."""
        return self.path / "log.jsonl"

    def log(self, *records: Mapping[str, Any]) -> None:
        """Append records. After a resume iterations may come twice: the later record holds."""
        try:
            with self.log_path.open("a+b") as file:
                lines = "".join(json.dumps(record) + "\n" for record in records)
                file.write(_end_of_cut_line(file) + lines.encode())
        except OSError as error:
            raise UserError(cannot_write(self.log_path, error)) from error

    def read_log(self) -> list[dict[str, Any]]:
        """All whole records, in the order they were written; a line that a crash cut short or spoilt is left out."""
        if not self.log_path.exists():
            return []
        records = []
        for line in self.log_path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                records.append(record)
        return records

    # Renders and scores

    def renders_path(self, split: str, iteration: int) -> Path:
        """Folder of the rendered views of `split` ("train" or "test")."""
        return self.path / split / f"ours_{iteration}" / "renders"

    def truth_path(self, split: str, iteration: int) -> Path:
        """Folder of the photos, under the same names as their renders."""
        return self.path / split / f"ours_{iteration}" / "gt"

    def outputs_path(self, split: str, iteration: int, kind: str) -> Path:
        """Folder of the pictures of another `kind`, "depth", "alpha" or "count", under the same names."""
        return self.path / split / f"ours_{iteration}" / kind

    def masks_path(self, split: str, iteration: int) -> Path:
        """Folder of the masks, under the same names; photos of which every pixel counts have none."""
        return self.path / split / f"ours_{iteration}" / "masks"

    @property
    def results_path(self) -> Path:
        """Mean scores: {"ours_N": {"SSIM": …, "PSNR": …, "LPIPS": …}}."""
        return self.path / "results.json"

    @property
    def per_view_path(self) -> Path:
        """Scores by photo: {"ours_N": {"SSIM": {"00000.png": …}, …}}."""
        return self.path / "per_view.json"


class DamagedCheckpoint(UserError):
    """A file that cannot be read as a checkpoint."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is damaged or cut short, or no checkpoint of gns: delete it or name an earlier one")
        self.path = path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file; tensors on the CPU. Raises what `_checkpoint_document` raises."""
    state: dict[str, Any] = _checkpoint_document(path)["state"]
    return state


def _checkpoint_document(path: Path) -> dict[str, Any]:
    """What `RunFolder.save_checkpoint` wrote.

    Raises UserError where the file is missing or of another version, and `DamagedCheckpoint`, which is one, where it is
    cut short, damaged, or no checkpoint of ours.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # Torch writes its tensors as they are. What is packed is not ours, and may be a gigabyte of zeros.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise DamagedCheckpoint(path)
            if archive.testzip() is not None:  # torch.load does not look at the checksums
                raise DamagedCheckpoint(path)
        document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}: see the files in {path.parent}") from None
    except MemoryError:  # not the checkpoint's fault
        raise
    except Exception:  # damaged files make zipfile and torch raise all kinds
        raise DamagedCheckpoint(path) from None
    if not isinstance(document, dict) or "format" not in document or "state" not in document:
        raise UserError(f"{path} is no checkpoint of gns: name one from the checkpoints folder of a run")
    if document["format"] != CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} was written by gns {document.get('gns')} in format {document['format']}, and this version reads "
            f"{CHECKPOINT_FORMAT}: continue with the version that wrote it"
        )
    return document


def _read_json(path: Path) -> Any:
    """The value in a file that we have written; None where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _end_of_cut_line(file: BinaryIO) -> bytes:
    """What a file of lines needs before its next one: a crash may have cut the last one short."""
    if file.seek(0, os.SEEK_END) == 0:
        return b""
    file.seek(-1, os.SEEK_END)
    return b"" if file.read(1) == b"\n" else b"\n"


def _sha256(path: Path) -> str:
    """Raises UserError where the file cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return digest.hexdigest()


def _iterations(names: Iterable[str]) -> list[int]:
    """The numbers N of names `iteration_N`, ascending; other names are not ours and are passed over."""
    numbers = [name.removeprefix("iteration_") for name in names]
    return sorted(int(number) for number in numbers if number.isdecimal())


def _camera_record(index: int, camera: Camera) -> dict[str, Any]:
    """One entry of cameras.json: position and rotation are those of the camera in the world."""
    return {
        "id": index,
        "img_name": camera.name,
        "width": camera.width,
        "height": camera.height,
        "position": camera.center.tolist(),
        "rotation": camera.rotation.T.tolist(),
        "fy": camera.fy,
        "fx": camera.fx,
    }


def _camera_of(record: Mapping[str, Any]) -> Camera:
    """The camera that `_camera_record` noted, but for its principal point. Raises what its parts raise."""
    width, height = int(record["width"]), int(record["height"])
    pose = np.eye(4)
    pose[:3, :3] = np.array(record["rotation"], dtype=np.float64).T
    pose[:3, 3] = -pose[:3, :3] @ np.array(record["position"], dtype=np.float64)
    focals = float(record["fx"]), float(record["fy"])
    return Camera(width, height, *focals, width / 2, height / 2, pose, str(record["img_name"]))


def _cfg_args_text(config: TrainConfig) -> str:
    """The line that other tools evaluate: the settings of a scene as 3DGS names them."""
    settings = argparse.Namespace(
        data_device="cpu",  # where they keep photos: main memory is there on every machine
        eval=config.eval,
        images=config.images,
        model_path=str(config.model_path),
        resolution=config.resolution,
        sh_degree=config.sh_degree,
        source_path=str(config.source_path),
        white_background=config.white_background,
    )
    return str(settings)


def _read_cfg_args(path: Path, model_path: Path) -> SceneConfig:
    """The settings in a `cfg_args` file, without evaluating it as code. Raises UserError where it holds others."""
    try:
        call = ast.parse(path.read_text(encoding="utf-8").strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError("no call")
        written = {keyword.arg: keyword.value for keyword in call.keywords}
        names = ("source_path", "images", "resolution", "white_background", "eval")
        values = {name: ast.literal_eval(written[name]) for name in names if name in written}
        source_path = Path(values.pop("source_path"))
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, RecursionError, MemoryError):
        # The last two are what Python's parser says of 2,000 brackets.
        raise UserError(f"{path} is no line Namespace(source_path='…', …): restore it") from None
    try:
        return SceneConfig(source_path=source_path, model_path=model_path, **values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
