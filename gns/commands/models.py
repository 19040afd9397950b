"""The model that a command is given: a folder or a file, and what is known of its scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from gns.commands.options import ModelConfig
from gns.commands.render import read_scene_of
from gns.errors import UserError
from gns.exports import load
from gns.run_folder import RunFolder
from gns.scene import Camera, Gaussians, Scene
from gns.scene.viewpoint import opening_camera


@dataclass(frozen=True, eq=False)
class GivenModel:
    """A model, and the folder of its run where there is one."""

    path: Path  # of its file
    gaussians: Gaussians
    run: RunFolder | None
    source_path: Path | None  # of the scene, where the user names it

    @classmethod
    def of(cls, config: ModelConfig) -> GivenModel:
        """The one that options name. Raises UserError where there is none or it is damaged."""
        path = config.model_path
        if path.is_dir():
            run = RunFolder.open(path)
            iteration = run.resolve_iteration(None if config.iteration == -1 else config.iteration)
            return cls(run.model_path(iteration), run.load_model(iteration), run, config.source_path)
        # …/point_cloud/iteration_N/point_cloud.ply
        folder = path.resolve().parents[2] if len(path.resolve().parents) > 2 else path.parent
        is_known = path.name == "point_cloud.ply" and any(
            (folder / name).exists() for name in ("config.json", "cfg_args")
        )
        return cls(path, load(path), RunFolder.open(folder) if is_known else None, config.source_path)

    @property
    def title(self) -> str:
        """What the model is called: its folder's name or its file's."""
        return self.run.path.resolve().name if self.run else self.path.name

    @cached_property
    def cameras(self) -> Sequence[Camera]:
        """The cameras of the scene, held-out ones first, as the run noted them; none where it did not."""
        return self.run.cameras() if self.run else []

    @property
    def background(self) -> tuple[float, float, float]:
        """RGB in [0, 1] behind the scene: white where the run was told so, else black."""
        level = 1.0 if self.run and self.run.config.white_background else 0.0
        return level, level, level

    def opening_camera(self) -> Camera | None:
        """Where to begin looking; None where no camera is known."""
        return opening_camera(self.cameras, self.gaussians) if self.cameras else None

    def scene(self, *, quiet: bool) -> Scene:
        """The scene it was trained on. Raises UserError where it is not known, or cannot be read."""
        if self.run is None:
            raise UserError(f"{self.path} does not lie in the output folder of a training")
        return read_scene_of(self.run.config, self.source_path, quiet=quiet)

    def with_gaussians(self, gaussians: Gaussians) -> GivenModel:
        """The same with another model."""
        return replace(self, gaussians=gaussians)
