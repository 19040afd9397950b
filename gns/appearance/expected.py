"""The exposure that a photo which was not learned from will have, as far as the photos beside it tell.

An automatic exposure follows the light and what the camera looks at. A rendering with the exposure of the average photo
is then off by what the photos taken just before and after, and those taken nearby, could have told: on two real
captures they leave a sixth to a twentieth of the variance (docs/LOG.md). Where every photo differs from the next at
random, they tell nothing, and the average is the best that is known.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gns.scene import Camera
from gns.utils.text import by_number

Floats = npt.NDArray[np.float64]

GREY = 0.5  # the colour whose change stands for the whole transform where photos are compared
FARTHEST = 1e-12  # of the weight of a photo taken from the same place: what one taken anywhere has


def expected_exposures(
    learned: Mapping[str, Tensor], known: Sequence[Camera], wanted: Sequence[Camera]
) -> dict[str, Tensor]:
    """The transforms [A | b], [3, 4], to be expected of the photos of the cameras `wanted`, by photo name.

    `learned` are those of photos of the cameras `known`. There are two guesses: the mean of the photo before and the
    one after, and the mean of all with weights by how near they were taken. Each counts by the inverse square of its
    mean square error for photos that are known, each of them left out in turn; what both together guess counts by the
    share R² of the variance that it explains there, and the plain mean for the rest. Empty where nothing was `learned`.
    """
    known = [camera for camera in known if camera.name in learned]
    if not known or not wanted:
        return {}
    transforms = np.stack([_array(learned[camera.name]) for camera in known])
    average = np.broadcast_to(transforms.mean(axis=0), (len(wanted), 3, 4))
    trust, weights = _trust(known, transforms)
    guesses = [guess(wanted, known, transforms) for guess in _GUESSES]
    expected = average + trust * (np.average(guesses, axis=0, weights=weights) - average)
    return {camera.name: torch.from_numpy(row).float() for camera, row in zip(wanted, expected, strict=True)}


@dataclass(frozen=True)
class Variation:
    """How the exposures of photos differ."""

    spread: float  # root mean square of the relative change of a middle grey, about its mean
    explained: float  # R², 0 … 1, of what is expected of each of the photos by all others


def variation(transforms: Tensor, cameras: Sequence[Camera]) -> Variation:
    """Of the `transforms` [K, 3, 4] of the photos of `cameras`."""
    values = _array(transforms)
    mean_square = _square_error(values, values.mean(axis=0)) / (3 * len(values))
    return Variation(math.sqrt(mean_square) / GREY, _trust(cameras, values)[0])


def _trust(known: Sequence[Camera], transforms: Floats) -> tuple[float, list[float]]:
    """R² of the guesses together, and the weight of each.

    Guesses whose errors have nothing to do with each other count by the inverse of their mean square error. These have:
    what neither foresees is the same. The inverse square comes nearer to the better of them.
    """
    spread = _square_error(transforms, transforms.mean(axis=0))
    if len(known) < 3 or spread == 0:
        return 0.0, [1.0] * len(_GUESSES)
    guesses = [guess(known, known, transforms) for guess in _GUESSES]
    weights = [max(_square_error(transforms, guessed) / spread, 1e-3) ** -2 for guessed in guesses]
    error = _square_error(transforms, np.average(guesses, axis=0, weights=weights))
    return max(1 - error / spread, 0.0), weights


def _array(transforms: Tensor) -> Floats:
    return transforms.double().cpu().numpy()


def _square_error(transforms: Floats, others: Floats) -> float:
    """How differently two stacks of transforms [K, 3, 4] change a middle grey: the sum of squares."""
    differences = transforms - others
    return float(np.square(GREY * differences[:, :, :3].sum(axis=2) + differences[:, :, 3]).sum())


def _in_time(wanted: Sequence[Camera], known: Sequence[Camera], transforms: Floats) -> Floats:
    """For each of `wanted`, [W, 3, 4], the mean of the photo before it and the one after, itself aside.

    The names tell in which order photos were taken, numbers in them by their value.
    """
    order = sorted((by_number(camera.name), place) for place, camera in enumerate(known))
    guesses = []
    for camera in wanted:
        before = bisect.bisect_left(order, by_number(camera.name), key=itemgetter(0))
        after = bisect.bisect_right(order, by_number(camera.name), key=itemgetter(0))
        places = [place for _, place in (*order[:before][-1:], *order[after:][:1])]
        guesses.append(transforms[places].mean(axis=0))
    return np.stack(guesses)


def _in_space(wanted: Sequence[Camera], known: Sequence[Camera], transforms: Floats) -> Floats:
    """For each of `wanted`, [W, 3, 4], the mean of all but itself with weights that fall with the distance.

    They are a Gaussian function, whose standard deviation is the distance from a photo to the nearest other one, in the
    median over those that are known.
    """
    centers = np.stack([camera.center for camera in known])
    names = np.array([camera.name for camera in known])

    def away(camera: Camera, itself: float) -> Floats:
        distances: Floats = np.linalg.norm(centers - camera.center, axis=1)
        return np.where(names == camera.name, itself, distances)

    scale = max(float(np.median([away(camera, np.inf).min() for camera in known])), np.finfo(np.float64).tiny)
    guesses = []
    for camera in wanted:
        weights = (FARTHEST + np.exp(-0.5 * np.square(away(camera, 0) / scale))) * (names != camera.name)
        guesses.append(np.average(transforms, axis=0, weights=weights))
    return np.stack(guesses)


_GUESSES = (_in_time, _in_space)
