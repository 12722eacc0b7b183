"""Rooms: walls, windows, furniture along the walls and in the middle, lamps.

In: a ``Builder``. Out: a finished ``World`` with light, exposure, free space and points of
interest.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from artifixer.scenes.procedural.furniture import (
    SLAB,
    add_ball,
    add_basket,
    add_bed,
    add_books_pile,
    add_boxes,
    add_chest,
    add_desk,
    add_floor_lamp,
    add_low_table,
    add_plant,
    add_shelf,
    add_sofa,
    add_stool,
    add_table_group,
    add_wardrobe,
    one_of,
    spread,
)
from artifixer.scenes.procedural.materials import Material, hsv
from artifixer.scenes.procedural.world import Builder, Frame, World, window_sky


def furnish_room(builder: Builder) -> World:
    """A room with one or two windows, furniture along the walls, a group in the middle, and
    clutter.
    """
    rng = builder.rng
    builder.hue = float(rng.random())
    half_x, half_y, height = rng.uniform(1.9, 3.3), rng.uniform(1.9, 3.3), rng.uniform(2.4, 3.0)
    at = Frame(0, 0)
    builder.box(at, (0, 0, -SLAB), (half_x + 0.3, half_y + 0.3, SLAB), builder.look("floor"))
    ceiling = builder.look("paint", most=1).tinted((0.95, 0.94, 0.92))
    builder.box(at, (0, 0, height + SLAB), (half_x + 0.3, half_y + 0.3, SLAB), ceiling)
    walls = [
        (Frame(0, -half_y, 0, 0.0), half_x),
        (Frame(half_x, 0, 0, math.pi / 2), half_y),
        (Frame(0, half_y, 0, math.pi), half_x),
        (Frame(-half_x, 0, 0, -math.pi / 2), half_y),
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
    return builder.finish(window_sky(rng), low, high, indoors=True)


def _wall(
    builder: Builder,
    wall: Frame,
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
            wall, (0, -SLAB, height / 2), (half_length + 2 * SLAB, SLAB, height / 2), material
        )
        return
    half_width, sill, top = (
        rng.uniform(0.5, min(1.1, half_length - 0.5)),
        rng.uniform(0.5, 1.0),
        height - rng.uniform(0.25, 0.5),
    )
    side = (half_length + 2 * SLAB - half_width) / 2
    for sign in (-1, 1):
        builder.wall_piece(
            wall,
            (sign * (half_width + side), -SLAB, height / 2),
            (side, SLAB, height / 2),
            material,
        )
        builder.box(
            wall,
            (sign * half_width, -SLAB, (sill + top) / 2),
            (0.03, SLAB + 0.01, (top - sill) / 2),
            trim,
        )
    builder.wall_piece(wall, (0, -SLAB, sill / 2), (half_width, SLAB, sill / 2), material)
    builder.wall_piece(
        wall, (0, -SLAB, (top + height) / 2), (half_width, SLAB, (height - top) / 2), material
    )
    builder.box(wall, (0, -0.03, sill), (half_width + 0.05, 0.12, 0.02), trim)
    builder.box(wall, (0, -SLAB, top), (half_width, SLAB, 0.03), trim)
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
    builder: Builder, wall: Frame, half_length: float, height: float, window: bool
) -> None:
    """Furniture side by side with its back to the wall, pictures above the low pieces."""
    rng = builder.rng
    position = -half_length + rng.uniform(0.3, 0.7)
    while position < half_length - 0.6:
        low = (add_chest, add_sofa, add_desk, add_chest, add_plant, add_boxes)
        piece = one_of(
            builder,
            low if window else (*low, add_shelf, add_shelf, add_wardrobe, add_floor_lamp, add_bed),
        )
        half_width = _WIDTHS.get(piece, 0.35)
        middle = position + half_width
        if middle + half_width > half_length - 0.25:
            break
        piece(builder, wall.moved(middle, 0.02))
        if piece in (add_chest, add_sofa, add_desk, add_bed, add_boxes) and not window:
            _pictures(builder, wall.moved(middle, 0.0), min(height - 0.3, 2.3))
        position = middle + half_width + rng.choice([rng.uniform(0.05, 0.3), rng.uniform(0.4, 1.3)])


def _middle_of_room(builder: Builder, half_x: float, half_y: float) -> None:
    rng = builder.rng
    centre = Frame(
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
        add_table_group(builder, centre)
    else:
        one_of(builder, (add_stool, add_low_table, add_boxes))(builder, centre)
    builder.interests.append(centre.point(0, 0, rng.uniform(0.5, 0.8)))
    for x, y in spread(rng, int(rng.integers(2, 6)), half_x - 0.9, half_y - 0.9, apart=0.5):
        if math.hypot(x - centre.x, y - centre.y) > 1.3:
            one_of(builder, (add_ball, add_boxes, add_basket, add_stool, add_books_pile))(
                builder, Frame(x, y, 0, rng.uniform(0, 6.28))
            )


def _pictures(builder: Builder, at: Frame, top: float) -> None:
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
    at, drop, radius = Frame(x, y), rng.uniform(0.15, 0.6), rng.uniform(0.1, 0.2)
    shade = Material(builder.plain(0.11, 0.2, 0.95).texture, 0.9, (0.9, 0.85, 0.75), glow=1.5)
    builder.rod(at, (0, 0, height - drop), (0, 0, height), 0.008, builder.plain(0.1, 0.1, 0.2))
    builder.ball(at, (0, 0, height - drop), (radius, radius, radius * rng.uniform(0.5, 1.0)), shade)
    red, green, blue = hsv(0.09, rng.uniform(0.05, 0.35), 1.0)
    builder.lamp(
        at.point(0, 0, height - drop - radius - 0.05),
        (strength * red, strength * green, strength * blue),
    )


#: Half width along the wall, metres.
_WIDTHS: dict[Callable[[Builder, Frame], None], float] = {
    add_chest: 0.55,
    add_sofa: 0.98,
    add_desk: 0.65,
    add_shelf: 0.45,
    add_wardrobe: 0.52,
    add_bed: 0.75,
    add_plant: 0.3,
    add_floor_lamp: 0.25,
}
