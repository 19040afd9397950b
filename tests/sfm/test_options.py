"""The command line of convert.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from gns.errors import UserError
from gns.sfm.options import parse_convert


def test_a_command_line_of_3dgs_is_understood() -> None:
    words = "-s photos --no_gpu --skip_matching --camera OPENCV --resize --colmap_executable c --magick_executable m"
    config = parse_convert(words.split())
    assert (config.source_path, config.gpu, config.skip_matching, config.camera) == (
        Path("photos"),
        False,
        True,
        "OPENCV",
    )
    assert (config.resize, config.colmap_executable, config.magick_executable) == (True, "c", "m")


def test_photos_may_stand_alone() -> None:
    assert parse_convert(["my photos", "-o", "out"]) == parse_convert(["-o", "out", "-s", "my photos"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "-s (--source-path) is missing"),
        (["p", "--camera", "FISH"], "--camera is 'FISH': choose one of SIMPLE_RADIAL, RADIAL, OPENCV"),
        (["p", "--min-registered", "1.5"], "--min-registered is 1.5: give a share from 0 to 1"),
        (["p", "--frames", "-1"], "--frames is -1: it must be at least 0"),
        (["p", "--match", "all"], "unknown option --match: did you mean --matching?"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as refusal:
        parse_convert(words)
    assert str(refusal.value).startswith(sentence)
