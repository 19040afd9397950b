"""Light: baked soft shadows and ambient occlusion, Blinn-Phong highlights, Fresnel reflections of a room.

Shadows and occlusion depend on the surface point only, so they are computed once a scene and looked up in every photo:
all photos then agree on them exactly, and a photo costs a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gns.demo.solids import Floats, Solid, dot, first_hits, normalised
from gns.demo.textures import Color, Texture

# A square lamp: its centre, and half of two of its edges.
LAMP = np.array([2.3, -1.9, 4.2], np.float32)
LAMP_EDGES = 0.6 * np.array([[0.64, 0.77, 0.0], [-0.55, 0.46, 0.70]], np.float32)
LAMP_COLOR = np.array([1.0, 0.94, 0.84], np.float32) * 24
SKY_COLOR = np.array([0.62, 0.70, 0.82], np.float32) * 0.62
BOUNCE_COLOR = np.array([0.42, 0.30, 0.20], np.float32) * 0.55

ROOM_RADIUS = 6.0  # the wall behind everything, a sphere about the origin
SHADOW_RAYS = 7  # along each edge of the lamp
OCCLUSION_RAYS = 8  # along each side of the square that is mapped to the hemisphere
OCCLUSION_REACH = 1.2
CHUNK = 1 << 15  # rays worked on together: their vectors stay in the processor's cache


@dataclass(frozen=True)
class Material:
    """How a solid answers light."""

    texture: Texture
    shine: float = 0.15  # strength of the lamp's highlight
    exponent: float = 30.0  # Blinn-Phong sharpness
    mirror: Color = (0.0, 0.0, 0.0)  # reflectance at normal incidence; (0, 0, 0) reflects nothing
    lightmap: int = 24  # baked points along each edge of the cube map


@dataclass(frozen=True, eq=False)
class Thing:
    """A solid, its material and its baked light [6, n, n, 2]: the visible shares of the lamp and of the hemisphere."""

    solid: Solid
    material: Material
    light: Floats = field(default_factory=lambda: np.ones((6, 2, 2, 2), np.float32))


def room_distances(origins: Floats, directions: Floats) -> Floats:
    """Distance [n] to the wall of the round room from inside it, along unit directions [3, n]."""
    along = dot(origins, directions)
    return np.asarray(np.sqrt(along * along - dot(origins, origins) + ROOM_RADIUS**2) - along, np.float32)


def room_radiance(points: Floats) -> Floats:
    """Light [3, n] that leaves the room's wall at points [3, n]: floor, wall, the lamp's glow and a window."""
    x, y, z = points / ROOM_RADIUS
    height = _soft_step(7 * (z + 0.12))
    floor, wall = np.array([[0.13], [0.10], [0.08]]), np.array([[0.46], [0.53], [0.57]])
    light = floor + (wall - floor) * height
    light = light * (1 + 0.22 * np.sin(2 * np.arctan2(y, x) + 0.6) * (1 - z * z))
    toward_lamp = dot(points / ROOM_RADIUS, normalised(LAMP[:, None]))
    light = light + np.array([[1.0], [0.93], [0.8]]) * 2.5 * _soft_step(90 * (toward_lamp - 0.955))
    # A cool window opposite the lamp, four panes, soft enough to survive a reflection.
    across, up = np.arctan2(y, -x) - 0.5, z - 0.42
    pane = _soft_box(across, 0.42) * _soft_box(up, 0.26) * (1 - _soft_box(across, 0.02) - _soft_box(up, 0.02))
    light = light + np.array([[0.75], [0.95], [1.2]]) * 1.1 * np.clip(pane, 0, 1)
    return np.asarray(light, np.float32)


def bake(things: list[Thing]) -> list[Thing]:
    """The same things with soft shadows and ambient occlusion in `light`."""
    solids = [thing.solid for thing in things]
    return [Thing(t.solid, t.material, _visible_light(t.solid, t.material.lightmap, solids)) for t in things]


def radiance(things: list[Thing], origins: Floats, directions: Floats, reflections: int = 1) -> Floats:
    """Linear RGB [3, n] seen from `origins` ([3, n] or [3, 1]) along unit `directions` [3, n]."""
    distance, index = first_hits([thing.solid for thing in things], origins, directions)
    color = np.empty_like(directions)
    missed = index < 0
    outward = directions[:, missed]
    start = origins if origins.shape[1] == 1 else origins[:, missed]
    color[:, missed] = room_radiance(start + outward * room_distances(start, outward))
    for k in np.unique(index[~missed]):
        rays = np.flatnonzero(index == k)
        start = origins if origins.shape[1] == 1 else origins[:, rays]
        points = start + directions[:, rays] * distance[rays]
        color[:, rays] = _shade(things, things[k], points, directions[:, rays], reflections)
    return color


def _shade(things: list[Thing], thing: Thing, points: Floats, directions: Floats, reflections: int) -> Floats:
    """Light leaving surface points [3, n] against `directions` [3, n]: diffuse, highlight and reflection."""
    unit = thing.solid.to_unit(points)
    normals = thing.solid.normals(unit)
    albedo = thing.material.texture(unit, thing.solid.half)
    lamp_share, sky_share = _look_up(thing.light, unit)

    to_lamp = LAMP[:, None] - points
    squared = dot(to_lamp, to_lamp)
    to_lamp = np.asarray(to_lamp / np.sqrt(squared), np.float32)
    lamp = LAMP_COLOR[:, None] * (lamp_share * np.maximum(dot(normals, to_lamp), 0) / squared)
    upward = 0.5 + 0.5 * normals[2]
    ambient = (SKY_COLOR[:, None] * upward + BOUNCE_COLOR[:, None] * (1 - upward)) * sky_share
    color: Floats = albedo * (lamp + ambient)

    halfway = normalised(to_lamp - directions)
    sharpness = thing.material.exponent
    highlight = np.maximum(dot(normals, halfway), 0) ** sharpness * thing.material.shine * lamp_share
    color += LAMP_COLOR[:, None] * 0.08 * highlight
    if reflections and any(thing.material.mirror):
        facing = np.clip(-dot(normals, directions), 0, 1)
        base = np.asarray(thing.material.mirror, np.float32)[:, None]
        fresnel = base + (1 - base) * (1 - facing) ** 5  # Schlick's approximation
        mirrored = normalised(directions + 2 * facing * normals)
        seen = radiance(things, points + 1e-3 * normals, mirrored, reflections - 1)
        color = color * (1 - fresnel) + seen * fresnel
    return color


def _visible_light(solid: Solid, size: int, solids: list[Solid]) -> Floats:
    """Baked shares [6, size, size, 2] at the points of a cube map on the solid's surface."""
    unit = _cube_map_points(solid, size)
    normals = solid.normals(unit)
    points = solid.to_world(unit) + 2e-3 * normals
    baked = np.empty((unit.shape[1], 2), np.float32)
    for start in range(0, unit.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        baked[part, 0] = _lamp_share(points[:, part], solids)
        baked[part, 1] = _hemisphere_share(points[:, part], normals[:, part], solids)
    return baked.reshape(6, size, size, 2)


def _lamp_share(points: Floats, solids: list[Solid]) -> Floats:
    """Share of the lamp that points [3, n] see, [n]."""
    steps = (np.arange(SHADOW_RAYS, dtype=np.float32) + 0.5) / SHADOW_RAYS * 2 - 1
    share = np.zeros(points.shape[1], np.float32)
    for u in steps:
        for v in steps:
            toward = (LAMP + u * LAMP_EDGES[0] + v * LAMP_EDGES[1])[:, None] - points
            length = np.sqrt(dot(toward, toward))
            share += first_hits(solids, points, toward / length)[0] > length
    return share / SHADOW_RAYS**2


def _hemisphere_share(points: Floats, normals: Floats, solids: list[Solid]) -> Floats:
    """Cosine-weighted share of directions from points [3, n] that are free for `OCCLUSION_REACH`, [n]."""
    x, _, z = np.eye(3, dtype=np.float32)[..., None]
    tangent = normalised(np.cross(normals, np.where(np.abs(normals[2]) < 0.9, z, x), axis=0))
    bitangent = np.cross(normals, tangent, axis=0)
    steps = (np.arange(OCCLUSION_RAYS, dtype=np.float32) + 0.5) / OCCLUSION_RAYS
    share = np.zeros(points.shape[1], np.float32)
    for u in steps:
        for v in steps:
            radius, angle = np.sqrt(u), 2 * np.pi * v
            out = radius * np.cos(angle) * tangent + radius * np.sin(angle) * bitangent + np.sqrt(1 - u) * normals
            share += first_hits(solids, points, np.asarray(out, np.float32))[0] > OCCLUSION_REACH
    return share / OCCLUSION_RAYS**2


def _cube_map_points(solid: Solid, size: int) -> Floats:
    """Surface points in unit space [3, 6·size²] under a cube's lattice; faces are −x, +x, −y, +y, −z, +z."""
    # Just short of ±1: a lattice point on an edge must keep the normal of its own face.
    axis = np.linspace(-0.9999, 0.9999, size, dtype=np.float32)
    second, third = (a.ravel() for a in np.meshgrid(axis, axis))
    cube = np.empty((6, 3, size * size), np.float32)
    for face in range(6):
        first = face // 2
        cube[face, first] = 2 * (face % 2) - 1
        cube[face, (first + 1) % 3], cube[face, (first + 2) % 3] = second, third
    points: Floats = cube.transpose(1, 0, 2).reshape(3, -1)
    if solid.shape == "ball":
        return normalised(points)
    if solid.shape == "cylinder":
        points /= np.maximum(np.abs(points[2]), np.hypot(points[0], points[1]))
    return points


def _look_up(light: Floats, unit: Floats) -> tuple[Floats, Floats]:
    """Bilinear samples of a baked cube map at surface points in unit space [3, n]: two [n]."""
    size = light.shape[1]
    first = np.abs(unit).argmax(axis=0)
    rays = np.arange(unit.shape[1])
    main = unit[first, rays]
    face = 2 * first + (main > 0)
    column = (unit[(first + 1) % 3, rays] / np.abs(main) * 0.5 + 0.5) * (size - 1)
    row = (unit[(first + 2) % 3, rays] / np.abs(main) * 0.5 + 0.5) * (size - 1)
    j, i = (np.clip(np.floor(a), 0, size - 2).astype(np.intp) for a in (column, row))
    b, a = (np.clip(x - y, 0, 1).astype(np.float32)[:, None] for x, y in ((column, j), (row, i)))
    upper = light[face, i, j] * (1 - b) + light[face, i, j + 1] * b
    lower = light[face, i + 1, j] * (1 - b) + light[face, i + 1, j + 1] * b
    baked = upper * (1 - a) + lower * a
    return baked[:, 0], baked[:, 1]


def _soft_box(offset: Floats, half_width: float) -> Floats:
    """1 inside ±half_width, 0 outside, with a soft edge."""
    return _soft_step((half_width - np.abs(offset)) / 0.015)


def _soft_step(x: Floats) -> Floats:
    """The logistic function, written so that it cannot overflow."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x), np.float32)
