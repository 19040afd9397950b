"""Say what a scene is, what was found and not used, and what looks wrong; draw it."""

from __future__ import annotations

from collections.abc import Iterable

from gns.arguments import InspectConfig
from gns.scene import Camera
from gns.scene.inspection import Row, as_lines, describe_capture, describe_scene, doubts, photo_sizes, unused_entries
from gns.scene.plot import check_plot, draw_scene
from gns.scene.readers import SceneOptions, find_reader, read_scene, split_frames
from gns.scene.readers.frames import Frame
from gns.utils.console import say

_WARNING = "warning: "
_MODEL_FOLDERS = ("sparse", "colmap", "dense", "distorted")


def inspect_scene(config: InspectConfig, told: list[Row]) -> None:
    """Print the report, whose rows join `told`, and write the picture that `config.plot` names.

    What the scene's files list comes before any photo is decoded, and the picture too: both help where reading then
    ends in an error. Raises UserError where the scene cannot be read, or the picture not be written.
    """
    if config.plot is not None:
        check_plot(config.plot)
    source = config.source_path
    options = SceneOptions(
        images=config.images,
        resolution=config.resolution,
        follow_links=config.follow_links,
        image_memory=config.image_memory,
    )
    reader = find_reader(source)
    capture = reader.read(source, options)
    train, test = split_frames(capture, options, source)
    _print(told, describe_capture(source, reader.looks_for, capture, train, test, photo_sizes([*train, *test])))
    if config.plot is not None:
        cameras, held_out = ([_pinhole(frame) for frame in frames] for frames in (train, test))
        draw_scene(source.resolve().name, cameras, held_out, capture.points, config.plot)
    lines: list[str] = []
    scene = read_scene(source, options, lines.append)
    _print(told, describe_scene(scene, own_points=capture.points is not None))
    _print(told, [("note", line) for line in lines if not line.startswith(_WARNING)])
    # What a reader passes over in its own format, it says itself.
    colmap = reader.looks_for.endswith("(COLMAP)")
    own = [source / name for name in _MODEL_FOLDERS] if colmap else source.glob("transforms*.json")
    if unused := unused_entries(source, [*train, *test], own):
        _print(told, [("unused", ", ".join(unused))])
    warnings = [line.removeprefix(_WARNING) for line in lines if line.startswith(_WARNING)]
    _print(told, [("doubts", line) for line in [*warnings, *doubts(scene)]] or [("doubts", "none")])
    if config.plot is not None:
        say(f"drawn in {config.plot}", quiet=False)


def _print(told: list[Row], rows: Iterable[Row]) -> None:
    rows = list(rows)
    told += rows
    for line in as_lines(rows):
        say(line, quiet=False)


def _pinhole(frame: Frame) -> Camera:
    """The frame's camera without its distortion, for the picture."""
    lens = frame.lens
    return Camera(lens.width, lens.height, lens.fx, lens.fy, lens.cx, lens.cy, frame.world_to_camera, frame.name)
