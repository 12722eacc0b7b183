"""Furniture and small objects, used in rooms and yards.

In: a ``Builder`` and a ``Frame``. Furniture stands with its back at y = 0 of its frame and faces
+y.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from artifixer.scenes.procedural.materials import Material
from artifixer.scenes.procedural.world import Builder, Frame

#: Walls and slabs, half thickness in metres.
SLAB = 0.12


def add_table_group(builder: Builder, at: Frame) -> None:
    rng = builder.rng
    if rng.random() < 0.3:
        add_low_table(builder, at)
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


def _chair(builder: Builder, at: Frame, wood: Material, cushion: Material) -> None:
    builder.box(at, (0, 0, 0.45), (0.21, 0.21, 0.015), wood)
    builder.box(at, (0, 0, 0.475), (0.19, 0.19, 0.02), cushion)
    _legs(builder, at, 0.18, 0.18, 0.44, 0.018, wood)
    for sign in (-1, 1):
        builder.box(at, (sign * 0.18, -0.19, 0.68), (0.018, 0.018, 0.24), wood)
    for level in (0.66, 0.76, 0.87):
        builder.box(at, (0, -0.19, level), (0.18, 0.012, 0.03), wood)


def add_low_table(builder: Builder, at: Frame) -> None:
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
    builder: Builder, at: Frame, x: float, y: float, height: float, half: float, material: Material
) -> None:
    for sign_x in (-1, 1):
        for sign_y in (-1, 1):
            builder.box(
                at, (sign_x * x, sign_y * y, height / 2), (half, half, height / 2), material
            )


def add_stool(builder: Builder, at: Frame) -> None:
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


def add_chest(builder: Builder, at: Frame) -> None:
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


def add_shelf(builder: Builder, at: Frame) -> None:
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


def _row_of_books(builder: Builder, at: Frame, half_x: float, most: float) -> None:
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


def add_wardrobe(builder: Builder, at: Frame) -> None:
    top = builder.rng.uniform(1.7, 2.1)
    wood = builder.look("boards") if builder.rng.random() < 0.5 else builder.look("wood")
    builder.box(at, (0, 0.28, top / 2), (0.5, 0.28, top / 2), wood)
    for sign in (-1, 1):
        builder.box(at, (sign * 0.25, 0.57, top / 2), (0.235, 0.012, top / 2 - 0.06), wood.across())
        builder.cylinder(at, (sign * 0.04, 0.6, top / 2), 0.012, 0.08, builder.plain(0.1, 0.2, 0.6))


def add_sofa(builder: Builder, at: Frame) -> None:
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


def add_bed(builder: Builder, at: Frame) -> None:
    wood = builder.look("wood")
    builder.box(at, (0, 0.98, 0.2), (0.7, 0.98, 0.12), wood)
    builder.box(at, (0, 0.03, 0.5), (0.72, 0.03, 0.5), wood)
    builder.box(at, (0, 1.0, 0.4), (0.67, 0.94, 0.1), builder.plain(0.12, 0.05, 0.95))
    builder.box(at, (0, 1.3, 0.43), (0.7, 0.67, 0.1), builder.look("cloth"))
    for sign in (-1, 1):
        builder.ball(at, (sign * 0.33, 0.3, 0.55), (0.28, 0.18, 0.1), builder.look("cloth", most=4))
    builder.interests.append(at.point(0, 1.0, 0.5))


def add_desk(builder: Builder, at: Frame) -> None:
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


def add_floor_lamp(builder: Builder, at: Frame) -> None:
    at = at.moved(0, 0.25)
    metal = builder.plain(0.1, 0.2, builder.rng.uniform(0.1, 0.7))
    builder.cylinder(at, (0, 0, 0.015), 0.16, 0.015, metal)
    builder.cylinder(at, (0, 0, 0.75), 0.014, 0.75, metal)
    shade = Material(builder.plain(0.11, 0.2, 0.9).texture, 0.9, (0.95, 0.85, 0.65), glow=0.9)
    builder.cylinder(at, (0, 0, 1.5), 0.17, 0.13, shade)
    builder.lamp(at.point(0, 0, 1.7), (0.8, 0.65, 0.45))


def add_plant(builder: Builder, at: Frame) -> None:
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


def _things_on(builder: Builder, at: Frame, half_x: float, half_y: float, count: int) -> None:
    """Cups, bowls, books, fruit, vases, boxes on a top at z = 0 of the frame."""
    rng = builder.rng
    for x, y in spread(rng, count, half_x, half_y, apart=0.17):
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
            add_books_pile(builder, place)
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


def add_books_pile(builder: Builder, at: Frame) -> None:
    rng = builder.rng
    z = 0.0
    for _ in range(int(rng.integers(2, 6))):
        half = (rng.uniform(0.08, 0.13), rng.uniform(0.06, 0.09), rng.uniform(0.01, 0.022))
        colour = builder.plain(float(rng.random()), rng.uniform(0.1, 0.75), rng.uniform(0.25, 0.9))
        builder.box(at.moved(0, 0, z, rng.normal() * 0.2), (0, 0, half[2]), half, colour)
        z += 2 * half[2]


def add_ball(builder: Builder, at: Frame) -> None:
    radius = builder.rng.uniform(0.1, 0.28)
    builder.ball(at, (0, 0, radius), (radius, radius, radius), builder.look("cloth", most=4))


def add_basket(builder: Builder, at: Frame) -> None:
    at = at.moved(0, 0.25)
    builder.cylinder(at, (0, 0, 0.17), 0.19, 0.17, builder.look("boards"))
    builder.ball(at, (0, 0, 0.34), (0.17, 0.17, 0.08), builder.look("cloth"))


def add_boxes(builder: Builder, at: Frame) -> None:
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


def one_of(
    builder: Builder, pieces: tuple[Callable[[Builder, Frame], None], ...]
) -> Callable[[Builder, Frame], None]:
    return pieces[int(builder.rng.integers(len(pieces)))]


def spread(
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
