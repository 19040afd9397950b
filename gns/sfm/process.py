"""Running COLMAP in a process of its own, and following how far it is.

The job is a JSON file with

    folder       where everything about the distorted photos lies: images/, masks/, database.db, sparse/
    sparse       where the cameras and points of the scene go
    groups       names of photos, a list for each camera
    camera, matching, mapper, features, gpu, threads, undistort, masks, principal_point
                 the options (`gns.sfm.options`), resolved
    map          false: take the reconstruction that is in `folder`/sparse

and the result another, `folder`/result.json, with

    photos       the number of its camera by the name of each photo that found its place
    cameras      by number: model, width, height, parameters, as COLMAP has them for the distorted photos
    others       photos in each further reconstruction that does not hang together with the first
    points, error    3D points, and the mean distance in pixels at which photos see them from where they should be
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gns
from gns.errors import UserError
from gns.utils.atomic_files import write_text

LOG = "colmap.log"


def require_pycolmap() -> None:
    """Raise UserError where pycolmap is not installed; it is not imported here (see `gns.sfm`)."""
    if importlib.util.find_spec("pycolmap") is None:
        raise UserError(
            'finding out where photos were taken from needs pycolmap: run pip install ".[sfm]" in the folder of gns'
        )


def run_colmap(job: Mapping[str, Any], tell: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Do the job and return its result; `tell` hears of (stage, steps done, steps in all).

    COLMAP's messages are added to `folder`/colmap.log. When this process stops, so does COLMAP; what is in its database
    is kept. Raises UserError where it fails.
    """
    folder = Path(job["folder"])
    write_text(folder / "job.json", json.dumps(job))
    (folder / "result.json").unlink(missing_ok=True)
    package = str(Path(gns.__file__).parents[1])  # the child imports the very package that runs here
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gns.sfm.worker", str(folder / "job.json")],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,  # closed by the system when this process dies, which the worker notices
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process, which then ends the other
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    step = json.loads(line)
                    tell(step["stage"], step["done"], step["of"])
            status = process.wait()
        finally:
            process.kill()
            process.wait()
    if status != 0 or not (folder / "result.json").exists():
        raise UserError(f"COLMAP ended with status {status}: its last words are in {folder / LOG}; {_advice(status)}")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def _advice(status: int) -> str:
    if status == -9:
        return "the memory may be used up: try --features 4000, or photos of half the size"
    return "start the same command again to go on from there"
