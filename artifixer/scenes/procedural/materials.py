"""Materials of procedural worlds: families of textures, their colours and the size of one tile.

In: the ``Palette`` of a world (its generator and hue). Out: a ``Texture`` and the size of its tile
in metres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np

from artifixer.scenes.procedural.textures import Texture

Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """A texture as it lies on a solid."""

    texture: int
    """Index into ``Textures``."""
    metres: float
    """Size of one tile."""
    tint: Colour = (1.0, 1.0, 1.0)
    """Linear factor."""
    turned: bool = False
    """Rotated by 90 degrees."""
    glow: float = 0.0
    """Emitted radiance."""
    fitted: bool = False
    """One tile covers the whole of each face, instead of ``metres``."""

    def tinted(self, colour: Colour) -> Material:
        return replace(self, tint=colour)

    def across(self) -> Material:
        """The same material with its grain turned."""
        return replace(self, turned=not self.turned)


@runtime_checkable
class Palette(Protocol):
    """What families of materials draw from: the ``Builder`` of a world."""

    rng: np.random.Generator

    def near_hue(self) -> float:
        """A hue that matches the world's, in [0,1)."""

    def texture(self, kind: str, colours: Sequence[Colour], cells: int) -> Texture:
        """A texture with a seed of its own."""


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Display colour from hue, saturation and value in [0,1]; hue wraps around."""
    position = (hue % 1.0) * 6
    red = min(max(abs(position - 3) - 1, 0), 1)
    green = min(max(2 - abs(position - 2), 0), 1)
    blue = min(max(2 - abs(position - 4), 0), 1)
    return tuple(value * (1 - saturation * (1 - channel)) for channel in (red, green, blue))  # type: ignore[return-value]


def _wood_colours(builder: Palette) -> list[Colour]:
    rng = builder.rng
    hue, saturation, value = rng.uniform(0.045, 0.1), rng.uniform(0.3, 0.65), rng.uniform(0.3, 0.8)
    return [
        hsv(hue, saturation, value),
        hsv(hue + 0.01, saturation, 0.68 * value),
        hsv(hue, saturation, 0.3 * value),
    ]


def _soft_colours(
    builder: Palette, low: float = 0.35, high: float = 0.95, saturation: float = 0.45
) -> list[Colour]:
    """Two related colours and one for details."""
    rng = builder.rng
    hue, strength, value = (
        builder.near_hue(),
        saturation * rng.beta(1.5, 1.8),
        rng.uniform(low, high),
    )
    second = np.clip(value * rng.choice([0.65, 0.8, 1.25]), 0, 1)
    return [
        hsv(hue, strength, value),
        hsv(
            hue + 0.04 * rng.normal(),
            np.clip(strength * rng.uniform(0.6, 1.6), 0, 1),
            float(second),
        ),
        hsv(builder.near_hue(), min(1.3 * strength + 0.1, 1.0), rng.uniform(0.15, 0.9)),
    ]


def _green_colours(builder: Palette) -> list[Colour]:
    rng = builder.rng
    hue, value = rng.uniform(0.19, 0.33), rng.uniform(0.38, 0.62)
    return [
        hsv(hue, 0.6, value),
        hsv(hue - 0.05, 0.55, value * 1.25),
        hsv(hue + 0.03, 0.6, value * 0.3),
    ]


def _stone_colours(builder: Palette) -> list[Colour]:
    rng = builder.rng
    hue, saturation, value = (
        rng.uniform(0.04, 0.62),
        rng.uniform(0.02, 0.2),
        rng.uniform(0.45, 0.85),
    )
    return [
        hsv(hue, saturation, value),
        hsv(hue + 0.03, saturation, value * 0.72),
        hsv(hue, saturation * 0.7, value * 0.4),
    ]


def _brick_colours(builder: Palette) -> list[Colour]:
    rng = builder.rng
    hue, saturation, value = rng.uniform(0.0, 0.08), rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.75)
    return [
        hsv(hue, saturation, value),
        hsv(hue + 0.015, saturation, 0.7 * value),
        hsv(0.1, 0.08, rng.uniform(0.5, 0.8)),
    ]


def _floor(builder: Palette) -> tuple[Texture, float]:
    kind = str(
        builder.rng.choice(
            ["planks", "planks", "tiles", "checker", "fabric", "terrazzo", "concrete", "marble"]
        )
    )
    if kind == "planks":
        return builder.texture(kind, _wood_colours(builder), 6), 1.5
    if kind in ("tiles", "checker"):
        return builder.texture(kind, _soft_colours(builder, 0.5, 0.95, 0.3), 4), float(
            builder.rng.uniform(1.2, 2.2)
        )
    return builder.texture(
        kind, _stone_colours(builder) if kind != "fabric" else _soft_colours(builder, 0.3, 0.7), 5
    ), 2.2


def _wall(builder: Palette) -> tuple[Texture, float]:
    rng = builder.rng
    kind = str(
        rng.choice(
            ["plaster", "plaster", "ornament", "stripes", "bricks", "concrete", "planks", "tiles"]
        )
    )
    if kind == "bricks":
        return builder.texture(kind, _brick_colours(builder), 4), 1.1
    if kind == "planks":
        return builder.texture(kind, _wood_colours(builder), 6), 1.4
    if kind == "concrete":
        return builder.texture(kind, _stone_colours(builder), 3), 2.6
    cells = int(rng.integers(5, 9))
    return builder.texture(kind, _soft_colours(builder, 0.65, 0.97, 0.35), cells), float(
        rng.uniform(1.4, 2.4)
    )


def _facade(builder: Palette) -> tuple[Texture, float]:
    kind = str(builder.rng.choice(["bricks", "bricks", "plaster", "planks", "pebbles"]))
    if kind == "bricks":
        return builder.texture(kind, _brick_colours(builder), 5), 1.3
    if kind == "planks":
        return builder.texture(kind, _wood_colours(builder), 8), 1.8
    if kind == "pebbles":
        return builder.texture(kind, _stone_colours(builder), 2), 2.0
    return builder.texture(kind, _soft_colours(builder, 0.7, 0.97, 0.35), 4), 2.4


def _cloth(builder: Palette) -> tuple[Texture, float]:
    kind = str(builder.rng.choice(["fabric", "fabric", "stripes", "ornament"]))
    return builder.texture(
        kind, _soft_colours(builder, 0.25, 0.9, 0.7), int(builder.rng.integers(5, 10))
    ), 0.9


def _paving(builder: Palette) -> tuple[Texture, float]:
    kind = str(builder.rng.choice(["tiles", "pebbles", "bricks", "concrete"]))
    colours = _brick_colours(builder) if kind == "bricks" else _stone_colours(builder)
    return builder.texture(kind, colours, 4), 2.0


def _picture(builder: Palette) -> tuple[Texture, float]:
    rng = builder.rng
    kind = str(rng.choice(["painting", "painting", "painting", "clouds", "marble", "ornament"]))
    first, second = _soft_colours(builder, 0.4, 1.0, 0.9), _soft_colours(builder, 0.2, 0.9, 1.0)
    return builder.texture(kind, [first[0], second[1], second[2]], int(rng.integers(2, 6))), 1.0


FAMILIES: dict[str, Callable[[Palette], tuple[Texture, float]]] = {
    "floor": _floor,
    "wall": _wall,
    "facade": _facade,
    "cloth": _cloth,
    "paving": _paving,
    "picture": _picture,
    "wood": lambda b: (b.texture("grain", _wood_colours(b), int(b.rng.integers(4, 9))), 0.8),
    "boards": lambda b: (b.texture("planks", _wood_colours(b), 5), 0.9),
    "paint": lambda b: (
        b.texture("plaster", [(0.93, 0.93, 0.93), (0.84, 0.84, 0.84), (0.5, 0.5, 0.5)], 4),
        0.9,
    ),
    "stone": lambda b: (
        b.texture(str(b.rng.choice(["marble", "concrete", "terrazzo"])), _stone_colours(b), 3),
        1.6,
    ),
    "rubble": lambda b: (b.texture("pebbles", _stone_colours(b), 2), 1.6),
    "brick": lambda b: (b.texture("bricks", _brick_colours(b), 4), 1.1),
    "grass": lambda b: (b.texture("grass", _green_colours(b), 3), 2.4),
    "leaves": lambda b: (b.texture("leaves", _green_colours(b), 3), 1.3),
    "gravel": lambda b: (b.texture("pebbles", _stone_colours(b), 6), 1.4),
    "soil": lambda b: (b.texture("clouds", _wood_colours(b), 9), 1.5),
    "bark": lambda b: (b.texture("grain", _wood_colours(b), 9), 0.6),
    "roof": lambda b: (b.texture("shingles", _brick_colours(b), 4), 1.6),
    "rug": lambda b: (
        b.texture("rug", _soft_colours(b, 0.25, 0.9, 0.9), int(b.rng.integers(3, 8))),
        1.0,
    ),
}

#: Probability, by family, that a photograph replaces a painted texture where photographs are given.
PHOTO_FRACTION = {
    "floor": 0.3,
    "wall": 0.35,
    "facade": 0.3,
    "cloth": 0.5,
    "picture": 0.8,
    "rug": 0.6,
    "stone": 0.3,
    "paving": 0.4,
    "grass": 0.3,
}
