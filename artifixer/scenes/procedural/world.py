"""Assembling a procedural world: materials sampled from a shared pool, solids placed in frames,
sky.

In: a numpy generator and calls such as ``builder.box(at, centre, half, builder.look("wood"))``.
Out: a ``World``. World axes: x and y along the ground, z up, metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, UInt8

from artifixer.scenes.procedural.light import metered_white, with_bounced_light
from artifixer.scenes.procedural.materials import FAMILIES, PHOTO_FRACTION, Colour, Material, hsv
from artifixer.scenes.procedural.raycast import (
    BALL,
    BOX,
    CONE,
    CYLINDER,
    GABLE,
    Light,
    Solids,
    Textures,
)
from artifixer.scenes.procedural.solids import Solid, arrange
from artifixer.scenes.procedural.textures import Texture, bake, bake_photograph

Vector = Sequence[float] | Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class World:
    """A place to photograph."""

    solids: Solids
    textures: Textures
    light: Light
    white: float
    """Radiance that is shown at half of the range."""
    free_low: Float[np.ndarray, " 3"]
    """Lower corner of the box in which cameras may move; they avoid the solids inside it."""
    free_high: Float[np.ndarray, " 3"]
    """Upper corner of that box."""
    interests: Float[np.ndarray, "interests 3"]
    """Points of interest, which cameras look at."""
    indoors: bool
    """Whether walls enclose the free box."""


@dataclass(frozen=True)
class Frame:
    """A frame standing upright in the world: its origin and its turn about the vertical in radians.
    Furniture faces its +y.
    """

    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0

    def moved(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Frame:
        """A frame inside this one."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return Frame(self.x + c * x - s * y, self.y + s * x + c * y, self.z + z, self.yaw + yaw)

    def point(self, x: float, y: float, z: float) -> Float[np.ndarray, " 3"]:
        moved = self.moved(x, y, z)
        return np.array([moved.x, moved.y, moved.z])


@dataclass(frozen=True)
class Sky:
    """Sun direction (towards it, unit), sun colour, shadow softness, and the radiance of horizon,
    zenith and ground.
    """

    sun_direction: Float[np.ndarray, " 3"]
    sun_colour: Float[np.ndarray, " 3"]
    sun_spread: float
    horizon: Float[np.ndarray, " 3"]
    zenith: Float[np.ndarray, " 3"]
    ground: Float[np.ndarray, " 3"]


@dataclass
class Builder:
    """Collects solids, materials and lamps. ``photos`` are pictures that may serve as textures."""

    rng: np.random.Generator
    texture_size: int
    photos: Sequence[UInt8[np.ndarray, "height width 3"]] = ()
    hue: float = 0.0
    interests: list[Float[np.ndarray, " 3"]] = field(default_factory=list)
    lamps: list[list[float]] = field(default_factory=list)
    _solids: list[Solid] = field(default_factory=list)
    _baked: list[UInt8[np.ndarray, "texels 3"]] = field(default_factory=list)
    _pool: dict[str, list[Material]] = field(default_factory=dict)

    # Materials.

    def look(self, family: str, most: int = 2) -> Material:
        """A material of a family (a key of ``FAMILIES``); a world has at most
        ``most`` different ones.
        """
        pool = self._pool.setdefault(family, [])
        if len(pool) >= most or (pool and self.rng.random() < 0.5):
            return pool[int(self.rng.integers(len(pool)))]
        if self.photos and self.rng.random() < PHOTO_FRACTION.get(family, 0.0):
            material = self._photograph(fitted=family in ("picture", "rug"))
        else:
            texture, metres = FAMILIES[family](self)
            material = Material(self._bake(texture), metres, fitted=family in ("picture", "rug"))
        pool.append(material)
        return material

    def plain(
        self, hue: float | None = None, saturation: float = 0.4, value: float = 0.6
    ) -> Material:
        """A painted or plastic surface of one colour, by default near the world's own hue."""
        hue = self.near_hue() if hue is None else hue
        red, green, blue = hsv(hue, saturation, value)
        return self.look("paint", most=1).tinted(
            (red * red * 1.2, green * green * 1.2, blue * blue * 1.2)
        )

    def near_hue(self) -> float:
        """A hue that matches the world's: most surfaces share two or three hues."""
        return (
            self.hue
            + float(self.rng.choice([0.0, 0.0, 0.5, 0.08, -0.08, 0.33]))
            + 0.03 * float(self.rng.normal())
        ) % 1.0

    def _bake(self, texture: Texture) -> int:
        self._baked.append(bake(texture, self.texture_size))
        return len(self._baked) - 1

    def _photograph(self, fitted: bool) -> Material:
        photo = self.photos[int(self.rng.integers(len(self.photos)))]
        self._baked.append(bake_photograph(photo, self.texture_size))
        # The mirrored tile shows the picture twice each way, so it is twice as large.
        metres = 2.0 if fitted else float(self.rng.uniform(1.2, 3.5))
        return Material(len(self._baked) - 1, metres, fitted=fitted)

    def texture(self, kind: str, colours: Sequence[Colour], cells: int) -> Texture:
        """A texture of this world with a seed of its own."""
        return Texture(kind, np.array(colours, float), cells, int(self.rng.integers(1 << 20)))

    # Solids. Centres and half sizes are given in the frame ``at``, metres.

    def box(self, at: Frame, centre: Vector, half: Vector, material: Material) -> None:
        """A box along the frame's axes."""
        self._add(BOX, at, np.diag(half), centre, half, material)

    def tilted_box(
        self, at: Frame, centre: Vector, half: Vector, material: Material, about_x: float
    ) -> None:
        """A box turned about the frame's x axis: positive lifts its front."""
        c, s = math.cos(about_x), math.sin(about_x)
        turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        self._add(BOX, at, turn @ np.diag(half), centre, half, material)

    def ball(self, at: Frame, centre: Vector, half: Vector, material: Material) -> None:
        """An ellipsoid with these half axes."""
        self._add(BALL, at, np.diag(half), centre, half, material)

    def cylinder(
        self, at: Frame, centre: Vector, radius: float, half_height: float, material: Material
    ) -> None:
        """An upright cylinder."""
        half = (radius, radius, half_height)
        self._add(CYLINDER, at, np.diag(half), centre, half, material)

    def rod(self, at: Frame, start: Vector, end: Vector, radius: float, material: Material) -> None:
        """A cylinder between two points."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        length = float(np.linalg.norm(end - start))
        along = (end - start) / length
        side = np.cross(along, [0.0, 0.0, 1.0] if abs(along[2]) < 0.9 else [1.0, 0.0, 0.0])
        side /= np.linalg.norm(side)
        half = (radius, radius, length / 2)
        axes = np.stack([side, np.cross(along, side), along], axis=1) * np.array(half)
        self._add(CYLINDER, at, axes, (start + end) / 2, half, material)

    def cone(
        self, at: Frame, centre: Vector, radius: float, half_height: float, material: Material
    ) -> None:
        """An upright cone; a negative half height puts its tip at the bottom."""
        half = (radius, radius, abs(half_height))
        self._add(CONE, at, np.diag((radius, radius, half_height)), centre, half, material)

    def gable(self, at: Frame, centre: Vector, half: Vector, material: Material) -> None:
        """A roof with its ridge along the frame's y axis."""
        self._add(GABLE, at, np.diag(half), centre, half, material)

    def lamp(self, position: Float[np.ndarray, " 3"], colour: Colour, radius: float = 0.06) -> None:
        """A point of light; colour is the radiance of a white surface 1 m away."""
        self.lamps.append([*position, *colour, radius])

    def _add(
        self,
        kind: int,
        at: Frame,
        axes: Float[np.ndarray, "3 3"],
        centre: Vector,
        half: Vector,
        material: Material,
    ) -> None:
        c, s = math.cos(at.yaw), math.sin(at.yaw)
        turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        position = turn @ np.asarray(centre, float) + [at.x, at.y, at.z]
        half = np.asarray(half, float)
        offset = half * [1, 1, -1] if material.fitted else self.rng.uniform(0, material.metres, 3)
        self._solids.append(
            Solid(
                kind,
                np.concatenate([turn @ axes, position[:, None]], axis=1),
                half,
                material,
                offset,
            )
        )

    def wall_piece(self, at: Frame, centre: Vector, half: Vector, material: Material) -> None:
        """A box whose texture goes on from its neighbours in the same frame."""
        self.box(at, centre, half, material)
        self._solids[-1] = replace(self._solids[-1], offset=np.asarray(centre, float))

    # The result.

    def finish(self, sky: Sky, free_low: Vector, free_high: Vector, indoors: bool) -> World:
        """The world, its indirect light baked inside the free box and around it."""
        solids = arrange(self._solids)
        clouds = (
            self._bake(self.texture("clouds", [(0, 0, 0), (1, 1, 1), (0, 0, 0)], 3))
            if self.rng.random() < 0.7
            else -1
        )
        textures = Textures(np.stack(self._baked), self.texture_size)
        low, high = np.asarray(free_low, float), np.asarray(free_high, float)
        light = with_bounced_light(solids, textures, self._light(sky, clouds), low, high, indoors)
        white = metered_white(solids, textures, light, low, high)
        interests = np.array(self.interests).reshape(-1, 3)
        return World(solids, textures, light, white, low, high, interests, indoors)

    def _light(self, sky: Sky, clouds: int) -> Light:
        lamps = np.array(self.lamps, float).reshape(-1, 7)
        empty = np.zeros((2, 2, 2, 6, 3), np.float32)
        colours = (sky.horizon, sky.zenith, sky.ground)
        return Light(
            sky.sun_direction,
            sky.sun_colour,
            sky.sun_spread,
            lamps,
            *colours,
            clouds,
            np.zeros(3),
            1.0,
            empty,
            np.zeros((2, 2, 2), np.float32),
        )


def open_sky(rng: np.random.Generator) -> Sky:
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


def window_sky(rng: np.random.Generator) -> Sky:
    """The sky behind windows: brighter than the room, with a sun low enough to reach its floor."""
    sky = open_sky(rng)
    return Sky(
        sky.sun_direction,
        sky.sun_colour * 2.0,
        sky.sun_spread,
        sky.horizon * 2.2,
        sky.zenith * 2.2,
        sky.ground * 2.0,
    )
