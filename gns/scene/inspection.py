"""What a scene is, and what looks wrong with it, in lines for a person.

A report is rows of a label and a text. `describe_capture` needs no photo decoded, so that it can be shown before one
turns out to be damaged; `describe_scene` tells the rest, and `doubts` what to look into.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gns.errors import UserError
from gns.scene.camera import Camera
from gns.scene.on_demand import in_turn
from gns.scene.points import PointCloud
from gns.scene.readers.frames import Capture, Frame
from gns.scene.scene import Scene
from gns.scene.view import View
from gns.utils.images import image_size
from gns.utils.undistortion import Lens

Floats = npt.NDArray[np.float64]
Row = tuple[str, str]
Size = tuple[int, int]

MOST_POINTS = 20_000  # looked at, evenly chosen
_MOST_LOOKS = 20_000_000  # points × photos, of a capture of many
_SHOWN = 3
_FEW_PHOTOS = 15
_FIELDS_OF_VIEW = (10.0, 150.0)  # degrees, of photos that pinhole cameras take
_OFF_CENTRE = 0.2  # of a photo's side, that a principal point may be off its middle
_MOSTLY_HIDDEN = 0.9
_STRIDE = 8  # pixels, of those that are looked at
_ONE_COLOUR = 2.0  # levels; the standard deviation of a photo that shows something is larger
_SAME_PLACE = 1e-3  # of the median depth: closer cameras see no depth between them


@dataclass(frozen=True, eq=False)
class Sight:
    """What cameras see of points, with nothing hidden by anything."""

    counts: npt.NDArray[np.int64]  # [V], points in each picture
    times: npt.NDArray[np.int64]  # [P], pictures that each point is in
    depths: Floats  # of all points in all pictures


def sight(cameras: Sequence[Camera], positions: Floats) -> Sight:
    """What `cameras` see of the points at `positions` [P, 3]."""
    counts, times, depths = [], np.zeros(len(positions), np.int64), [np.empty(0)]
    for camera in cameras:
        _, depth, inside = camera.project(positions)
        counts.append(int(inside.sum()))
        times += inside
        depths.append(depth[inside])
    return Sight(np.array(counts, np.int64), times, np.concatenate(depths))


def sampled_sight(scene: Scene) -> Sight:
    """What the training cameras see of the points, or of a sample of them where there are many."""
    most = min(MOST_POINTS, max(1, _MOST_LOOKS // len(scene.train)))
    positions = scene.points.positions
    return sight([view.camera for view in scene.train], positions[:: -(-len(positions) // most) or 1])


# --- rows ---


def describe_capture(
    source: Path,
    format_name: str,
    capture: Capture,
    train: Sequence[Frame],
    test: Sequence[Frame],
    sizes: Mapping[Size, int],
) -> list[Row]:
    """Format, photos, split, cameras by model, points, masks: what the files of the scene list.

    `sizes` counts the photos by their (width, height).
    """
    frames = [*train, *test]
    folders = Counter(frame.image_path.parent for frame in frames)
    places = [f"{count} in {_relative(folder, source)}" for folder, count in folders.most_common(_SHOWN)]
    further = f" and in {len(folders) - len(places)} more folders" if len(folders) > len(places) else ""
    return [
        ("scene", str(source)),
        ("format", format_name),
        ("photos", ", ".join(places) + further + _describe_sizes(sizes)),
        *_labelled("cameras", _describe_lenses(frames, sizes)),
        ("split", _describe_split(capture, train, test)),
        ("points", _describe_cloud(capture.points)),
        ("masks", _describe_listed_masks(frames)),
    ]


def describe_scene(scene: Scene, *, own_points: bool) -> list[Row]:
    """Sizes, what is seen of the points and how far away, extent, and what masks hide, as training will have it.

    `own_points`: the scene came with its points, which then say something about it.
    """
    views = [*scene.train, *scene.test]
    rows = [("used as", _describe_sizes(Counter((view.camera.width, view.camera.height) for view in views))[2:])]
    if own_points:
        rows.append(("seen", describe_sight(sampled_sight(scene))))
    rows.append(("extent", f"{scene.extent:.4g} units of the scene"))
    if masked := [view for view in views if view.has_mask]:
        hidden = [100 * (1 - _share_that_counts(view)) for view in in_turn(masked)]
        rows.append(("hidden", f"{_range(hidden)} % of a photo by its mask, on average {np.mean(hidden):.0f} %"))
    return rows


def photo_sizes(frames: Sequence[Frame]) -> Counter[Size]:
    """The photos counted by (width, height) as their files' headers have it; those that cannot be read are left out."""
    sizes = Counter[Size]()
    for frame in frames:
        with suppress(UserError):
            sizes[image_size(frame.image_path)] += 1
    return sizes


def describe_sight(seen: Sight) -> str:
    """How many of the points are seen, how often, and at which depths."""
    if not len(seen.depths):
        return "none of the points by any training photo"
    low, middle, high = np.percentile(seen.depths, [1, 50, 99])
    return (
        f"{_percent((seen.times > 0).mean())} of the points by training photos, {_percent((seen.times > 1).mean())} by "
        f"two or more; the median photo sees {_percent(np.median(seen.counts) / len(seen.times))}, at depths of "
        f"{low:.3g} to {high:.3g} (median {middle:.3g})"
    )


def summary(scene: Scene, seen: Sight | None = None) -> str:
    """The scene in a line, for the start of a training; `seen` is its `sampled_sight` where that is known already."""
    seen = seen or sampled_sight(scene)
    text = f"{len(scene.train)} photos to learn from, {len(scene.test) or 'none'} held out; "
    text += f"{len(scene.points.positions):,} points, {_percent((seen.times > 0).mean())} seen by the photos"
    if len(seen.depths):
        low, high = np.percentile(seen.depths, [1, 99])
        text += f" at depths of {low:.3g} to {high:.3g}"
    return f"{text}; extent {scene.extent:.3g}"


def as_lines(rows: Iterable[Row]) -> list[str]:
    """Rows as text, the labels in a column of their own; a label that is as the one before is left out."""
    lines, before = [], ""
    for label, text in rows:
        lines.append(f"{'' if label == before else label:<9} {text}".rstrip())
        before = label
    return lines


def _labelled(label: str, texts: Iterable[str]) -> list[Row]:
    return [(label, text) for text in texts]


def _describe_sizes(sizes: Mapping[Size, int]) -> str:
    """After a comma, the most frequent sizes."""
    shown = [f"{width} × {height}" for (width, height), _ in Counter(sizes).most_common(_SHOWN)]
    return f", {_listed(shown, len(sizes))} pixels" if shown else ""


def _describe_lenses(frames: Sequence[Frame], sizes: Mapping[Size, int]) -> list[str]:
    """A line for each camera model."""
    by_model = defaultdict[str, list[Lens]](list)
    for frame in frames:
        by_model[frame.lens.model].append(frame.lens)
    lines = []
    for model, of_photos in by_model.items():
        lenses = set(of_photos)
        angles = [_fields_of_view(lens.width, lens.height, lens.fx, lens.fy) for lens in lenses]
        line = f"{len(lenses)} {model} for {len(of_photos)} photos, "
        line += f"{_range([wide for wide, _ in angles])}° wide, {_range([high for _, high in angles])}° high"
        calibrated = Counter((lens.width, lens.height) for lens in of_photos)
        if not calibrated.keys() <= sizes.keys():
            line += f", calibrated for photos{_describe_sizes(calibrated).replace(',', ' of', 1)}"
        if not all(lens.is_pinhole for lens in lenses):
            line += "; their distortion is taken out"
        elif model not in ("PINHOLE", "SIMPLE_PINHOLE"):
            line += "; without noticeable distortion"
        lines.append(line)
    return lines


def _describe_split(capture: Capture, train: Sequence[Frame], test: Sequence[Frame]) -> str:
    if not test:
        return f"all {len(train)} to learn from, none held out"
    names = _listed([frame.name for frame in test[:_SHOWN]], len(test))
    rule = "every 8th by name" if capture.test is None else "as the scene has it"
    return f"{len(train)} to learn from, {len(test)} held out, {rule}: {names}"


def _describe_cloud(points: PointCloud | None) -> str:
    if points is None:
        return "none: training makes its own"
    low, high = np.percentile(points.positions, [5, 95], axis=0)
    box = " × ".join(f"{side:.3g}" for side in high - low)
    return f"{len(points.positions):,}, most of them in a box of {box}"


def _describe_listed_masks(frames: Sequence[Frame]) -> str:
    masked = sum(frame.mask_path is not None for frame in frames)
    return f"of {masked} of {len(frames)} photos" if masked else "none"


# --- doubts ---


def doubts(scene: Scene, seen: Sight | None = None) -> list[str]:
    """What looks wrong and is not refused, each a sentence with what to do; for `seen` see `summary`."""
    views, seen = [*scene.train, *scene.test], seen or sampled_sight(scene)
    return [
        *_doubts_about_photos(scene.train, views),
        *_doubts_about_cameras(views, seen),
        *_doubts_about_points(scene, seen),
    ]


def _doubts_about_photos(train: Sequence[View], views: Sequence[View]) -> list[str]:
    found = []
    if len(train) < _FEW_PHOTOS:
        found.append(f"{len(train)} photos are few to learn a scene from: expect floaters, or add photos")
    # Each photo is looked at once: they may not all fit into memory.
    contrasts, counting = list[float](), list[float]()
    for view in in_turn(views):
        contrasts.append(float(view.image[::_STRIDE, ::_STRIDE].float().std()))
        counting.append(_share_that_counts(view))
    if blank := [view for view, contrast in zip(views, contrasts, strict=True) if contrast < _ONE_COLOUR]:
        found.append(f"{_named(blank)} shows a single colour: remove it, or restore it if it should show something")
    masked = [view.has_mask for view in views]
    if hidden := [view for view, share in zip(views, counting, strict=True) if share < 1 - _MOSTLY_HIDDEN]:
        found.append(
            f"the masks of {_named(hidden)} hide more than {100 * _MOSTLY_HIDDEN:.0f} % of the photo: white must be "
            "what counts; invert them if they are the other way round"
        )
    if any(masked) and all(share == 1 for share in counting):
        found.append("the masks hide nothing: pixels that must not be learned from should be black in them")
    return found


def _share_that_counts(view: View) -> float:
    """Of the pixels, by the mask; 1 exactly where it hides nothing, or there is none."""
    return 1.0 if view.mask is None else int(view.mask.sum()) / view.mask.numel()


def _doubts_about_cameras(views: Sequence[View], seen: Sight) -> list[str]:
    found = []
    low, high = _FIELDS_OF_VIEW
    angles = [_fields_of_view(c.width, c.height, c.fx, c.fy)[0] for c in (view.camera for view in views)]
    if odd := [view for view, angle in zip(views, angles, strict=True) if not low <= angle <= high]:
        angle = angles[views.index(odd[0])]
        found.append(
            f"the camera of {_named(odd)} sees {angle:.3g}° from side to side, hardly a photo's: check its focal length"
        )
    if odd := [view for view in views if _off_centre(view.camera) > _OFF_CENTRE]:
        camera = odd[0].camera
        found.append(
            f"the principal point of {_named(odd)} is ({camera.cx:.4g}, {camera.cy:.4g}) in {camera.width} × "
            f"{camera.height} pixels: check cx and cy unless the photos are cut out of larger ones"
        )
    centers = np.stack([view.camera.center for view in views])
    spread = float(np.abs(centers - centers.mean(axis=0)).max())
    if len(views) > 1 and len(seen.depths) and spread < _SAME_PLACE * float(np.median(seen.depths)):
        found.append(
            "all photos are taken from one place, from where nothing tells how far away things are: new views from "
            "elsewhere will be wrong"
        )
    elif pairs := _twins(views, spread):
        first, second = pairs[0]
        more = f" (and {len(pairs) - 1} more pairs)" if len(pairs) > 1 else ""
        found.append(
            f"{first.camera.name} and {second.camera.name}{more} have the same pose: remove one if they show the same, "
            "else register them again"
        )
    return found


def _doubts_about_points(scene: Scene, seen: Sight) -> list[str]:
    found = []
    bare = [view for view, count in zip(scene.train, seen.counts, strict=True) if not count]
    if len(bare) == len(scene.train):
        found.append("no point is in any photo: look whether poses and points are of one reconstruction")
    elif bare := [view for view in bare if not sight([view.camera], scene.points.positions).counts[0]]:
        found.append(f"no point is in {_named(bare)}: its pose is wrong, or it shows nothing but sky")
    colors = scene.points.colors
    if len(colors) > 1 and (colors == colors[0]).all():
        red, green, blue = colors[0]
        found.append(
            f"all points have the colour ({red}, {green}, {blue}): export them with colours for a better start"
        )
    return found


def _twins(views: Sequence[View], spread: float) -> list[tuple[View, View]]:
    """Pairs of photos with equal poses, to a millionth of how far the cameras are spread."""
    first_at: dict[bytes, View] = {}
    pairs = []
    for view in views:
        pose = np.round(view.camera.world_to_camera[:3] / [1, 1, 1, spread or 1], 6) + 0.0
        twin = first_at.setdefault(pose.tobytes(), view)
        if twin is not view:
            pairs.append((twin, view))
    return pairs


# --- what is left ---


def unused_entries(source: Path, frames: Iterable[Frame], used: Iterable[Path]) -> list[str]:
    """What another reading of the scene might have used, sorted: folders and lists of frames in its folder.

    Those with photos or masks of `frames` in them are left out, and `used`.
    """
    taken = [*used, *(path for frame in frames for path in (frame.image_path, frame.mask_path) if path is not None)]
    root = source.resolve()
    tops = {path.relative_to(root).parts[0] for path in (each.resolve() for each in taken) if root in path.parents}
    folders = [entry.name + "/" for entry in source.iterdir() if entry.is_dir() and entry.name not in tops]
    lists = [entry.name for entry in source.glob("transforms*.json") if entry.name not in tops]
    return sorted(name for name in [*folders, *lists] if not name.startswith("."))


# --- words ---


def _fields_of_view(width: int, height: int, fx: float, fy: float) -> tuple[float, float]:
    """Degrees from side to side and from top to bottom, of a pinhole camera with its principal point in the middle."""
    wide, high = (2 * np.degrees(np.arctan2(side, 2 * focal)) for side, focal in ((width, fx), (height, fy)))
    return float(wide), float(high)


def _off_centre(camera: Camera) -> float:
    """How far the principal point is off the middle, in sides of the photo."""
    return max(abs(camera.cx / camera.width - 0.5), abs(camera.cy / camera.height - 0.5))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def _percent(share: float) -> str:
    """A share, never rounded to all or none."""
    percent = 100 * float(share)
    if 0 < percent < 0.1 or 99.9 < percent < 100:
        return "< 0.1 %" if percent < 1 else "> 99.9 %"
    return f"{percent:.3g} %"


def _listed(shown: Sequence[str], count: int) -> str:
    """Those that are shown, and how many there are besides."""
    return ", ".join(shown) + (f" and {count - len(shown)} more" if count > len(shown) else "")


def _named(views: Sequence[View]) -> str:
    return views[0].camera.name + (f" (and {len(views) - 1} more)" if len(views) > 1 else "")


def _relative(folder: Path, source: Path) -> str:
    """A folder as seen from the scene's."""
    try:
        inside = folder.resolve().relative_to(source.resolve()).as_posix()
    except ValueError:
        return str(folder)
    return "the scene's folder" if inside == "." else f"{inside}/"
