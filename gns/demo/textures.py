"""Procedural textures: albedo as a function of where on a solid a point lies.

A texture takes unit-space points [3, n] and the solid's half sizes [3], and returns linear RGB [3, n]. The finest marks
are one to two pixels wide in the demo's photos, which is where a reconstruction shows what it can do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from gns.demo.solids import Floats

Color: TypeAlias = tuple[float, float, float]
Texture: TypeAlias = Callable[[Floats, Floats], Floats]

# Strokes of capital letters in [−1, 1]², v up; a letter is a list of polylines.
_STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "G": [[(0.55, 0.45), (0.3, 0.65), (-0.2, 0.68), (-0.5, 0.4), (-0.58, 0.0), (-0.5, -0.4), (-0.2, -0.68),
           (0.25, -0.68), (0.55, -0.45), (0.55, -0.02), (0.1, -0.02)]],
    "N": [[(-0.5, -0.68), (-0.5, 0.68), (0.5, -0.68), (0.5, 0.68)]],
    "S": [[(0.5, 0.45), (0.2, 0.68), (-0.25, 0.66), (-0.5, 0.38), (-0.3, 0.1), (0.3, -0.1), (0.52, -0.38),
           (0.25, -0.67), (-0.22, -0.68), (-0.52, -0.42)]],
}  # fmt: skip


def plain(color: Color) -> Texture:
    """One colour everywhere."""
    return lambda unit, half: _filled(color, unit.shape[1])


def letter_block(letter: str, paint: Color) -> Texture:
    """A toy cube: pale wood, a painted frame and a painted letter on each face."""
    glyph = _glyph(letter)

    def texture(unit: Floats, half: Floats) -> Floats:
        axis, u, v = _face_coordinates(unit)
        edge = np.maximum(np.abs(u), np.abs(v))
        column = ((u / 0.72 + 1) * 0.5 * (glyph.shape[1] - 1)).round().astype(np.intp)
        row = ((1 - v / 0.72) * 0.5 * (glyph.shape[0] - 1)).round().astype(np.intp)
        inside = edge < 0.72
        painted = (edge > 0.8) & (edge < 0.94)
        painted[inside] |= glyph[row[inside], column[inside]]
        grain = 0.06 * np.sin(40 * v + 3 * np.sin(5 * u + axis))
        wood = _filled((0.72, 0.52, 0.30), unit.shape[1]) * (1 + grain)
        return _where(painted, _filled(paint, unit.shape[1]), wood)

    return texture


def bricks(length: float, height: float) -> Texture:
    """Running bond with mortar joints, each brick of its own shade."""

    def texture(unit: Floats, half: Floats) -> Floats:
        axis, u, v = _face_coordinates(unit)
        # Half sizes along u and v on the faces across x, y and z.
        along = u * np.choose(axis, [half[1], half[0], half[0]])
        up = v * np.choose(axis, [half[2], half[2], half[1]])
        row = np.floor(up / height)
        shifted = along / length + 0.5 * (row % 2) + 0.25 * axis
        joint = (_to_border(shifted) * length < 0.008) | (_to_border(up / height) * height < 0.008)
        shade = 0.7 + 0.6 * _random(np.floor(shifted), row, axis)
        return _where(joint, _filled((0.62, 0.58, 0.52), unit.shape[1]), _filled((0.46, 0.13, 0.07), len(u)) * shade)

    return texture


def log(rings: float) -> Texture:
    """A sawn log: year rings on both ends, furrowed bark round the side."""

    def texture(unit: Floats, half: Floats) -> Floats:
        x, y, z = unit
        radius, angle = np.hypot(x, y), np.arctan2(y, x)
        wobble = 0.04 * np.sin(3 * angle + 1) + 0.02 * np.sin(7 * angle)
        ring = 0.5 + 0.5 * np.sin(2 * np.pi * rings * (radius + wobble * radius))
        ends = _mix((0.36, 0.19, 0.08), (0.80, 0.58, 0.33), ring)
        furrow = np.sin(14 * angle + 2 * np.sin(9 * z)) + 0.6 * np.sin(31 * angle + 3 * np.sin(14 * z + 2))
        bark = _mix((0.09, 0.055, 0.035), (0.34, 0.24, 0.16), 0.5 + 0.3 * furrow)
        bark = _where(radius > 0.93, bark, ends)
        return _where((np.abs(z) > 0.999) & (radius <= 0.93), ends, bark)

    return texture


def beach_ball(colors: list[Color]) -> Texture:
    """Sectors between two poles, with a cap at each."""

    def texture(unit: Floats, half: Floats) -> Floats:
        x, y, z = unit
        sector = ((np.arctan2(y, x) / (2 * np.pi) % 1) * len(colors)).astype(np.intp) % len(colors)
        albedo = np.asarray(colors, np.float32).T[:, sector]
        return _where(np.abs(z) > 0.95, _filled((0.85, 0.83, 0.78), unit.shape[1]), albedo)

    return texture


def dotted_beaker(ground: Color, dots: Color, across: int) -> Texture:
    """A beaker: rows of dots round it, every second row shifted by half a step, and a dark mouth on top."""

    def texture(unit: Floats, half: Floats) -> Floats:
        x, y, z = unit
        up = z * half[2] / (2 * np.pi * half[0] / across)
        row = np.floor(up)
        around = np.arctan2(y, x) / (2 * np.pi) * across + 0.5 * (row % 2)
        spot = np.hypot(around % 1 - 0.5, up % 1 - 0.5) < 0.28
        surface = _where(spot, _filled(dots, unit.shape[1]), _filled(ground, unit.shape[1]))
        hollow = (z > 0.999) & (np.hypot(x, y) < 0.85)
        return _where(hollow, _filled((0.02, 0.02, 0.02), unit.shape[1]), surface)

    return texture


def marble() -> Texture:
    """Pale stone with dark veins: a sine whose phase is stirred by lower sines."""

    def texture(unit: Floats, half: Floats) -> Floats:
        x, y, z = 3 * unit * (half / half[2])[:, None]
        stirred = x + 1.1 * np.sin(1.7 * y + 0.5) + 0.8 * np.sin(2.3 * z + 1.1 * x) + 0.4 * np.sin(4.1 * y - 2.0 * z)
        vein = np.abs(np.sin(1.6 * stirred)) ** 0.35
        return _mix((0.16, 0.20, 0.24), (0.80, 0.79, 0.75), vein)

    return texture


def book(cover: Color) -> Texture:
    """A closed book lying flat: a cover with a title and a rule, a spine at −x, leaves on the other sides."""

    def texture(unit: Floats, half: Floats) -> Floats:
        x, y, z = unit
        axis = np.abs(unit).argmax(axis=0)
        letters = np.abs(np.sin(19 * y)) > 0.35
        title = (np.abs(y) < 0.62) & (((np.abs(x - 0.05) < 0.07) & letters) | (np.abs(x - 0.3) < 0.02))
        rule = np.abs(np.maximum(np.abs(x), np.abs(y)) - 0.86) < 0.025
        printed = _where(title | rule, _filled((0.82, 0.66, 0.26), len(x)), _filled(cover, len(x)))
        leaf = 0.84 + 0.16 * np.sign(np.sin(14 * np.pi * z))
        leaves = _where(np.abs(z) < 0.8, _filled((0.78, 0.74, 0.62), len(x)) * leaf, _filled(cover, len(x)))
        spine = (axis == 0) & (x < 0)
        return _where((axis == 2) | spine, printed, leaves)

    return texture


def chips(colors: list[Color]) -> Texture:
    """A stack of poker chips: one layer a colour, with pale marks round each rim and a ring on top."""

    def texture(unit: Floats, half: Floats) -> Floats:
        x, y, z = unit
        radius, turn = np.hypot(x, y), np.arctan2(y, x) / (2 * np.pi)
        layer = np.clip((z * 0.5 + 0.5) * len(colors), 0, len(colors) - 1e-3)
        number = layer.astype(np.intp)
        albedo = np.asarray(colors, np.float32).T[:, number]
        mark = ((turn * 6 + 0.37 * number) % 1 < 0.3) & (radius > 0.78)
        mark |= (np.abs(radius - 0.55) < 0.05) & (radius < 0.9)
        gap = (layer % 1 < 0.1) & (radius > 0.99)
        return _where(mark, _filled((0.82, 0.80, 0.74), len(x)), albedo) * np.where(gap, 0.25, 1)

    return texture


def planks(width: float, length: float) -> Texture:
    """A table top of oak planks with dark joints and a grain along x."""

    def texture(unit: Floats, half: Floats) -> Floats:
        x, y = unit[0] * half[0], unit[1] * half[1]
        row = np.floor(y / width)
        along = x / length + 0.37 * row
        board = np.floor(along)
        tone = _random(board, row, row)
        grain = np.sin(90 * y + 6 * tone + 4 * np.sin(2.2 * x + 9 * tone)) + 0.6 * np.sin(210 * y + 5 * np.sin(3 * x))
        oak = _mix((0.23, 0.12, 0.055), (0.47, 0.28, 0.14), 0.25 + 0.5 * tone + 0.13 * grain)
        joint = (_to_border(y / width) * width < 0.006) | (_to_border(along) * length < 0.006)
        return oak * np.where(joint, 0.3, 1)

    return texture


def _glyph(letter: str, size: int = 96) -> npt.NDArray[np.bool_]:
    """A letter as a mask [size, size], row 0 on top: every point within a pen's width of a stroke."""
    axis = np.linspace(-1, 1, size)
    points = np.stack(np.meshgrid(axis, -axis), axis=-1)
    mask = np.zeros((size, size), np.bool_)
    for line in _STROKES[letter]:
        for start, end in zip(np.array(line[:-1]), np.array(line[1:]), strict=True):
            step = end - start
            t = np.clip((points - start) @ step / (step @ step), 0, 1)
            mask |= np.linalg.norm(points - start - t[..., None] * step, axis=-1) < 0.15
    return mask


def _face_coordinates(unit: Floats) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
    """Which face pair of the cube a point lies on, and (u, v) on it as seen from outside: u right, v up; each [n]."""
    x, y, z = unit
    axis = np.abs(unit).argmax(axis=0)
    u = np.choose(axis, [y * np.sign(x), -x * np.sign(y), x])
    v = np.choose(axis, [z, z, y])
    return axis, u, v


def _to_border(position: Floats) -> Floats:
    """Distance to the nearest integer."""
    return np.abs(position - np.round(position))


def _random(i: Floats, j: Floats, k: Floats | npt.NDArray[np.intp]) -> Floats:
    """A repeatable value in [0, 1) for each lattice cell: the fractional part of a large sine."""
    seed = i.astype(np.float64) * 12.9898 + j * 78.233 + k * 37.719
    return np.asarray((np.sin(seed) * 43758.5453) % 1, np.float32)


def _filled(color: Color, count: int) -> Floats:
    return np.repeat(np.asarray(color, np.float32)[:, None], count, axis=1)


def _mix(low: Color, high: Color, weight: Floats) -> Floats:
    a, b = np.asarray(low, np.float32)[:, None], np.asarray(high, np.float32)[:, None]
    return np.asarray(a + (b - a) * np.clip(weight, 0, 1), np.float32)


def _where(mask: npt.NDArray[np.bool_], inside: Floats, outside: Floats) -> Floats:
    return np.where(mask, inside, outside)
