"""Yards: a lawn or court with a house, a fence, trees, beds and garden furniture.

In: a ``Builder``. Out: a finished ``World`` with light, exposure, free space and points of
interest.
"""

from __future__ import annotations

import math

import numpy as np

from artifixer.scenes.procedural.furniture import (
    SLAB,
    add_ball,
    add_basket,
    add_boxes,
    add_table_group,
    one_of,
    spread,
)
from artifixer.scenes.procedural.world import Builder, Frame, World, open_sky

#: Half size of a yard's ground, metres: far enough for a horizon.
_GROUND = 45.0


def lay_out_yard(builder: Builder) -> World:
    """A lawn or court with a house, a fence, trees, beds, garden furniture and small objects, under
    the open sky.
    """
    rng = builder.rng
    builder.hue = float(rng.random())
    half_x, half_y = rng.uniform(4.0, 6.5), rng.uniform(4.0, 6.5)
    at = Frame(0, 0)
    builder.box(
        at,
        (0, 0, -SLAB),
        (_GROUND, _GROUND, SLAB),
        builder.look(str(rng.choice(["grass", "grass", "gravel", "paving"]))),
    )
    _terrace(builder, half_x, half_y)
    sides = [
        (Frame(0, -half_y, 0, 0.0), half_x),
        (Frame(half_x, 0, 0, math.pi / 2), half_y),
        (Frame(0, half_y, 0, math.pi), half_x),
        (Frame(-half_x, 0, 0, -math.pi / 2), half_y),
    ]
    house = int(rng.integers(4))
    for number, (side, half_length) in enumerate(sides):
        if number == house or rng.random() < 0.15:
            _house(builder, side, half_length)
        else:
            _border(builder, side, half_length)
        for _ in range(int(rng.integers(1, 4))):
            along = rng.uniform(-0.85, 0.85) * half_length
            one_of(builder, (_bush, _bush, _pot, _rock, _crates, _barrel))(
                builder, side.moved(along, rng.uniform(0.5, 1.1))
            )
        for _ in range(int(rng.integers(1, 4))):
            _tree(
                builder,
                side.moved(
                    rng.uniform(-1.3, 1.3) * half_length,
                    -rng.uniform(3.5, 12.0) - 5.0 * (number == house),
                ),
            )
    for x, y in spread(rng, int(rng.integers(4, 8)), half_x - 1.4, half_y - 1.4, apart=1.3):
        piece = one_of(
            builder,
            (_bench, _garden_table, _tree, _pot, _crates, _barrel, _rock, _well, _bush, _toys),
        )
        place = Frame(x, y, 0, rng.uniform(0, 2 * math.pi))
        piece(builder, place)
        builder.interests.append(place.point(0, 0, rng.uniform(0.4, 0.9)))
    low, high = (-half_x + 0.6, -half_y + 0.6, 0.9), (half_x - 0.6, half_y - 0.6, 2.2)
    return builder.finish(open_sky(rng), low, high, indoors=False)


def _terrace(builder: Builder, half_x: float, half_y: float) -> None:
    """Paving along one side or a path across, a finger's width above the ground."""
    rng = builder.rng
    paving = builder.look("paving")
    if rng.random() < 0.5:
        builder.box(
            Frame(0, 0),
            (rng.uniform(-1, 1), 0, 0.01),
            (rng.uniform(0.6, 1.1), half_y + 4, 0.02),
            paving,
        )
    else:
        centre = (rng.uniform(-0.5, 0.5) * half_x, rng.uniform(-0.5, 0.5) * half_y, 0.01)
        builder.box(
            Frame(0, 0, 0, 0.3 * rng.normal()),
            centre,
            (rng.uniform(1.5, 2.5), rng.uniform(1.5, 2.5), 0.02),
            paving,
        )


def _house(builder: Builder, side: Frame, half_length: float) -> None:
    """A facade with windows and a door, a gable roof above."""
    rng = builder.rng
    wall, trim = builder.look("facade"), builder.plain(0.1, 0.08, rng.uniform(0.6, 0.97))
    half_x, depth, eaves = (
        half_length * rng.uniform(0.75, 1.15),
        rng.uniform(2.0, 3.5),
        rng.uniform(2.5, 4.8),
    )
    builder.box(side, (0, -depth, eaves / 2), (half_x, depth, eaves / 2), wall)
    builder.box(side, (0, 0.02, 0.2), (half_x + 0.02, 0.03, 0.2), builder.look("stone"))
    ridge = side.moved(0, -depth, eaves, math.pi / 2)
    builder.gable(ridge, (0, 0, 0.8), (depth + 0.4, half_x + 0.3, 0.8), builder.look("roof"))
    glass = builder.plain(0.58, 0.35, 0.3)
    count = int(rng.integers(3, 6))
    door = int(rng.integers(count))
    for level in range(1 if eaves < 3.6 else 2):
        for number in range(count):
            x = half_x * ((2 * number + 1) / count - 1)
            if number == door and level == 0:
                builder.box(side, (x, 0.02, 1.05), (0.52, 0.03, 1.07), trim)
                builder.box(
                    side, (x, 0.05, 1.0), (0.45, 0.02, 1.0), builder.look("boards").across()
                )
                builder.box(side, (x, 0.35, 0.07), (0.7, 0.35, 0.07), builder.look("stone"))
                continue
            z = 1.45 + 2.3 * level
            builder.box(side, (x, 0.01, z), (0.5, 0.03, 0.62), trim)
            for sign in (-1, 1):
                builder.box(side, (x + sign * 0.22, 0.03, z), (0.2, 0.02, 0.54), glass)
            builder.box(side, (x, 0.06, z - 0.64), (0.56, 0.08, 0.03), trim)
    builder.interests.append(side.point(0, 0, 1.4))


def _border(builder: Builder, side: Frame, half_length: float) -> None:
    """A wooden fence, a hedge, a wall of brick or stone."""
    rng = builder.rng
    kind, top = str(rng.choice(["fence", "hedge", "wall"])), rng.uniform(1.0, 1.9)
    if kind == "hedge":
        leaves = builder.look("leaves")
        builder.box(side, (0, -0.3, top / 2), (half_length, 0.3, top / 2 - 0.05), leaves)
        for x in np.arange(-half_length, half_length, 0.45):
            size = rng.uniform(0.3, 0.42)
            builder.ball(
                side, (x, -0.3 + rng.normal() * 0.05, top - 0.25), (size, 0.36, size), leaves
            )
    elif kind == "wall":
        builder.box(
            side,
            (0, -0.15, top / 2),
            (half_length, 0.15, top / 2),
            builder.look(str(rng.choice(["brick", "rubble", "stone"]))),
        )
        builder.box(side, (0, -0.15, top + 0.03), (half_length, 0.2, 0.03), builder.look("stone"))
    else:
        boards = builder.look("boards").across()
        width = rng.uniform(0.1, 0.2)
        for x in np.arange(-half_length, half_length, width * 1.25):
            builder.box(
                side, (x, 0, top / 2), (width / 2, 0.012, top / 2 + rng.normal() * 0.012), boards
            )
        for z in (0.3 * top, 0.8 * top):
            builder.box(side, (0, -0.04, z), (half_length, 0.025, 0.04), boards.across())


def _tree(builder: Builder, at: Frame) -> None:
    rng = builder.rng
    trunk, radius = rng.uniform(1.4, 2.4), rng.uniform(0.08, 0.18)
    builder.rod(
        at,
        (0, 0, -0.05),
        (rng.normal() * 0.1, rng.normal() * 0.1, trunk + 0.6),
        radius,
        builder.look("bark").across(),
    )
    leaves = builder.look("leaves")
    if rng.random() < 0.25:
        for level in range(4):
            builder.cone(
                at, (0, 0, trunk * 0.7 + 0.8 * level + 0.6), 1.3 - 0.28 * level, 0.75, leaves
            )
        return
    for _ in range(int(rng.integers(7, 14))):
        offset = rng.normal(size=3) * [0.55, 0.55, 0.4]
        size = rng.uniform(0.35, 0.75)
        builder.ball(
            at,
            (offset[0], offset[1], trunk + 0.9 + offset[2]),
            (size, size, size * rng.uniform(0.7, 1.0)),
            leaves,
        )


def _bush(builder: Builder, at: Frame) -> None:
    rng = builder.rng
    leaves = builder.look("leaves")
    for _ in range(int(rng.integers(4, 9))):
        size, (x, y) = rng.uniform(0.15, 0.33), rng.normal(size=2) * 0.2
        builder.ball(at, (x, y, size * rng.uniform(0.8, 1.6)), (size, size, size), leaves)
    for _ in range(int(rng.integers(0, 9))):
        angle, up = rng.uniform(0, 6.28), rng.uniform(0.25, 0.65)
        flower = builder.plain(rng.uniform(0.8, 1.15), 0.7, 0.9)
        builder.ball(
            at, (0.42 * math.cos(angle), 0.42 * math.sin(angle), up), (0.045, 0.045, 0.045), flower
        )


def _pot(builder: Builder, at: Frame) -> None:
    rng = builder.rng
    clay = builder.plain(0.05, 0.55, 0.7)
    size = rng.uniform(0.16, 0.3)
    builder.cylinder(at, (0, 0, size), size, size, clay)
    builder.cylinder(at, (0, 0, 2 * size), size * 1.12, 0.04, clay)
    leaves = builder.look("leaves")
    for _ in range(6):
        x, y = rng.normal(size=2) * 0.12
        builder.ball(
            at, (x, y, 2 * size + rng.uniform(0.05, 0.45)), tuple(rng.uniform(0.08, 0.2, 3)), leaves
        )


def _rock(builder: Builder, at: Frame) -> None:
    for _ in range(int(builder.rng.integers(1, 4))):
        x, y = builder.rng.normal(size=2) * 0.3
        half = builder.rng.uniform((0.15, 0.15, 0.1), (0.5, 0.4, 0.35))
        builder.ball(
            at.moved(0, 0, 0, builder.rng.uniform(0, 3)),
            (x, y, 0.5 * half[2]),
            half,
            builder.look("rubble"),
        )


def _crates(builder: Builder, at: Frame) -> None:
    rng = builder.rng
    z = 0.02
    for _ in range(int(rng.integers(1, 4))):
        half, place = (
            rng.uniform(0.18, 0.3),
            at.moved(rng.normal() * 0.04, rng.normal() * 0.04, z, rng.normal() * 0.3),
        )
        wood = builder.look("boards")
        builder.box(place, (0, 0, half), (half, half, half), wood)
        for sign in (-1, 1):
            for level in (0.08, 1.92):
                builder.box(
                    place, (0, sign * half, level * half), (half + 0.01, 0.015, 0.05), wood.across()
                )
                builder.box(
                    place, (sign * half, 0, level * half), (0.015, half + 0.01, 0.05), wood.across()
                )
        z += 2 * half


def _barrel(builder: Builder, at: Frame) -> None:
    wood, metal = builder.look("boards").across(), builder.plain(0.08, 0.2, 0.3)
    builder.cylinder(at, (0, 0, 0.42), 0.28, 0.42, wood)
    for level in (0.1, 0.42, 0.74):
        builder.cylinder(at, (0, 0, level), 0.29, 0.03, metal)


def _bench(builder: Builder, at: Frame) -> None:
    wood = builder.look("wood")
    for slat in range(4):
        builder.box(at, (0, -0.15 + 0.12 * slat, 0.45), (0.75, 0.045, 0.018), wood)
    for level in (0.6, 0.74, 0.88):
        builder.box(at, (0, -0.25, level), (0.75, 0.015, 0.05), wood)
    for sign in (-1, 1):
        builder.box(at, (sign * 0.65, 0.2, 0.22), (0.04, 0.04, 0.22), wood)
        builder.box(at, (sign * 0.65, -0.22, 0.46), (0.04, 0.04, 0.46), wood)


def _garden_table(builder: Builder, at: Frame) -> None:
    add_table_group(builder, at.moved(0, 0, 0.03))


def _well(builder: Builder, at: Frame) -> None:
    stone, wood = builder.look("brick"), builder.look("wood")
    builder.cylinder(at, (0, 0, 0.4), 0.55, 0.4, stone)
    builder.cylinder(at, (0, 0, 0.82), 0.62, 0.04, builder.look("stone"))
    for sign in (-1, 1):
        builder.box(at, (sign * 0.5, 0, 1.3), (0.05, 0.05, 0.5), wood)
    builder.gable(at, (0, 0, 2.0), (0.8, 0.6, 0.25), builder.look("roof"))


def _toys(builder: Builder, at: Frame) -> None:
    for angle in builder.rng.uniform(0, 6.28, 3):
        place = at.moved(0.5 * math.cos(angle), 0.5 * math.sin(angle))
        one_of(builder, (add_ball, add_basket, add_boxes))(builder, place)
    add_ball(builder, at)
