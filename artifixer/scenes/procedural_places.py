"""Rooms and yards: what stands where in a procedural world.

In: a ``Builder`` (materials and solids) and its numpy generator. Out: a finished ``World`` with
light, exposure, room to move and things to look at. World axes: x and y along the ground, z up,
metres; furniture stands with its back at y = 0 of its own frame and faces +y.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from artifixer.scenes.procedural_builder import Builder, Material, Place, Sky, World, hsv

#: Walls and slabs, half thickness in metres.
_SLAB = 0.12
#: Half size of a yard's ground, metres: far enough for a horizon.
_GROUND = 45.0


def furnish_room(builder: Builder) -> World:
    """A room with one or two windows, furniture along the walls, a group in the middle, and
    clutter.
    """
    rng = builder.rng
    builder.hue = float(rng.random())
    half_x, half_y, height = rng.uniform(1.9, 3.3), rng.uniform(1.9, 3.3), rng.uniform(2.4, 3.0)
    at = Place(0, 0)
    builder.box(at, (0, 0, -_SLAB), (half_x + 0.3, half_y + 0.3, _SLAB), builder.look("floor"))
    ceiling = builder.look("paint", most=1).tinted((0.95, 0.94, 0.92))
    builder.box(at, (0, 0, height + _SLAB), (half_x + 0.3, half_y + 0.3, _SLAB), ceiling)
    walls = [
        (Place(0, -half_y, 0, 0.0), half_x),
        (Place(half_x, 0, 0, math.pi / 2), half_y),
        (Place(0, half_y, 0, math.pi), half_x),
        (Place(-half_x, 0, 0, -math.pi / 2), half_y),
    ]
    windows = set(rng.choice(4, size=int(rng.integers(1, 3)), replace=False).tolist())
    common = builder.look("wall")
    accent = int(rng.integers(4))
    for number, (wall, half_length) in enumerate(walls):
        material = builder.look("wall", most=3) if number == accent else common
        _wall(builder, wall, half_length, height, material, window=number in windows)
        _along_wall(builder, wall, half_length, height, window=number in windows)
    _middle_of_room(builder, half_x, half_y)
    for lamp in range(int(rng.integers(1, 3))):
        x, y = rng.uniform(-0.5, 0.5) * half_x, rng.uniform(-0.5, 0.5) * half_y
        _ceiling_lamp(builder, x, y, height, strength=rng.uniform(1.5, 4.0) / (lamp + 1))
    inset = 0.45
    low, high = (
        (-half_x + inset, -half_y + inset, 0.75),
        (half_x - inset, half_y - inset, min(1.95, height - 0.4)),
    )
    return builder.finish(_window_sky(rng), low, high, indoors=True)


def lay_out_yard(builder: Builder) -> World:
    """A lawn or court with a house, a fence, trees, beds, garden furniture and things left lying
    about, under the open sky.
    """
    rng = builder.rng
    builder.hue = float(rng.random())
    half_x, half_y = rng.uniform(4.0, 6.5), rng.uniform(4.0, 6.5)
    at = Place(0, 0)
    builder.box(
        at,
        (0, 0, -_SLAB),
        (_GROUND, _GROUND, _SLAB),
        builder.look(str(rng.choice(["grass", "grass", "gravel", "paving"]))),
    )
    _terrace(builder, half_x, half_y)
    sides = [
        (Place(0, -half_y, 0, 0.0), half_x),
        (Place(half_x, 0, 0, math.pi / 2), half_y),
        (Place(0, half_y, 0, math.pi), half_x),
        (Place(-half_x, 0, 0, -math.pi / 2), half_y),
    ]
    house = int(rng.integers(4))
    for number, (side, half_length) in enumerate(sides):
        if number == house or rng.random() < 0.15:
            _house(builder, side, half_length)
        else:
            _border(builder, side, half_length)
        for _ in range(int(rng.integers(1, 4))):
            along = rng.uniform(-0.85, 0.85) * half_length
            _one_of(builder, (_bush, _bush, _pot, _rock, _crates, _barrel))(
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
    for x, y in _spread(rng, int(rng.integers(4, 8)), half_x - 1.4, half_y - 1.4, apart=1.3):
        piece = _one_of(
            builder,
            (_bench, _garden_table, _tree, _pot, _crates, _barrel, _rock, _well, _bush, _toys),
        )
        place = Place(x, y, 0, rng.uniform(0, 2 * math.pi))
        piece(builder, place)
        builder.interests.append(place.point(0, 0, rng.uniform(0.4, 0.9)))
    low, high = (-half_x + 0.6, -half_y + 0.6, 0.9), (half_x - 0.6, half_y - 0.6, 2.2)
    return builder.finish(_open_sky(rng), low, high, indoors=False)


# Light from outside.


def _window_sky(rng: np.random.Generator) -> Sky:
    """What comes in by the windows: a sky that outshines the room, and a sun low enough to reach
    its floor.
    """
    sky = _open_sky(rng)
    return Sky(
        sky.sun_direction,
        sky.sun_colour * 2.0,
        sky.sun_spread,
        sky.horizon * 2.2,
        sky.zenith * 2.2,
        sky.ground * 2.0,
    )


def _open_sky(rng: np.random.Generator) -> Sky:
    """Clear, hazy or overcast."""
    turn, height = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 1.1)
    sun = np.array(
        [math.cos(turn) * math.cos(height), math.sin(turn) * math.cos(height), math.sin(height)]
    )
    clear = rng.uniform(0.0, 1.0)
    warm = np.array([1.0, 0.93 - 0.12 * (height < 0.6), 0.82 - 0.2 * (height < 0.6)])
    zenith = (1 - clear) * np.array([0.6, 0.65, 0.74]) + clear * np.array([0.14, 0.3, 0.68])
    horizon = (1 - clear) * np.array([0.72, 0.75, 0.8]) + clear * np.array([0.5, 0.64, 0.85])
    ground = np.array([0.28, 0.27, 0.24])
    return Sky(sun, warm * (0.3 + 2.0 * clear), 0.012 + 0.09 * (1 - clear), horizon, zenith, ground)


# The shell of a room.


def _wall(
    builder: Builder,
    wall: Place,
    half_length: float,
    height: float,
    material: Material,
    window: bool,
) -> None:
    """A wall behind y = 0, with a window opening or without, and a skirting board."""
    rng = builder.rng
    trim = builder.plain(0.1, 0.05, rng.uniform(0.7, 0.97))
    builder.box(wall, (0, 0.012, 0.05), (half_length, 0.012, 0.05), trim)
    if not window:
        builder.wall_piece(
            wall, (0, -_SLAB, height / 2), (half_length + 2 * _SLAB, _SLAB, height / 2), material
        )
        return
    half_width, sill, top = (
        rng.uniform(0.5, min(1.1, half_length - 0.5)),
        rng.uniform(0.5, 1.0),
        height - rng.uniform(0.25, 0.5),
    )
    side = (half_length + 2 * _SLAB - half_width) / 2
    for sign in (-1, 1):
        builder.wall_piece(
            wall,
            (sign * (half_width + side), -_SLAB, height / 2),
            (side, _SLAB, height / 2),
            material,
        )
        builder.box(
            wall,
            (sign * half_width, -_SLAB, (sill + top) / 2),
            (0.03, _SLAB + 0.01, (top - sill) / 2),
            trim,
        )
    builder.wall_piece(wall, (0, -_SLAB, sill / 2), (half_width, _SLAB, sill / 2), material)
    builder.wall_piece(
        wall, (0, -_SLAB, (top + height) / 2), (half_width, _SLAB, (height - top) / 2), material
    )
    builder.box(wall, (0, -0.03, sill), (half_width + 0.05, 0.12, 0.02), trim)
    builder.box(wall, (0, -_SLAB, top), (half_width, _SLAB, 0.03), trim)
    for bar in range(int(rng.integers(0, 3))):
        builder.box(
            wall,
            ((bar - 0.5) * half_width * 0.7, -0.1, (sill + top) / 2),
            (0.02, 0.02, (top - sill) / 2),
            trim,
        )
    builder.box(wall, (0, -0.1, (sill + top) / 2 + 0.1), (half_width, 0.02, 0.02), trim)
    # What is outside: a hedge or the house across the street.
    builder.box(
        wall,
        (0, -rng.uniform(5, 9), 0),
        (8, 0.5, rng.uniform(1.2, 2.4)),
        builder.look(str(rng.choice(["leaves", "facade"]))),
    )
    if rng.random() < 0.6:
        cloth = builder.look("cloth").across()
        for sign in (-1, 1):
            for fold in range(4):
                builder.cylinder(
                    wall,
                    (sign * (half_width + 0.05 + 0.09 * fold), 0.09, top / 2 + 0.1),
                    0.05,
                    top / 2,
                    cloth,
                )
        rail = top + 0.13
        builder.rod(
            wall, (-half_width - 0.5, 0.09, rail), (half_width + 0.5, 0.09, rail), 0.015, trim
        )


def _along_wall(
    builder: Builder, wall: Place, half_length: float, height: float, window: bool
) -> None:
    """Furniture side by side with its back to the wall, pictures above the low pieces."""
    rng = builder.rng
    position = -half_length + rng.uniform(0.3, 0.7)
    while position < half_length - 0.6:
        low = (_chest, _sofa, _desk, _chest, _plant, _boxes)
        piece = _one_of(
            builder, low if window else (*low, _shelf, _shelf, _wardrobe, _floor_lamp, _bed)
        )
        half_width = _WIDTHS.get(piece, 0.35)
        middle = position + half_width
        if middle + half_width > half_length - 0.25:
            break
        piece(builder, wall.moved(middle, 0.02))
        if piece in (_chest, _sofa, _desk, _bed, _boxes) and not window:
            _pictures(builder, wall.moved(middle, 0.0), min(height - 0.3, 2.3))
        position = middle + half_width + rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.4, 1.3)])


def _middle_of_room(builder: Builder, half_x: float, half_y: float) -> None:
    rng = builder.rng
    centre = Place(
        rng.uniform(-0.3, 0.3),
        rng.uniform(-0.3, 0.3),
        0,
        rng.choice([0, math.pi / 2]) + rng.uniform(-0.3, 0.3),
    )
    size = min(half_x, half_y) - 1.0
    if rng.random() < 0.75:
        builder.box(
            centre,
            (0, 0, 0.006),
            (rng.uniform(0.8, 1.5), rng.uniform(0.7, 1.1), 0.006),
            builder.look("rug"),
        )
    if size > 0.75:
        _table_group(builder, centre)
    else:
        _one_of(builder, (_stool, _low_table, _boxes))(builder, centre)
    builder.interests.append(centre.point(0, 0, rng.uniform(0.5, 0.8)))
    for x, y in _spread(rng, int(rng.integers(2, 6)), half_x - 0.9, half_y - 0.9, apart=0.5):
        if math.hypot(x - centre.x, y - centre.y) > 1.3:
            _one_of(builder, (_ball, _boxes, _basket, _stool, _books_pile))(
                builder, Place(x, y, 0, rng.uniform(0, 6.28))
            )


# Furniture.


def _table_group(builder: Builder, at: Place) -> None:
    rng = builder.rng
    if rng.random() < 0.3:
        _low_table(builder, at)
        return
    half_x, half_y, top = rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.5), rng.uniform(0.7, 0.77)
    wood = builder.look("wood")
    if rng.random() < 0.3:
        builder.cylinder(at, (0, 0, top - 0.02), 0.55, 0.02, wood)
        builder.cylinder(at, (0, 0, top / 2), 0.05, top / 2 - 0.03, wood)
        builder.cylinder(at, (0, 0, 0.02), 0.28, 0.02, wood)
        half_x = half_y = 0.38
    else:
        builder.box(at, (0, 0, top - 0.02), (half_x, half_y, 0.02), wood)
        _legs(builder, at, half_x - 0.06, half_y - 0.06, top - 0.04, 0.03, wood)
    _things_on(builder, at.moved(0, 0, top), half_x - 0.08, half_y - 0.08, int(rng.integers(3, 7)))
    cushion = builder.look("cloth")
    for angle in rng.permutation(4)[: int(rng.integers(1, 5))] * math.pi / 2:
        reach = (half_y if angle in (0, math.pi) else half_x) + rng.uniform(0.1, 0.35)
        place = at.moved(
            -reach * math.sin(angle),
            reach * math.cos(angle),
            0,
            angle + math.pi + rng.normal() * 0.15,
        )
        _chair(builder, place, wood, cushion)


def _chair(builder: Builder, at: Place, wood: Material, cushion: Material) -> None:
    builder.box(at, (0, 0, 0.45), (0.21, 0.21, 0.015), wood)
    builder.box(at, (0, 0, 0.475), (0.19, 0.19, 0.02), cushion)
    _legs(builder, at, 0.18, 0.18, 0.44, 0.018, wood)
    for sign in (-1, 1):
        builder.box(at, (sign * 0.18, -0.19, 0.68), (0.018, 0.018, 0.24), wood)
    for level in (0.66, 0.76, 0.87):
        builder.box(at, (0, -0.19, level), (0.18, 0.012, 0.03), wood)


def _low_table(builder: Builder, at: Place) -> None:
    half_x, half_y, top = (
        builder.rng.uniform(0.4, 0.6),
        builder.rng.uniform(0.28, 0.4),
        builder.rng.uniform(0.36, 0.46),
    )
    wood = builder.look("wood")
    builder.box(
        at,
        (0, 0, top - 0.02),
        (half_x, half_y, 0.02),
        builder.look("stone") if builder.rng.random() < 0.3 else wood,
    )
    _legs(builder, at, half_x - 0.05, half_y - 0.05, top - 0.04, 0.025, wood)
    builder.box(at, (0, 0, 0.14), (half_x - 0.06, half_y - 0.06, 0.012), wood)
    _things_on(
        builder, at.moved(0, 0, top), half_x - 0.06, half_y - 0.06, int(builder.rng.integers(2, 6))
    )


def _legs(
    builder: Builder, at: Place, x: float, y: float, height: float, half: float, material: Material
) -> None:
    for sign_x in (-1, 1):
        for sign_y in (-1, 1):
            builder.box(
                at, (sign_x * x, sign_y * y, height / 2), (half, half, height / 2), material
            )


def _stool(builder: Builder, at: Place) -> None:
    wood = builder.look("wood")
    builder.cylinder(at, (0, 0, 0.45), 0.18, 0.02, wood)
    for angle in (0.5, 2.6, 4.7):
        builder.rod(
            at,
            (0.22 * math.cos(angle), 0.22 * math.sin(angle), 0),
            (0.1 * math.cos(angle), 0.1 * math.sin(angle), 0.44),
            0.02,
            wood,
        )


def _chest(builder: Builder, at: Place) -> None:
    rng = builder.rng
    half_x, depth, top = 0.5, 0.22, rng.uniform(0.6, 0.95)
    body = (
        builder.look("wood") if rng.random() < 0.6 else builder.plain(value=rng.uniform(0.4, 0.95))
    )
    knob = builder.plain(0.1, 0.3, rng.uniform(0.1, 0.8))
    builder.box(at, (0, depth, top / 2 + 0.04), (half_x, depth, top / 2 - 0.04), body)
    builder.box(at, (0, depth, top), (half_x + 0.02, depth + 0.02, 0.015), body.across())
    rows = int(rng.integers(2, 5))
    for row in range(rows):
        z = 0.1 + (top - 0.14) * (row + 0.5) / rows
        for sign in (-1, 1):
            builder.box(
                at,
                (sign * half_x / 2, 2 * depth + 0.008, z),
                (half_x / 2 - 0.02, 0.01, (top - 0.14) / rows / 2 - 0.012),
                body.across(),
            )
            builder.ball(at, (sign * half_x / 2, 2 * depth + 0.03, z), (0.015, 0.015, 0.015), knob)
    _things_on(
        builder,
        at.moved(0, depth, top + 0.015),
        half_x - 0.1,
        depth - 0.08,
        int(rng.integers(2, 6)),
    )
    builder.interests.append(at.point(0, depth, top))


def _shelf(builder: Builder, at: Place) -> None:
    rng = builder.rng
    half_x, depth, top, boards = 0.42, 0.14, rng.uniform(1.5, 2.1), int(rng.integers(4, 7))
    wood = builder.look("wood")
    for sign in (-1, 1):
        builder.box(at, (sign * half_x, depth, top / 2), (0.012, depth, top / 2), wood)
    builder.box(at, (0, 0.01, top / 2), (half_x, 0.008, top / 2), wood.across())
    gap = (top - 0.1) / (boards - 1)
    for board in range(boards):
        z = 0.08 + board * gap
        builder.box(at, (0, depth, z), (half_x, depth, 0.012), wood)
        if board < boards - 1:
            _row_of_books(builder, at.moved(0, depth, z + 0.012), half_x - 0.04, gap - 0.05)
    builder.interests.append(at.point(0, depth, 1.0))


def _row_of_books(builder: Builder, at: Place, half_x: float, most: float) -> None:
    rng = builder.rng
    x = -half_x
    while x < half_x - 0.06:
        if rng.random() < 0.12:
            _things_on(builder, at.moved(x + 0.08, 0), 0.02, 0.02, 1)
            x += 0.2
            continue
        thick, tall, deep = (
            rng.uniform(0.025, 0.075),
            most * rng.uniform(0.6, 0.95),
            rng.uniform(0.08, 0.12),
        )
        colour = builder.plain(float(rng.random()), rng.uniform(0.1, 0.75), rng.uniform(0.2, 0.9))
        builder.box(at, (x + thick / 2, 0, tall / 2), (thick / 2 - 0.002, deep, tall / 2), colour)
        x += thick


def _wardrobe(builder: Builder, at: Place) -> None:
    top = builder.rng.uniform(1.7, 2.1)
    wood = builder.look("boards") if builder.rng.random() < 0.5 else builder.look("wood")
    builder.box(at, (0, 0.28, top / 2), (0.5, 0.28, top / 2), wood)
    for sign in (-1, 1):
        builder.box(at, (sign * 0.25, 0.57, top / 2), (0.235, 0.012, top / 2 - 0.06), wood.across())
        builder.cylinder(at, (sign * 0.04, 0.6, top / 2), 0.012, 0.08, builder.plain(0.1, 0.2, 0.6))


def _sofa(builder: Builder, at: Place) -> None:
    rng = builder.rng
    cloth, half_x = builder.look("cloth"), 0.85
    builder.box(at, (0, 0.42, 0.22), (half_x, 0.4, 0.14), cloth)
    builder.tilted_box(at, (0, 0.14, 0.58), (half_x - 0.1, 0.1, 0.28), cloth, about_x=0.15)
    for sign in (-1, 1):
        builder.box(at, (sign * half_x, 0.42, 0.32), (0.1, 0.4, 0.28), cloth)
        builder.cylinder(at, (sign * (half_x - 0.05), 0.75, 0.04), 0.03, 0.04, builder.look("wood"))
        builder.box(
            at, (sign * half_x * 0.44, 0.47, 0.41), (half_x * 0.43, 0.34, 0.06), cloth.across()
        )
    for _ in range(int(rng.integers(1, 4))):
        place = at.moved(rng.uniform(-0.6, 0.6), 0.38, 0.62, rng.uniform(-0.4, 0.4))
        builder.ball(place, (0, 0, 0), (0.2, 0.09, 0.19), builder.look("cloth", most=4))
    builder.interests.append(at.point(0, 0.5, 0.5))


def _bed(builder: Builder, at: Place) -> None:
    wood = builder.look("wood")
    builder.box(at, (0, 0.98, 0.2), (0.7, 0.98, 0.12), wood)
    builder.box(at, (0, 0.03, 0.5), (0.72, 0.03, 0.5), wood)
    builder.box(at, (0, 1.0, 0.4), (0.67, 0.94, 0.1), builder.plain(0.12, 0.05, 0.95))
    builder.box(at, (0, 1.3, 0.43), (0.7, 0.67, 0.1), builder.look("cloth"))
    for sign in (-1, 1):
        builder.ball(at, (sign * 0.33, 0.3, 0.55), (0.28, 0.18, 0.1), builder.look("cloth", most=4))
    builder.interests.append(at.point(0, 1.0, 0.5))


def _desk(builder: Builder, at: Place) -> None:
    wood = builder.look("wood")
    builder.box(at, (0, 0.3, 0.72), (0.6, 0.3, 0.02), wood)
    _legs(builder, at.moved(0, 0.3), 0.56, 0.26, 0.7, 0.025, wood)
    screen = builder.plain(0.6, 0.1, 0.12)
    builder.box(at, (-0.1, 0.14, 1.02), (0.3, 0.015, 0.18), screen)
    builder.box(at, (-0.1, 0.158, 1.02), (0.28, 0.004, 0.165), builder.look("picture", most=4))
    builder.cylinder(at, (-0.1, 0.13, 0.79), 0.02, 0.06, screen)
    builder.box(at, (-0.1, 0.13, 0.745), (0.1, 0.07, 0.006), screen)
    _things_on(builder, at.moved(0.2, 0.35, 0.74), 0.3, 0.15, 4)
    _chair(
        builder,
        at.moved(builder.rng.uniform(-0.2, 0.2), 0.85, 0, math.pi + builder.rng.normal() * 0.3),
        wood,
        builder.look("cloth"),
    )
    builder.interests.append(at.point(0, 0.3, 0.8))


def _pictures(builder: Builder, at: Place, top: float) -> None:
    rng = builder.rng
    count = int(rng.integers(0, 4))
    for number in range(count):
        half_x, half_z = rng.uniform(0.12, 0.3 if count > 1 else 0.45), rng.uniform(0.14, 0.3)
        x, z = (number - (count - 1) / 2) * 0.5, max(top - half_z - rng.uniform(0.05, 0.3), 1.2)
        frame = (
            builder.look("wood")
            if rng.random() < 0.6
            else builder.plain(value=rng.uniform(0.05, 0.9))
        )
        builder.box(at, (x, 0.012, z), (min(half_x, 0.23) + 0.025, 0.012, half_z + 0.025), frame)
        builder.box(
            at, (x, 0.02, z), (min(half_x, 0.23), 0.01, half_z), builder.look("picture", most=4)
        )


def _ceiling_lamp(builder: Builder, x: float, y: float, height: float, strength: float) -> None:
    rng = builder.rng
    at, drop, radius = Place(x, y), rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.2)
    shade = Material(builder.plain(0.11, 0.2, 0.95).texture, 0.9, (0.9, 0.85, 0.75), glow=1.5)
    builder.rod(at, (0, 0, height - drop), (0, 0, height), 0.008, builder.plain(0.1, 0.1, 0.2))
    builder.ball(at, (0, 0, height - drop), (radius, radius, radius * rng.uniform(0.5, 1.0)), shade)
    red, green, blue = hsv(0.09, rng.uniform(0.05, 0.35), 1.0)
    builder.lamp(
        at.point(0, 0, height - drop - radius - 0.05),
        (strength * red, strength * green, strength * blue),
    )


def _floor_lamp(builder: Builder, at: Place) -> None:
    at = at.moved(0, 0.25)
    metal = builder.plain(0.1, 0.2, builder.rng.uniform(0.1, 0.7))
    builder.cylinder(at, (0, 0, 0.015), 0.16, 0.015, metal)
    builder.cylinder(at, (0, 0, 0.75), 0.014, 0.75, metal)
    shade = Material(builder.plain(0.11, 0.2, 0.9).texture, 0.9, (0.95, 0.85, 0.65), glow=0.9)
    builder.cylinder(at, (0, 0, 1.5), 0.17, 0.13, shade)
    builder.lamp(at.point(0, 0, 1.7), (0.8, 0.65, 0.45))


def _plant(builder: Builder, at: Place) -> None:
    rng = builder.rng
    at = at.moved(0, 0.3)
    builder.cylinder(
        at,
        (0, 0, 0.16),
        0.15,
        0.16,
        builder.look("stone") if rng.random() < 0.5 else builder.plain(),
    )
    builder.cylinder(at, (0, 0, 0.321), 0.13, 0.004, builder.look("soil"))
    leaves = builder.look("leaves")
    for _ in range(int(rng.integers(6, 12))):
        angle, reach, up = rng.uniform(0, 6.28), rng.uniform(0.04, 0.22), rng.uniform(0.5, 1.1)
        tip = (reach * math.cos(angle), reach * math.sin(angle), up)
        builder.rod(at, (0, 0, 0.3), tip, 0.008, leaves)
        builder.ball(at, tip, tuple(rng.uniform(0.04, 0.12, 3)), leaves)


# Small things.


def _things_on(builder: Builder, at: Place, half_x: float, half_y: float, count: int) -> None:
    """Cups, bowls, books, fruit, vases, boxes on a top at z = 0 of the frame."""
    rng = builder.rng
    for x, y in _spread(rng, count, half_x, half_y, apart=0.17):
        place = at.moved(x, y, 0, rng.uniform(0, 6.28))
        colour = builder.plain(
            float(rng.random()) if rng.random() < 0.5 else None,
            rng.uniform(0.05, 0.85),
            rng.uniform(0.25, 0.97),
        )
        kind = int(rng.integers(6))
        if kind == 0:
            builder.cylinder(place, (0, 0, 0.05), 0.04, 0.05, colour)
        elif kind == 1:
            radius = rng.uniform(0.035, 0.08)
            builder.ball(place, (0, 0, radius), (radius, radius, radius), colour)
        elif kind == 2:
            _books_pile(builder, place)
        elif kind == 3:
            tall = rng.uniform(0.07, 0.12)
            builder.ball(place, (0, 0, tall), (0.07, 0.07, tall), colour)
            builder.cylinder(place, (0, 0, 2.1 * tall), 0.025, 0.3 * tall, colour)
        elif kind == 4:
            half = rng.uniform(0.03, 0.09, 3)
            builder.box(
                place, (0, 0, half[2]), half, builder.look("wood") if rng.random() < 0.4 else colour
            )
        else:
            builder.cone(place, (0, 0, 0.05), 0.1, -0.05, colour)
            for angle in (0.0, 2.1, 4.2):
                fruit = builder.plain(rng.uniform(0, 0.3), 0.75, 0.8)
                builder.ball(
                    place,
                    (0.045 * math.cos(angle), 0.045 * math.sin(angle), 0.11),
                    (0.035, 0.035, 0.035),
                    fruit,
                )


def _books_pile(builder: Builder, at: Place) -> None:
    rng = builder.rng
    z = 0.0
    for _ in range(int(rng.integers(2, 6))):
        half = (rng.uniform(0.08, 0.13), rng.uniform(0.06, 0.09), rng.uniform(0.01, 0.022))
        colour = builder.plain(float(rng.random()), rng.uniform(0.1, 0.75), rng.uniform(0.25, 0.9))
        builder.box(at.moved(0, 0, z, rng.normal() * 0.2), (0, 0, half[2]), half, colour)
        z += 2 * half[2]


def _ball(builder: Builder, at: Place) -> None:
    radius = builder.rng.uniform(0.1, 0.28)
    builder.ball(at, (0, 0, radius), (radius, radius, radius), builder.look("cloth", most=4))


def _basket(builder: Builder, at: Place) -> None:
    at = at.moved(0, 0.25)
    builder.cylinder(at, (0, 0, 0.17), 0.19, 0.17, builder.look("boards"))
    builder.ball(at, (0, 0, 0.34), (0.17, 0.17, 0.08), builder.look("cloth"))


def _boxes(builder: Builder, at: Place) -> None:
    rng = builder.rng
    z = 0.0
    for _ in range(int(rng.integers(1, 4))):
        half = rng.uniform((0.14, 0.12, 0.09), (0.27, 0.2, 0.18))
        material = (
            builder.look(str(rng.choice(["boards", "wood", "cloth"])))
            if rng.random() < 0.6
            else builder.plain(0.09, 0.4, 0.65)
        )
        builder.box(at.moved(0, 0.25, z, rng.normal() * 0.2), (0, 0, half[2]), half, material)
        z += 2 * half[2]


#: Half width along the wall, metres.
_WIDTHS: dict[Callable[[Builder, Place], None], float] = {
    _chest: 0.55,
    _sofa: 0.98,
    _desk: 0.65,
    _shelf: 0.45,
    _wardrobe: 0.52,
    _bed: 0.75,
    _plant: 0.3,
    _floor_lamp: 0.25,
}


# Out of doors.


def _terrace(builder: Builder, half_x: float, half_y: float) -> None:
    """Paving along one side or a path across, a finger's width above the ground."""
    rng = builder.rng
    paving = builder.look("paving")
    if rng.random() < 0.5:
        builder.box(
            Place(0, 0),
            (rng.uniform(-1, 1), 0, 0.01),
            (rng.uniform(0.6, 1.1), half_y + 4, 0.02),
            paving,
        )
    else:
        centre = (rng.uniform(-0.5, 0.5) * half_x, rng.uniform(-0.5, 0.5) * half_y, 0.01)
        builder.box(
            Place(0, 0, 0, 0.3 * rng.normal()),
            centre,
            (rng.uniform(1.5, 2.5), rng.uniform(1.5, 2.5), 0.02),
            paving,
        )


def _house(builder: Builder, side: Place, half_length: float) -> None:
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


def _border(builder: Builder, side: Place, half_length: float) -> None:
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


def _tree(builder: Builder, at: Place) -> None:
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


def _bush(builder: Builder, at: Place) -> None:
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


def _pot(builder: Builder, at: Place) -> None:
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


def _rock(builder: Builder, at: Place) -> None:
    for _ in range(int(builder.rng.integers(1, 4))):
        x, y = builder.rng.normal(size=2) * 0.3
        half = builder.rng.uniform((0.15, 0.15, 0.1), (0.5, 0.4, 0.35))
        builder.ball(
            at.moved(0, 0, 0, builder.rng.uniform(0, 3)),
            (x, y, 0.5 * half[2]),
            half,
            builder.look("rubble"),
        )


def _crates(builder: Builder, at: Place) -> None:
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


def _barrel(builder: Builder, at: Place) -> None:
    wood, metal = builder.look("boards").across(), builder.plain(0.08, 0.2, 0.3)
    builder.cylinder(at, (0, 0, 0.42), 0.28, 0.42, wood)
    for level in (0.1, 0.42, 0.74):
        builder.cylinder(at, (0, 0, level), 0.29, 0.03, metal)


def _bench(builder: Builder, at: Place) -> None:
    wood = builder.look("wood")
    for slat in range(4):
        builder.box(at, (0, -0.15 + 0.12 * slat, 0.45), (0.75, 0.045, 0.018), wood)
    for level in (0.6, 0.74, 0.88):
        builder.box(at, (0, -0.25, level), (0.75, 0.015, 0.05), wood)
    for sign in (-1, 1):
        builder.box(at, (sign * 0.65, 0.2, 0.22), (0.04, 0.04, 0.22), wood)
        builder.box(at, (sign * 0.65, -0.22, 0.46), (0.04, 0.04, 0.46), wood)


def _garden_table(builder: Builder, at: Place) -> None:
    _table_group(builder, at.moved(0, 0, 0.03))


def _well(builder: Builder, at: Place) -> None:
    stone, wood = builder.look("brick"), builder.look("wood")
    builder.cylinder(at, (0, 0, 0.4), 0.55, 0.4, stone)
    builder.cylinder(at, (0, 0, 0.82), 0.62, 0.04, builder.look("stone"))
    for sign in (-1, 1):
        builder.box(at, (sign * 0.5, 0, 1.3), (0.05, 0.05, 0.5), wood)
    builder.gable(at, (0, 0, 2.0), (0.8, 0.6, 0.25), builder.look("roof"))


def _toys(builder: Builder, at: Place) -> None:
    for angle in builder.rng.uniform(0, 6.28, 3):
        place = at.moved(0.5 * math.cos(angle), 0.5 * math.sin(angle))
        _one_of(builder, (_ball, _basket, _boxes))(builder, place)
    _ball(builder, at)


# Choosing.


def _one_of(
    builder: Builder, pieces: tuple[Callable[[Builder, Place], None], ...]
) -> Callable[[Builder, Place], None]:
    return pieces[int(builder.rng.integers(len(pieces)))]


def _spread(
    rng: np.random.Generator, count: int, half_x: float, half_y: float, apart: float
) -> list[tuple[float, float]]:
    """Up to ``count`` places in a rectangle, at least ``apart`` metres from each other."""
    found: list[tuple[float, float]] = []
    for _ in range(8 * count):
        x, y = float(rng.uniform(-half_x, half_x)), float(rng.uniform(-half_y, half_y))
        if len(found) < count and all(
            math.hypot(x - other_x, y - other_y) > apart for other_x, other_y in found
        ):
            found.append((x, y))
    return found
