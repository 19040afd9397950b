"""Every texture paints plausible albedo with visible detail, and the letters read from outside."""

from __future__ import annotations

import numpy as np
import pytest

from gns.demo import textures
from gns.demo.solids import normalised
from gns.demo.still_life import still_life

HALF = np.array([0.3, 0.3, 0.4], np.float32)


def test_albedo_stays_between_black_and_white() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (3, 5000)).astype(np.float32)
    surfaces = {
        "ball": normalised(points),
        "cube": points / np.abs(points).max(axis=0),
        "cylinder": points / np.maximum(np.abs(points[2]), np.hypot(points[0], points[1])),
    }
    for thing in still_life():
        albedo = thing.material.texture(surfaces[thing.solid.shape], thing.solid.half)
        assert albedo.shape == (3, 5000)
        assert albedo.min() >= 0
        assert albedo.max() <= 1


def test_letters_differ_and_are_not_mirrored() -> None:
    g, n, s = (textures._glyph(letter) for letter in "GNS")
    assert (g != n).mean() > 0.1
    assert (n != s).mean() > 0.1
    # The diagonal of N falls from top left to bottom right.
    assert n[30, 38]
    assert not n[30, 57]


@pytest.mark.parametrize(("axis", "sign"), [(0, 1), (0, -1), (1, 1), (1, -1)])
def test_face_coordinates_run_to_the_right_of_someone_outside(axis: int, sign: int) -> None:
    outward = np.zeros(3)
    outward[axis] = sign
    right = np.cross(-outward, [0, 0, 1])  # looking at the face, with z up
    point = (outward + 0.3 * right + [0, 0, 0.4])[:, None]
    found, u, v = textures._face_coordinates(point)
    assert (found[0], u[0], v[0]) == (axis, pytest.approx(0.3), pytest.approx(0.4))


def test_brick_courses_are_shifted_by_half_a_brick() -> None:
    wall = textures.bricks(length=0.2, height=0.1)
    half = np.ones(3, np.float32)
    y = np.linspace(-0.9, 0.9, 1801)

    def joints(z: float) -> set[int]:
        albedo = wall(np.stack([np.ones_like(y), y, np.full_like(y, z)]), half)
        grey = np.abs(albedo[0] - albedo[1]) < 0.1
        return set(np.round((y[grey] * 1000) % 200).astype(int))

    lower, upper = joints(0.05), joints(0.15)
    assert lower
    assert lower.isdisjoint(upper)
    assert {(position + 100) % 200 for position in lower} == upper
