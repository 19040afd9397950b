"""Ray intersections against plain marching, and normals against the shapes' own inside tests."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from gns.demo.solids import Floats, Solid, first_hits, normalised

SHAPES = ("ball", "cube", "cylinder")


def inside(solid: Solid, points: Floats) -> npt.NDArray[np.bool_]:
    """Membership by the shapes' definitions, independent of the intersection code."""
    q = solid.to_unit(points)
    if solid.shape == "ball":
        norm = (q**2).sum(axis=0)
    elif solid.shape == "cube":
        norm = np.abs(q).max(axis=0)
    else:
        norm = np.maximum(np.hypot(q[0], q[1]), np.abs(q[2]))
    member: npt.NDArray[np.bool_] = norm <= 1
    return member


def some_solid(shape: str, seed: int = 0) -> Solid:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed).as_matrix().astype(np.float32)
    center, half = rng.normal(0, 0.5, 3).astype(np.float32), rng.uniform(0.3, 0.8, 3).astype(np.float32)
    if shape == "cylinder":
        half[1] = half[0]
    return Solid(shape, center, half, rotation)  # type: ignore[arg-type]


def rays_at(solid: Solid, count: int) -> tuple[Floats, Floats]:
    rng = np.random.default_rng(3)
    origins = solid.center[:, None] + 3 * normalised(rng.normal(size=(3, count)).astype(np.float32))
    targets = solid.center[:, None] + rng.normal(0, 0.5, (3, count)).astype(np.float32)
    return origins, normalised(targets - origins)


@pytest.mark.parametrize("shape", SHAPES)
def test_first_hit_is_where_marching_first_finds_the_inside(shape: str) -> None:
    solid = some_solid(shape)
    origins, directions = rays_at(solid, 300)
    step = 2e-3
    distances = np.arange(0, 6, step, dtype=np.float32)
    along = origins[:, :, None] + directions[:, :, None] * distances
    found = inside(solid, along.reshape(3, -1)).reshape(300, -1)
    marched = np.where(found.any(axis=1), distances[found.argmax(axis=1)], np.inf)
    exact = solid.distances(origins, directions)
    hit = np.isfinite(marched)
    assert 50 < hit.sum() < 290
    np.testing.assert_array_less(np.abs(exact[hit] - marched[hit]), 1.5 * step)
    # A ray that marching misses may graze the solid, but for less than two steps.
    grazing = np.isfinite(exact) & ~hit
    beyond = origins[:, grazing] + directions[:, grazing] * (exact[grazing] + 2 * step)
    assert not inside(solid, beyond).any()


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_point_outwards_and_stand_on_the_surface(shape: str) -> None:
    solid = some_solid(shape, seed=5)
    origins, directions = rays_at(solid, 400)
    distance = solid.distances(origins, directions)
    hit = np.isfinite(distance)
    points = origins[:, hit] + directions[:, hit] * distance[hit]
    normals = solid.normals(solid.to_unit(points))
    np.testing.assert_allclose((normals**2).sum(axis=0), 1, atol=1e-5)
    assert not inside(solid, points + 1e-3 * normals).any()
    assert inside(solid, points - 1e-3 * normals).all()
    # Moving along the surface changes the height above it only to second order.
    tangent = normalised(np.cross(normals, np.array([[0.3], [0.5], [0.8]]), axis=0))
    smooth = ~inside(solid, points + 1e-2 * tangent + 2e-3 * normals)
    smooth &= inside(solid, points + 1e-2 * tangent - 2e-3 * normals)
    assert smooth.mean() > 0.9


def test_a_ray_that_starts_inside_is_blocked_at_once() -> None:
    solid = some_solid("cube")
    directions = normalised(np.random.default_rng(0).normal(size=(3, 20)).astype(np.float32))
    assert (solid.distances(solid.center[:, None], directions) == 0).all()


def test_first_hits_keeps_the_nearest_solid_and_drops_none_by_its_bounding_sphere() -> None:
    solids = [some_solid(SHAPES[k % 3], seed=k) for k in range(6)]
    rng = np.random.default_rng(1)
    origins = 4 * normalised(rng.normal(size=(3, 2000)).astype(np.float32))
    directions = normalised(rng.normal(0, 0.8, (3, 2000)).astype(np.float32) - origins)
    distance, index = first_hits(solids, origins, directions)
    every = np.stack([solid.distances(origins, directions) for solid in solids])
    np.testing.assert_array_equal(distance, every.min(axis=0))
    hit = np.isfinite(distance)
    np.testing.assert_array_equal(index[hit], every.argmin(axis=0)[hit])
    assert (index[~hit] == -1).all()
    assert hit.any()
    assert not hit.all()
