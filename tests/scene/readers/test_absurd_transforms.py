"""Numbers and nestings in transforms.json that no camera has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gns import cli
from gns.errors import UserError
from gns.scene.readers import SceneOptions, read_scene
from gns.testing.scene_files import small_scene, write_nerfstudio

FAR = [[1, 0, 0, 10**399], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]

FURTHER = [[1, 0, 0, 0], [0, 1, 0, 1e38], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        ({"fl_x": 10**399}, "fl_x = inf"),
        ({"w": 10**399}, "w = inf"),
        ({"k1": -(10**399)}, "k1 = -inf"),
        ({"fl_x": 5e-324, "fl_y": 5e-324}, "no focal length"),
        ({"fl_x": None, "fl_y": None, "camera_angle_x": 5e-324}, "no focal length"),
        ({"transform_matrix": FAR}, "a pose that is not finite"),
        ({"transform_matrix": FURTHER}, r"the camera of the photo images/01\.png is 1e\+38 away from the origin"),
    ],
)
def test_absurd_numbers_are_refused(tmp_path: Path, frame: dict[str, Any], sentence: str) -> None:
    folder = write_nerfstudio(tmp_path, small_scene())
    content = json.loads((folder / "transforms.json").read_text())
    content["frames"][1] |= frame
    (folder / "transforms.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=sentence):
        read_scene(folder, SceneOptions())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"frames": ' + "[" * 100_000])
def test_deep_nesting_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "transforms.json").write_text(text)
    with pytest.raises(UserError, match=r"transforms\.json is cut short or no JSON: .*nested too deeply"):
        read_scene(tmp_path, SceneOptions())


def test_a_name_that_is_too_long_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_nerfstudio(tmp_path / "scene", small_scene())
    text = (folder / "transforms.json").read_text()
    (folder / "transforms.json").write_text(text.replace("images/01.png", "images/" + "n" * 300))
    begin = ["--final-budget", "100", "--iterations", "5", "--quiet"]
    for options in (["-s", str(folder), "-m", str(tmp_path / "out")], ["-s", str(folder), "-m", "n" * 300]):
        assert cli.run(cli.train, [*options, *begin]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and "n" * 300 in printed and printed.count("\n") == 1
