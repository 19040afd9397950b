"""The exposure that a photo which was not learned from will have, as far as the photos taken before and after it tell.

An automatic exposure follows the light from one photo to the next. Where it does, a rendering with the exposure of the
average photo is off by what the neighbours of the photo in question could have told: on two real captures their mean
leaves a sixth to a twentieth of the variance (docs/LOG.md). Where every photo differs from the next at random, they
tell nothing, and the average is the best that is known.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

GREY = 0.5  # the colour whose change stands for the whole transform where photos are compared


def expected_exposures(learned: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """The transforms [A | b], [3, 4], to be expected of the photos `names`, from those `learned`, all by photo name.

    Names tell the order in which photos were taken, numbers in them by their value. Expected is the mean of the photo
    before and the one after, drawn to the mean of all by as much as such a guess fails for the photos that are known:
    with R² the share of the variance that it explains when each of them is left out in turn, the guess has the weight
    R², and the mean of all the rest. Empty where nothing was `learned`.
    """
    if not learned:
        return {}
    order = sorted(learned, key=_capture_order)
    transforms = torch.stack([learned[name].float() for name in order])
    average = transforms.mean(dim=0)
    trust = _explained(_change_of_grey(transforms))
    keys = [_capture_order(name) for name in order]
    places = {name: bisect.bisect_left(keys, _capture_order(name)) for name in names}
    return {
        name: average + trust * (_between(transforms[:place], transforms[place:]) - average)
        for name, place in places.items()
    }


def _between(before: Tensor, after: Tensor) -> Tensor:
    """The mean of the last one `before` and the first one `after`, or the one that there is."""
    return torch.cat([before[-1:], after[:1]]).mean(dim=0)


def _explained(values: Tensor) -> float:
    """R², at least 0, of values [N, C] guessed from their two neighbours, each left out in turn."""
    if len(values) < 3:
        return 0.0
    guesses = torch.stack([_between(values[:index], values[index + 1 :]) for index in range(len(values))])
    spread = (values - values.mean(dim=0)).square().sum()
    return float((1 - (values - guesses).square().sum() / spread).clamp(min=0)) if spread > 0 else 0.0


def _change_of_grey(transforms: Tensor) -> Tensor:
    """What [N, 3, 4] transforms make of a middle grey, [N, 3]."""
    return GREY * transforms[:, :, :3].sum(dim=2) + transforms[:, :, 3]


def _capture_order(name: str) -> list[tuple[int, int, str]]:
    """A key by which photo2.jpg comes before photo10.jpg."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]
