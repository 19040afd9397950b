"""The same crops of held-out photos as several models draw them, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import avg_pool2d

from benchmarks.grid.groups import Group
from benchmarks.grid.results import Result, Results
from gns.commands.render import read_scene_of
from gns.demo.comparison import stacked
from gns.gaussian_renderer import render
from gns.metrics import psnr
from gns.run_folder import RunFolder
from gns.scene import Scene
from gns.utils.png import from_eight_bit, to_eight_bit

ROWS = 3  # held-out photos, evenly chosen
SHARE = 3  # a crop is a third of the photo in each direction
WIDTH = 220  # pixels, of a crop in the picture
MARGIN, TITLE = 6, 30


def model_folder(results: Results, result: Result) -> Path | None:
    """The folder that `result` was trained in; None where its model is not kept."""
    path = results.path / "runs" / result.key / "model"
    return path if (path / "point_cloud").is_dir() else None


def write_crops(results: Results, group: Group, budget: int, entrants: Sequence[str], path: Path) -> list[str]:
    """Draw the models of the lowest seed at `budget`, or of a method that grows freely, and return who is shown.

    A row a photo. Its crop lies where the errors of the models differ most: what is seen there is where one is worse
    than another, not how good they are. With fewer than two models nothing is drawn.
    """
    folders: dict[str, Path] = {}
    for entrant in entrants:
        runs = group.of(entrant, budget) or group.of(entrant, None)
        if runs and (folder := model_folder(results, runs[min(runs)])) is not None:
            folders[entrant] = folder
    if len(folders) < 2:
        return []
    first = RunFolder.open(next(iter(folders.values())))
    scene = read_scene_of(first.config, quiet=True)
    step = max(1, len(scene.test) // ROWS)
    chosen = list(range(0, len(scene.test), step))[:ROWS]
    drawn = {entrant: _drawn(folder, scene, chosen) for entrant, folder in folders.items()}
    rows = []
    for row, index in enumerate(chosen):
        photo = from_eight_bit(scene.test[index].image.cpu())
        rows.append(_row(photo, {entrant: images[row] for entrant, images in drawn.items()}))
    path.parent.mkdir(parents=True, exist_ok=True)
    stacked(rows).save(path, optimize=True)
    return list(folders)


@torch.no_grad()
def _drawn(folder: Path, scene: Scene, chosen: Sequence[int]) -> list[Tensor]:
    """The model in `folder` from the cameras of the chosen held-out photos, [3, H, W] each, in steps of eight bits."""
    gaussians = replace(RunFolder.open(folder).load_model(), frame=scene.frame)
    background = torch.tensor(scene.background)
    images = (render(scene.test[index].camera, gaussians, background).image for index in chosen)
    return [from_eight_bit(to_eight_bit(image)) for image in images]


def most_different(photo: Tensor, images: Sequence[Tensor], height: int, width: int) -> tuple[int, int]:
    """Top and left of the window [height, width] in which the squared errors of `images` [3, H, W] differ most."""
    errors = torch.stack([(image - photo).square().mean(dim=0) for image in images])
    apart = errors.amax(dim=0) - errors.amin(dim=0)
    sums = avg_pool2d(apart[None], (height, width), stride=1)[0]
    return divmod(int(sums.argmax()), sums.shape[1])


def _row(photo: Tensor, images: Mapping[str, Tensor]) -> Image.Image:
    height, width = photo.shape[1] // SHARE, photo.shape[2] // SHARE
    top, left = most_different(photo, list(images.values()), height, width)
    shown = {"held-out photo": photo, **images}
    scores = {name: f"{psnr(image, photo):.2f} dB" for name, image in images.items()}
    size = (WIDTH, round(WIDTH * height / width))
    row = Image.new("RGB", (len(shown) * (WIDTH + MARGIN) + MARGIN, size[1] + TITLE + MARGIN), "white")
    for column, (name, image) in enumerate(shown.items()):
        x = MARGIN + column * (WIDTH + MARGIN)
        crop = image[:, top : top + height, left : left + width]
        pixels = to_eight_bit(crop).numpy()
        row.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), (x, TITLE))
        ImageDraw.Draw(row).text((x, 2), f"{name}\n{scores.get(name, '')}", fill="black")
    return row
