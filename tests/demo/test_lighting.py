"""Baked light against cases known by geometry, and highlights and reflections that follow the eye."""

from __future__ import annotations

import numpy as np
import pytest

from gns.demo import lighting
from gns.demo.lighting import LAMP, Material, Thing, bake, radiance
from gns.demo.solids import Floats, Solid, normalised
from gns.demo.textures import plain

EYE = np.eye(3, dtype=np.float32)


def cube(center: tuple[float, float, float], half: tuple[float, float, float]) -> Solid:
    return Solid("cube", np.array(center, np.float32), np.array(half, np.float32), EYE)


def column(x: float, y: float, z: float) -> Floats:
    return np.array([[x], [y], [z]], np.float32)


GROUND = cube((0, 0, -0.5), (5, 5, 0.5))


def test_lamp_is_full_in_the_open_and_gone_behind_a_block() -> None:
    behind = LAMP - 2.0 * LAMP / np.linalg.norm(LAMP)  # between the origin and the lamp
    block = cube((float(behind[0]), float(behind[1]), float(behind[2])), (0.8, 0.8, 0.8))
    points = np.concatenate([column(0, 0, 0.01), column(-4, -4, 0.01)], axis=1)
    assert lighting._lamp_share(points, [GROUND]) == pytest.approx([1, 1])
    assert lighting._lamp_share(points, [GROUND, block]) == pytest.approx([0, 1])


def test_penumbra_is_partial() -> None:
    fence = cube((0.9, -0.75, 0), (0.01, 3, 1.64))  # its upper edge lies on the line from the origin to the lamp
    share = lighting._lamp_share(column(0, 0, 0.01), [GROUND, fence])
    assert 0.1 < share[0] < 0.9


def test_a_wall_hides_half_of_the_hemisphere() -> None:
    wall = cube((1.0, 0, 0), (1.0, 50, 50))
    up = column(0, 0, 1)
    assert lighting._hemisphere_share(column(0, 0, 0.01), up, [GROUND])[0] == 1
    assert lighting._hemisphere_share(column(-0.001, 0, 0.01), up, [GROUND, wall])[0] == pytest.approx(0.5, abs=0.02)


def test_a_disc_overhead_hides_the_squared_sine_of_its_half_angle() -> None:
    disc = Solid("cylinder", np.array([0, 0, 0.51], np.float32), np.array([0.5, 0.5, 0.01], np.float32), EYE)
    # Seen from 0.5 below its lower face the half-angle is 45°: the cosine-weighted share of the rest is 1 − sin² = ½.
    share = lighting._hemisphere_share(column(0, 0, 0), column(0, 0, 1), [disc])
    assert share[0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("shape", ["ball", "cube", "cylinder"])
def test_baked_values_are_looked_up_where_they_were_baked(shape: str) -> None:
    solid = Solid(shape, np.zeros(3, np.float32), np.ones(3, np.float32), EYE)  # type: ignore[arg-type]
    size = 33
    lattice = lighting._cube_map_points(solid, size)
    field = np.stack([lattice[1] - 0.5 * lattice[2], lattice[0]])
    light = field.T.reshape(6, size, size, 2).astype(np.float32)
    rng = np.random.default_rng(0)
    start = 3 * normalised(rng.normal(size=(3, 500)).astype(np.float32))
    heading = normalised(-start)
    surface = start + heading * solid.distances(start, heading)
    first, second = lighting._look_up(light, surface)
    # The cylinder's rim falls inside a cell of the map, where the bilinear field is blurred.
    inner = np.abs(np.hypot(surface[0], surface[1]) - np.abs(surface[2])) > (0.15 if shape == "cylinder" else -1)
    np.testing.assert_allclose(first[inner], (surface[1] - 0.5 * surface[2])[inner], atol=5e-3)
    np.testing.assert_allclose(second[inner], surface[0][inner], atol=5e-3)


def test_diffuse_surface_looks_the_same_from_everywhere_and_a_shiny_one_does_not() -> None:
    eyes = np.concatenate([column(-1.5, 1.3, 2.6), column(2, 2, 1.5)], axis=1)  # the first near the mirror direction
    directions = normalised(-eyes)
    for shine, mirror, varies in ((0.0, (0.0, 0.0, 0.0), False), (1.0, (0.0, 0.0, 0.0), True), (0.0, (0.5,) * 3, True)):
        thing = Thing(GROUND, Material(plain((0.3, 0.3, 0.3)), shine, 20, mirror, lightmap=4))
        seen = radiance(bake([thing]), eyes, directions)
        assert bool(np.abs(seen[:, 0] - seen[:, 1]).max() > 1e-3) is varies


def test_a_mirror_shows_what_lies_at_the_opposite_angle() -> None:
    mirror = Thing(GROUND, Material(plain((0.0, 0.0, 0.0)), 0.0, mirror=(1.0, 1.0, 1.0), lightmap=4))
    ball = Solid("ball", np.array([-1.5, -1.0, 2], np.float32), np.full(3, 0.2, np.float32), EYE)
    red = Thing(ball, Material(plain((0.9, 0.0, 0.0)), 0.0, lightmap=8))
    # The eye stands where the ball is, turned half round the mirror's normal.
    eye = column(1.5, 1.0, 2)
    seen = radiance(bake([mirror, red]), eye, normalised(column(0, 0, 0) - eye))
    assert seen[0, 0] > 0.1
    assert seen[1:].max() < 1e-3


def test_a_shadow_darkens_the_picture() -> None:
    # Under a block the ground is dark; two units aside it is lit.
    ground = Thing(GROUND, Material(plain((0.5, 0.5, 0.5)), 0.0, lightmap=64))
    block = Thing(cube((0, 0, 0.8), (0.5, 0.5, 0.5)), Material(plain((0.5, 0.5, 0.5)), 0.0))
    eyes = column(0, -3, 0.25)
    targets = np.concatenate([column(0, 0, 0), column(2.5, -1, 0)], axis=1)
    seen = radiance(bake([ground, block]), eyes, normalised(targets - eyes))
    assert seen[:, 0].max() < 0.5 * seen[:, 1].min()
