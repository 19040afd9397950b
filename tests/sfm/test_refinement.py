"""What the last step of a reconstruction makes better, on cameras and points that are known."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason='structure from motion needs pycolmap: pip install ".[sfm]"'
)

# In a process of its own, as always (gns.sfm). 20 photos of one camera whose axis meets them off the middle, with
# noise of 0.3 pixels. They are first adjusted with that point held in the middle, as mapping leaves them.
PROGRAM = """
import json, sys, tempfile
from pathlib import Path
import pycolmap
from gns.sfm.refinement import _adjust, refined

pycolmap.logging.minloglevel = 2
pycolmap.set_random_seed(3)
photos, principal_point = int(sys.argv[1]), sys.argv[2] == "yes"
options = pycolmap.SyntheticDatasetOptions()
options.num_rigs, options.num_frames_per_rig, options.num_points3D, options.track_length = 1, photos, 600, 5
options.camera_params = [1280.0, float(sys.argv[4]), 372.0, 0.0]  # of 1024 x 768 pixels
noise = pycolmap.SyntheticNoiseOptions()
noise.point2D_stddev = 0.3
folder = Path(tempfile.mkdtemp(dir=sys.argv[3]))
with pycolmap.Database.open(folder / "database.db") as database:
    model = pycolmap.synthesize_dataset(options, database)
    pycolmap.synthesize_noise(noise, model, database)
camera, = model.cameras.values()
camera.principal_point_x, camera.principal_point_y = 512.0, 384.0
for number in sorted(model.points3D)[::2]:  # half of the points are yet to be found
    model.delete_point3D(number)
_adjust(model, set(), 1)
before = model.num_points3D(), model.compute_mean_reprojection_error()
model = refined(
    model, folder / "database.db", folder, folder / "work", principal_point=principal_point, threads=1, seed=0
)
camera, = model.cameras.values()
model.update_point_3d_errors()
print(json.dumps({
    "principal_point": [camera.principal_point_x, camera.principal_point_y],
    "points": [before[0], model.num_points3D()],
    "error": [before[1], model.compute_mean_reprojection_error()],
}))
"""


def refine(folder: Path, *, photos: int = 20, principal_point: bool = True, across: float = 528.0) -> dict[str, Any]:
    words = [str(photos), "yes" if principal_point else "no", str(folder), str(across)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def test_principal_point_and_missing_points_are_found(tmp_path: Path) -> None:
    told = refine(tmp_path)
    x, y = told["principal_point"]
    assert abs(x - 528) < 2 and abs(y - 372) < 2
    before, after = told["points"]
    assert before == 300 and 580 <= after <= 610
    assert told["error"][1] < told["error"][0] and told["error"][1] < 0.5


@pytest.mark.parametrize(
    "case", [{"principal_point": False}, {"photos": 8}, {"across": 600.0}], ids=["unwanted", "few photos", "far away"]
)
def test_the_middle_stays(tmp_path: Path, case: dict[str, Any]) -> None:
    told = refine(tmp_path, **case)
    assert told["principal_point"] == [512, 384]
    assert told["points"][1] > 500  # of which half had been missing
