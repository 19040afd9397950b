"""Make a scene of a folder of photos or of a video: structure from motion, then the layout of 3DGS.

    SCENE/images, masks, sparse/0    the scene
    SCENE/convert.json               what it was made of, and how: there once it is finished
    SCENE/distorted                  where it is worked out: photos upright, COLMAP's database and reconstructions, log

A second start goes on where the first one stopped: photos whose features are known and pairs that are matched are
not looked at again.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from gns.errors import UserError
from gns.scene.readers import colmap, is_scene
from gns.scene.readers.frames import some_of
from gns.scene.readers.photos import is_video
from gns.sfm.options import ConvertConfig
from gns.sfm.pairs import matching_for
from gns.sfm.photos import SourcePhoto, find_photos, groups_of, list_photos, prepare_photo
from gns.sfm.process import require_pycolmap, run_colmap
from gns.sfm.scene_photos import write_photos, write_reduced
from gns.sfm.video import choose_frames, write_frames
from gns.utils.atomic_files import write_text
from gns.utils.console import say, warn
from gns.utils.folder_lock import locked
from gns.utils.progress import Progress

FINISHED_FILE = "convert.json"
FEWEST_PHOTOS = 3

_WORTH_A_WARNING = 0.9  # share of registered photos below which the result deserves one
_UNITS = {"matching": "pair", "comparing looks": "step", "refining": "step", "looking for sharp frames": "frame"}
# What of a call decides which part of the work can be kept: features hang on the first, reconstructions on both.
_OF_FEATURES = ("camera", "features", "mask_features")
_OF_RECONSTRUCTIONS = ("matching", "mapper", "principal_point")


@dataclass(frozen=True)
class Source:
    """What a scene is made of."""

    path: Path  # as the user named it
    root: Path | None  # the folder of the photos; None: `path` is a video
    scene: Path


def run_convert(config: ConvertConfig) -> int:
    """What convert.py does. Returns the exit status 0; raises UserError.

    With `config.json` the result is printed on stdout as JSON, and all else goes to stderr.
    """

    def report(text: str) -> None:
        if config.json and not config.quiet:
            warn(text)
        elif not config.json:
            say(text, config.quiet)

    source = find_source(config)
    for option in ("colmap_executable", "magick_executable"):
        if getattr(config, option):
            report(f"--{option.replace('_', '-')} is not needed: COLMAP is called through pycolmap, and Pillow resizes")
    with locked(source.scene, "images", "distorted/images", flag="-o"), Progress(quiet=config.quiet) as progress:
        record = _convert(config, source, report, progress)
        if config.resize:
            write_reduced(source.scene, record["registered_photos"], _stage(progress, "resizing"))
    if config.json:
        print(json.dumps({"status": 0, **record}), flush=True)
    return 0


def is_ready(path: Path) -> bool:
    """Whether a folder is a scene to train on as it is, and no folder of photos that becomes one in place."""
    return is_scene(path) and not ((path / "input").is_dir() and (path / "distorted" / "inputs.json").exists())


def find_source(config: ConvertConfig) -> Source:
    """What is to be converted, and the folder of the scene. Raises UserError where there is nothing to convert."""
    path = config.source_path.expanduser()
    root: Path | None
    if path.is_file():
        if not is_video(path.name):
            raise UserError(f"{path} is no video that is known by its name: give a folder of photos or a video")
        root, scene = None, Path("scenes") / path.stem
    elif colmap.matches(path) and not (path / "input").is_dir():
        photos = path / "images"
        raise UserError(
            f"{path} is a scene already: train on it with -s {path}"
            + (f", or give its folder of photos, {photos}, to find their poses anew" if photos.is_dir() else "")
        )
    else:
        root, scene = find_photos(path)
    return Source(path, root, config.output.expanduser() if config.output else scene)


def _convert(
    config: ConvertConfig, source: Source, report: Callable[[str], None], progress: Progress
) -> dict[str, Any]:
    """Everything but what goes to stdout at the end. Returns what convert.json holds."""
    scene, distorted = source.scene, source.scene / "distorted"
    notes, warnings = list[str](), list[str]()
    photos = list_photos(source.path, source.root, notes, warnings) if source.root else None
    inputs = _inputs(config, source, photos)
    if (finished := _read_json(scene / FINISHED_FILE)) is not None and (scene / "sparse" / "0").is_dir():
        if finished.get("inputs") != inputs:
            raise UserError(
                f"{scene} holds a finished scene of other photos or options: choose another folder with -o, or delete "
                f"{scene / FINISHED_FILE} to make it again there"
            )
        report(f"{scene} is finished: {_found(finished)}")
        return finished
    if colmap.matches(scene) and finished is None:
        raise UserError(
            f"{scene} holds a scene that was not made here: train on it, choose another folder with -o, or delete "
            f"{scene / 'sparse'}"
        )
    require_pycolmap()
    started = monotonic()
    for line in notes:
        report(line)
    for line in warnings:
        report(f"warning: {line}")
    _keep_what_holds(distorted, inputs, config.skip_matching, report)
    groups = _prepared(config, source, photos, distorted, progress)
    names = [name for group in groups for name in group]
    if len(names) < FEWEST_PHOTOS:
        raise UserError(f"{source.path} has {len(names)} photos: a scene needs {FEWEST_PHOTOS} at the very least")
    matching = config.matching if config.matching != "auto" else matching_for(len(names), source.root is None)
    report(f"{len(names)} photos of {_counted(len(groups), 'camera')}; {matching} matching")
    job = {
        "folder": str(distorted),
        "sparse": str(distorted / "undistorted"),
        "groups": groups,
        "camera": config.camera,
        "matching": matching,
        "mapper": config.mapper,
        "features": config.features,
        "gpu": config.gpu,
        "threads": config.threads,
        "undistort": config.undistort,
        "principal_point": config.principal_point,
        "masks": config.mask_features and (distorted / "masks").is_dir(),
        "map": not (distorted / "sparse").is_dir(),
    }
    result = run_colmap(job, lambda stage, done, of: progress.tell(stage, done, of, _UNITS.get(stage, "photo")))
    if strays := sorted(set(result["photos"]) - set(names)):
        raise UserError(
            f"{distorted / 'sparse'} has the photo {strays[0]}, which is not in {source.path}: put it there"
        )
    _refuse_too_few(result, names, config)
    write_photos(
        distorted,
        scene,
        result["photos"],
        result["cameras"],
        undistorting=config.undistort,
        tell=_stage(progress, "undistorting" if config.undistort else "copying"),
    )
    record = _record(config, inputs, result, names, scene, monotonic() - started)
    shutil.rmtree(scene / "sparse" / "0", ignore_errors=True)
    (scene / "sparse").mkdir(exist_ok=True)
    (distorted / "undistorted").rename(scene / "sparse" / "0")
    write_text(scene / FINISHED_FILE, json.dumps(record, indent=2) + "\n")
    _say_result(record, report)
    return record


# --- what was done before ---


def _inputs(config: ConvertConfig, source: Source, photos: Sequence[SourcePhoto] | None) -> dict[str, Any]:
    """What the scene hangs on, for convert.json: the files with their sizes and dates, and the options that matter."""
    decisive = (*_OF_FEATURES, *_OF_RECONSTRUCTIONS, "undistort")
    options: dict[str, Any] = {name: getattr(config, name) for name in decisive}
    if photos is None:
        return {"video": _stamp(source.path), "options": {**options, "frames": config.frames}}
    stamps = {photo.name: [*_stamp(photo.path), *(_stamp(photo.mask) if photo.mask else [])] for photo in photos}
    return {"photos": stamps, "options": options}


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _keep_what_holds(
    distorted: Path, inputs: Mapping[str, Any], skip_matching: bool, report: Callable[[str], None]
) -> None:
    """Remove from an unfinished conversion what other photos or options than these have led to."""
    if skip_matching:
        if not colmap.is_model(distorted / "sparse" / "0"):
            raise UserError(f"--skip-matching takes a reconstruction from {distorted / 'sparse/0'}: put one there")
        return
    before = _read_json(distorted / "inputs.json")
    if before is not None:
        of_features = _differ(before, inputs, _OF_FEATURES) or any(
            inputs.get("photos", {}).get(name) != stamp for name, stamp in before.get("photos", {}).items()
        )
        if of_features or before.get("video") != inputs.get("video") or _differ(before, inputs, ("frames",)):
            report(f"{distorted} was begun with other photos or options: starting from the beginning")
            shutil.rmtree(distorted)
        elif before != inputs and (_differ(before, inputs, _OF_RECONSTRUCTIONS) or "photos" in inputs):
            shutil.rmtree(distorted / "sparse", ignore_errors=True)
            if before.get("photos") != inputs.get("photos"):
                (distorted / "alike.json").unlink(missing_ok=True)
        elif (distorted / "database.db").exists():
            report(f"going on with what is in {distorted}")
    distorted.mkdir(parents=True, exist_ok=True)
    write_text(distorted / "inputs.json", json.dumps(inputs))


def _differ(before: Mapping[str, Any], now: Mapping[str, Any], options: Sequence[str]) -> bool:
    earlier, later = before.get("options", {}), now["options"]
    return any(earlier.get(name) != later.get(name) for name in options)


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is none that can be read."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    return None


# --- photos in ---


def _prepared(
    config: ConvertConfig,
    source: Source,
    photos: Sequence[SourcePhoto] | None,
    distorted: Path,
    progress: Progress,
) -> list[list[str]]:
    """The photos put into `distorted`/images: their names, a list for each camera."""
    if photos is None:
        return [_frames(source.path, config.frames, distorted, progress)]
    cameras = {}
    for done, photo in enumerate(photos):
        progress.tell("reading photos", done, len(photos))
        cameras[photo.name] = prepare_photo(photo, distorted, turning=not config.skip_matching)
    progress.tell("reading photos", len(photos), len(photos))
    return groups_of(cameras)


def _frames(video: Path, count: int, distorted: Path, progress: Progress) -> list[str]:
    """The names of the frames taken from the video; those of an earlier call where it took all."""
    if (taken := _read_json(distorted / "frames.json")) is not None:
        names: list[str] = taken["names"]
        return names
    chosen = choose_frames(video, count, _stage(progress, "looking for sharp frames"))
    names = write_frames(video, chosen, distorted / "images", _stage(progress, "taking frames"))
    write_text(distorted / "frames.json", json.dumps({"names": names}))
    return names


def _stage(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, of: progress.tell(stage, done, of, _UNITS.get(stage, "photo"))


# --- what came of it ---


def _refuse_too_few(result: Mapping[str, Any], names: Sequence[str], config: ConvertConfig) -> None:
    """Raise UserError where fewer photos found their place than the user takes."""
    found = len(result["photos"])
    if found >= FEWEST_PHOTOS and found >= config.min_registered * len(names):
        return
    apart = f", and {', '.join(map(str, result['others']))} more apart from them" if result["others"] else ""
    remedies = [
        "take more photos in between, so that each shows two thirds of what its neighbour shows",
        "walk round instead of turning on the spot",
        "leave blurred ones out",
    ]
    if config.matching not in ("exhaustive", "auto"):
        remedies.append("compare all with all (--matching exhaustive)")
    if found >= FEWEST_PHOTOS:
        remedies.append(f"or make do with them (--min-registered {found / len(names):.2g})")
    raise UserError(f"only {found} of {len(names)} photos found their place{apart}: {', '.join(remedies)}")


def _record(
    config: ConvertConfig,
    inputs: Mapping[str, Any],
    result: Mapping[str, Any],
    names: Sequence[str],
    scene: Path,
    seconds: float,
) -> dict[str, Any]:
    """What convert.json holds and `--json` prints."""
    return {
        "scene": str(scene),
        "photos": len(names),
        "registered": len(result["photos"]),
        "registered_photos": sorted(result["photos"]),
        "not_registered": sorted(set(names) - set(result["photos"])),
        "points": result["points"],
        "error_pixels": result["error"],
        "cameras": list(result["cameras"].values()),
        "undistorted": config.undistort,
        "seconds": round(seconds, 1),
        "inputs": inputs,
    }


def _say_result(record: Mapping[str, Any], report: Callable[[str], None]) -> None:
    report(_found(record))
    if record["registered"] < record["photos"]:
        missing = f"without a place: {some_of(record['not_registered'], 8)}"
        report(f"warning: {missing}" if record["registered"] < _WORTH_A_WARNING * record["photos"] else missing)
    scene = record["scene"]
    program = "python train.py" if sys.argv[0].endswith("convert.py") else "gns train"
    report(f"{scene} is ready. To train: {program} -s {scene} --final-budget 300k")


def _found(record: Mapping[str, Any]) -> str:
    return (
        f"{record['registered']} of {record['photos']} photos found their place; {record['points']:,} points, seen "
        f"within {record['error_pixels']:.2f} pixels on average"
    )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
