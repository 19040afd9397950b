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
}


@pytest.mark.parametrize("name", CLOUDS)
def test_exact(name: str) -> None:
    points = CLOUDS[name]
    expected, _ = cKDTree(points).query(points, 4)
    np.testing.assert_allclose(np.sqrt(nearest_squared_distances(points, 3)), expected[:, 1:], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("count", "expected"), [(0, (0, 0)), (1, (1, 0)), (2, (2, 1)), (3, (3, 2)), (9, (9, 3))])
def test_few_points(count: int, expected: tuple[int, int]) -> None:
    assert nearest_squared_distances(GENERATOR.normal(size=(count, 3)), 3).shape == expected


def test_all_points_at_one_place() -> None:
    assert (nearest_squared_distances(np.ones((3000, 3)), 3) == 0).all()
