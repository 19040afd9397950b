"""One cell of the grid: its command, and the name of its result."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.grid.scenes import SceneEntry
from gns import __version__
from gns.arguments import TrainConfig, decisive_options, parse_train
from gns.errors import UserError
from gns.rules import DEFAULT_METHOD, METHODS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class Entrant:
    """Who competes: a method, or a variant of one with further options of train.py."""

    name: str
    options: tuple[str, ...]

    @property
    def method(self) -> str:
        """What `--method` is."""
        method = DEFAULT_METHOD
        for word, following in zip(self.options, [*self.options[1:], ""], strict=True):
            if word == "--method":
                method = following
            elif word.startswith("--method="):
                method = word.partition("=")[2]
        return method

    @property
    def budgeted(self) -> bool:
        """Whether it is told how many Gaussians to end with."""
        return METHODS[self.method].budgeted


def method_entrant(method: str) -> Entrant:
    """A method as it is published. Raises UserError where there is no such method."""
    if method not in METHODS:
        raise UserError(f"there is no method {method}: choose from {', '.join(METHODS)}")
    return Entrant(method, ("--method", method))


def variant(text: str) -> Entrant:
    """The variant that NAME=OPTIONS describes, such as `best=--preset best`. Raises UserError."""
    name, equals, options = text.partition("=")
    if not equals or _NAME.fullmatch(name) is None:
        raise UserError(f"{text!r} is no variant: write NAME=OPTIONS, such as lowest='--final-cut lowest'")
    if name in METHODS:
        raise UserError(f"{name} is a method: give the variant another name")
    entrant = Entrant(name, tuple(shlex.split(options)))
    method_entrant(entrant.method)
    return entrant


@dataclass(frozen=True)
class Run:
    """One training. `budget` counts Gaussians; None where the method grows to what it needs."""

    scene: SceneEntry
    entrant: Entrant
    budget: int | None
    iterations: int
    seed: int
    device: str = "cpu"  # or "cuda": results agree to rounding only, and times not at all

    @property
    def options(self) -> tuple[str, ...]:
        """The options of train.py that decide the result. Those of the entrant come last, and prevail."""
        budget = () if self.budget is None else ("--final-budget", str(self.budget))
        length = ("--iterations", str(self.iterations), "--seed", str(self.seed))
        return (*self.scene.options, *budget, *length, *self.entrant.options)

    @property
    def key(self) -> str:
        """The name of the result: readable, and with a digest of all that decides it.

        That includes the version of gns, not the commit: a commit that changes results raises the version, or changes
        an option's default, which `Results.finished` notices.
        """
        decisive = [__version__, self.scene.name, self.options, self.device]
        digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:8]
        size = "open" if self.budget is None else str(self.budget)
        return f"{self.scene.name}-{self.entrant.name}-{size}-{self.iterations}-s{self.seed}-{digest}"

    @property
    def command(self) -> str:
        """What a person types for it, with the scene's folder by name."""
        return shlex.join(["python", "train.py", "-s", self.scene.folder, *self.options])

    @property
    def label(self) -> str:
        """The cell in words."""
        size = "" if self.budget is None else f", {self.budget:,} Gaussians"
        return f"{self.scene.name}, {self.entrant.name}{size}, {self.iterations:,} iterations, seed {self.seed}"

    def config(self) -> TrainConfig:
        """The options as train.py understands them; folders are only names. Raises UserError."""
        return _config(self.scene.folder, self.options)

    def decisive(self) -> dict[str, Any]:
        """All options that decide the result, defaults included. Raises UserError."""
        return decisive_options(self.config())

    def defaults(self) -> dict[str, Any]:
        """The same of a run of its method for which nothing else is asked."""
        return decisive_options(_config(self.scene.folder, ("--method", self.entrant.method)))


@cache
def _config(folder: str, options: tuple[str, ...]) -> TrainConfig:
    return parse_train(["-s", folder, "-m", str(Path("model")), *options])
