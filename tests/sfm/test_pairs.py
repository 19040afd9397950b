"""Which photos are compared."""

from __future__ import annotations

import itertools

import pytest

from gns.sfm.pairs import (
    ALL_FRAMES,
    ALL_PHOTOS,
    all_pairs,
    each_once,
    matching_for,
    sequential_pairs,
    well_connected,
)


def test_all_pairs_are_all_and_near_ones_come_first() -> None:
    names = [f"{number:02d}" for number in range(9)]
    pairs = all_pairs(names)
    assert sorted(pairs) == list(itertools.combinations(names, 2))
    distances = [int(b) - int(a) for a, b in pairs]
    assert distances == sorted(distances)


def test_frames_meet_their_neighbours_and_close_loops() -> None:
    names = [f"{number:03d}" for number in range(300)]
    pairs = sequential_pairs(names)
    assert len(pairs) == len(set(pairs)) and all(a < b for a, b in pairs)
    assert {(names[i], names[i + step]) for step in range(1, 11) for i in range(300 - step)} <= set(pairs)
    assert ("000", "295") in pairs  # the camera is back where it began
    assert len(pairs) < len(all_pairs(names)) / 5


@pytest.mark.parametrize(
    ("photos", "is_video", "expected"),
    [
        (ALL_PHOTOS, False, "exhaustive"),
        (ALL_PHOTOS + 1, False, "retrieval"),
        (ALL_FRAMES, True, "exhaustive"),
        (ALL_FRAMES + 1, True, "sequential"),
    ],
)
def test_the_number_of_photos_decides(photos: int, is_video: bool, expected: str) -> None:
    assert matching_for(photos, is_video) == expected


def test_pairs_count_once() -> None:
    assert each_once([("b", "a"), ("a", "b"), ("a", "a"), ("c", "a")]) == [("a", "b"), ("a", "c")]


def test_well_connected_photos_grow_from_the_one_with_most_matches() -> None:
    matches = {(1, 2): 50, (2, 3): 60, (3, 4): 10, (2, 4): 20, (5, 6): 90, (7, 8): 0, (2, 9): 500}
    among = set(range(9))
    assert well_connected(matches, among, 10) == [2, 3, 1, 4]  # 4 by 10 + 20; 9 is none of them, 5 and 6 stand apart
    assert well_connected(matches, among, 2) == [2, 3]
    assert well_connected(matches, {7, 8}, 5) == []
