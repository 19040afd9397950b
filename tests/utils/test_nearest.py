"""Nearest neighbours against scipy's k-d tree."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from gns.utils.nearest import nearest_squared_distances

GENERATOR = np.random.default_rng(0)
CLOUDS = {
    "uniform": GENERATOR.uniform(size=(2000, 3)),
    "surface": GENERATOR.normal(size=(2000, 3)) * [1, 1, 1e-3],
    "clusters and outliers": np.concatenate(
        [GENERATOR.normal(size=(1000, 3)) * 0.01, GENERATOR.standard_cauchy((500, 3)) * 100]
    ),
    "far from the origin": GENERATOR.uniform(size=(1000, 3)) * 100 + [4e5, 5e6, 200],
    "duplicates": np.repeat(GENERATOR.normal(size=(50, 3)), 20, axis=0),
    "line": np.arange(500.0)[:, None] * [1, 2, 3],
    "four": GENERATOR.normal(size=(4, 3)),
    "one beyond the squares of float32": np.vstack([GENERATOR.normal(size=(1000, 3)), [[2e19, 0, 0]]]),
    "some far beyond": np.vstack(
        [GENERATOR.normal(size=(1000, 3)), 1e25 * GENERATOR.normal(size=(7, 3)), [[1e140, 0, 0]]]
    ),
    "all beyond": 1e30 * GENERATOR.normal(size=(1000, 3)),
    "squares below float32": 1e-30 * GENERATOR.normal(size=(1000, 3)),
    "three that differ by powers": np.array([[0.0, 0, 0], [1, 0, 0], [1e21, 0, 0], [0, 3e42, 0], [0, 0, 1e60]]),
    "most at one place, one far": np.vstack([np.zeros((50, 3)), [[1e30, 1, 1]]]),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_exact(name: str) -> None:
    points = CLOUDS[name]
    expected, _ = cKDTree(points).query(points, 4)
    np.testing.assert_allclose(
        np.sqrt(nearest_squared_distances(points, 3)),
        expected[:, 1:],
        rtol=1e-6,
        atol=1e-12 * np.median(np.abs(points - np.median(points, axis=0))),
    )


@pytest.mark.parametrize(("count", "expected"), [(0, (0, 0)), (1, (1, 0)), (2, (2, 1)), (3, (3, 2)), (9, (9, 3))])
def test_few_points(count: int, expected: tuple[int, int]) -> None:
    assert nearest_squared_distances(GENERATOR.normal(size=(count, 3)), 3).shape == expected


def test_all_points_at_one_place() -> None:
    assert (nearest_squared_distances(np.ones((3000, 3)), 3) == 0).all()
