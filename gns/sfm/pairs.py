"""Which photos to compare with each other."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

Pair = tuple[str, str]

# Comparing all photos takes time with the square of their number: at more than these, most pairs would be in vain.
ALL_PHOTOS = 120
ALL_FRAMES = 60

_STEPS = (*range(1, 11), 16, 32, 64, 128)  # from a frame to those after it that it is compared with
_KEYFRAMES = 60


def matching_for(photos: int, is_video: bool) -> str:
    """What `--matching auto` stands for."""
    if photos <= (ALL_FRAMES if is_video else ALL_PHOTOS):
        return "exhaustive"
    return "sequential" if is_video else "retrieval"


def all_pairs(names: Sequence[str]) -> list[Pair]:
    """Every two photos: n (n − 1) / 2 pairs, those nearest in the order of `names` first."""
    return [(names[i], names[i + apart]) for apart in range(1, len(names)) for i in range(len(names) - apart)]


def sequential_pairs(names: Sequence[str]) -> list[Pair]:
    """Each frame of a video with those soon after it and a few far ones, and loop pairs.

    Loop pairs are all pairs among 60 frames at equal distances. Where a camera comes back to a place, some of them
    show the same things, and the closed loop keeps the poses from drifting apart.
    """
    soon = [(names[i], names[i + step]) for step in _STEPS for i in range(len(names) - step)]
    keyframes = names[:: math.ceil(len(names) / _KEYFRAMES)]
    return each_once([*soon, *itertools.combinations(keyframes, 2)])


def each_once(pairs: Iterable[Pair]) -> list[Pair]:
    """Each pair of two different photos once, whichever was named first, in the order of first mention."""
    return list(dict.fromkeys((min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]))


def well_connected(matches: Mapping[tuple[int, int], int], among: set[int], count: int) -> list[int]:
    """At most `count` photos `among` those given: the one with most matches, then always that with most to those taken.

    Photos without matches to them are left out.
    """
    neighbours: dict[int, dict[int, int]] = defaultdict(dict)
    for (first, second), number in matches.items():
        if first in among and second in among and number > 0:
            neighbours[first][second] = neighbours[second][first] = number
    if not neighbours:
        return []
    taken = [max(neighbours, key=lambda photo: (sum(neighbours[photo].values()), -photo))]
    ties = dict(neighbours[taken[0]])
    while ties and len(taken) < count:
        best = max(ties, key=lambda photo: (ties[photo], -photo))
        taken.append(best)
        del ties[best]
        for photo, number in neighbours[best].items():
            if photo not in taken:
                ties[photo] = ties.get(photo, 0) + number
    return taken
