"""What stands on the table: letter blocks, balls, a book, a chimney, a log, a beaker of pencils and some toys.

Lengths are in world units, a hundredth of which is about a pixel in the photos; z is up, the table top is at z = 0.
"""

from __future__ import annotations

import numpy as np

from gns.demo.lighting import Material, Thing
from gns.demo.solids import Floats, Solid
from gns.demo.textures import (
    Color,
    beach_ball,
    book,
    bricks,
    chips,
    dotted_beaker,
    letter_block,
    log,
    marble,
    plain,
    planks,
)

RED: Color = (0.60, 0.06, 0.05)
BLUE: Color = (0.05, 0.14, 0.45)
GREEN: Color = (0.06, 0.32, 0.12)
YELLOW: Color = (0.78, 0.50, 0.05)
CREAM: Color = (0.80, 0.74, 0.60)


def still_life() -> list[Thing]:
    """The table and everything on it, not yet lit."""
    return [_table(), *_blocks(), *_book_and_ball(), _chimney(), *_log_and_ball(), *_toys(), *_beaker_and_pencils()]


def _table() -> Thing:
    return Thing(_cylinder((0, 0, -0.06), 1.75, 0.06), Material(planks(0.21, 1.3), 0.3, 24, lightmap=160))


def _blocks() -> list[Thing]:
    side = 0.21

    def block(letter: str, paint: Color, x: float, y: float, z: float, turn: float) -> Thing:
        return Thing(_cube((x, y, z), (side, side, side), turn), Material(letter_block(letter, paint), 0.12, 25))

    return [
        block("G", RED, -0.16, -0.24, side, 14),
        block("N", GREEN, 0.32, -0.30, side, -9),
        block("S", BLUE, 0.07, -0.27, 3 * side, 31),
    ]


def _book_and_ball() -> list[Thing]:
    glass = Material(plain((0.02, 0.035, 0.10)), 1.5, 400, mirror=(0.10, 0.11, 0.14))
    return [
        Thing(_cube((0.62, 0.55, 0.065), (0.46, 0.34, 0.065), 24), Material(book((0.07, 0.16, 0.13)), 0.25, 40)),
        Thing(_ball((0.52, 0.52, 0.13 + 0.24), 0.24), glass),
    ]


def _chimney() -> Thing:
    return Thing(
        _cube((-0.62, 0.62, 0.42), (0.24, 0.20, 0.42), -18), Material(bricks(0.16, 0.065), 0.05, 10, lightmap=32)
    )


def _log_and_ball() -> list[Thing]:
    gold = Material(plain((0.25, 0.15, 0.03)), 1.6, 300, mirror=(0.85, 0.60, 0.24))
    return [
        Thing(_cylinder((-0.95, -0.28, 0.15), 0.27, 0.15), Material(log(9), 0.08, 12)),
        Thing(_ball((-0.95, -0.28, 0.30 + 0.15), 0.15), gold),
    ]


def _toys() -> list[Thing]:
    stripes = beach_ball([RED, CREAM, BLUE, CREAM, YELLOW, CREAM])
    stone = Material(marble(), 0.7, 90, mirror=(0.03, 0.03, 0.03))
    return [
        Thing(_ball((0.98, -0.42, 0.27), 0.27, tilt=35), Material(stripes, 0.9, 160)),
        Thing(_egg((-0.30, -0.92, 0.16), (0.16, 0.16, 0.22), 78, 40), stone),
        Thing(
            _cylinder((0.42, -0.92, 0.11), 0.19, 0.11), Material(chips([RED, CREAM, BLUE, GREEN, CREAM, RED]), 0.4, 50)
        ),
    ]


def _beaker_and_pencils() -> list[Thing]:
    glaze = dotted_beaker((0.10, 0.34, 0.36), CREAM, 9)
    return [
        Thing(_cylinder((1.22, 0.30, 0.28), 0.13, 0.28), Material(glaze, 0.9, 160)),
        Thing(_pencil((1.22, 0.30, 0.58), 16, 30), Material(plain(YELLOW), 0.6, 60)),
        Thing(_pencil((1.21, 0.28, 0.56), -11, -60), Material(plain(RED), 0.6, 60)),
        Thing(_pencil((1.25, 0.33, 0.55), 13, 160), Material(plain(BLUE), 0.6, 60)),
    ]


def _cube(center: tuple[float, float, float], half: tuple[float, float, float], turn: float) -> Solid:
    return Solid("cube", _vector(center), _vector(half), _turned(turn))


def _cylinder(center: tuple[float, float, float], radius: float, half_height: float) -> Solid:
    return Solid("cylinder", _vector(center), _vector((radius, radius, half_height)), _turned(0))


def _ball(center: tuple[float, float, float], radius: float, tilt: float = 0) -> Solid:
    return Solid("ball", _vector(center), _vector((radius, radius, radius)), _turned(20) @ _tilted(tilt))


def _egg(center: tuple[float, float, float], half: tuple[float, float, float], tilt: float, turn: float) -> Solid:
    return Solid("ball", _vector(center), _vector(half), _turned(turn) @ _tilted(tilt))


def _pencil(center: tuple[float, float, float], tilt: float, turn: float) -> Solid:
    return Solid("cylinder", _vector(center), _vector((0.022, 0.022, 0.36)), _turned(turn) @ _tilted(tilt))


def _vector(values: tuple[float, float, float]) -> Floats:
    return np.asarray(values, np.float32)


def _turned(degrees: float) -> Floats:
    """Rotation about the vertical."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def _tilted(degrees: float) -> Floats:
    """Rotation about y: the solid's axis leans towards x."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)
