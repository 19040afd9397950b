"""Focal lengths that the global mapper needs and EXIF does not tell."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own, as always (gns.sfm): 24 photos of two cameras with focal lengths of 1280 pixels, which the
# database has as 2000; the first camera's is said to be from EXIF.
PROGRAM = """
import json, sys
from pathlib import Path
import pycolmap
from gns.sfm.focal_lengths import note_focal_lengths

pycolmap.logging.minloglevel = 2
pycolmap.set_random_seed(3)
options = pycolmap.SyntheticDatasetOptions()
options.num_rigs, options.num_frames_per_rig, options.num_points3D, options.track_length = 2, 12, 500, 5
options.camera_params = [1280.0, 512.0, 384.0, 0.0]
folder = Path(sys.argv[1])
database = folder / "database.db"
with pycolmap.Database.open(database) as opened:
    pycolmap.synthesize_dataset(options, opened)
    first, second = opened.read_all_cameras()
    for camera in (first, second):
        camera.params = [2000.0, 512.0, 384.0, 0.0]
        camera.has_prior_focal_length = camera is first
        opened.update_camera(camera)
    before = opened.num_verified_image_pairs()
small = pycolmap.IncrementalPipelineOptions()
small.num_threads, small.random_seed, small.min_model_size = 1, 0, 3
note_focal_lengths(database, folder, folder / "some", small, pycolmap.TwoViewGeometryOptions())
with pycolmap.Database.open(database) as opened:
    cameras = opened.read_all_cameras()
    after = opened.num_verified_image_pairs()
print(json.dumps({
    "focal_lengths": [camera.focal_length for camera in cameras],
    "known": [camera.has_prior_focal_length for camera in cameras],
    "verified": [before, after],
}))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason='structure from motion needs pycolmap: pip install ".[sfm]"'
)
def test_an_unknown_focal_length_is_found_and_a_known_one_left_alone(tmp_path: Path) -> None:
    words = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    known, found = told["focal_lengths"]
    assert known == 2000 and abs(found / 1280 - 1) < 0.02 and told["known"] == [True, True]
    before, after = told["verified"]
    assert after > 0.5 * before > 0  # matches are still there, as far as they agree with the focal lengths
