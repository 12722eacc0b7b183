"""Putting a procedural world together: materials drawn from a shared pool, solids placed in frames,
the tree over them, exposure.

In: a numpy generator and calls such as ``builder.box(at, centre, half, builder.look("wood"))``.
Out: a ``World``. World axes: x and y along the ground, z up, metres.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, UInt8

from artifixer.scenes.procedural_raycast import (
    BALL,
    BOX,
    CONE,
    CYLINDER,
    GABLE,
    Light,
    Solids,
    Textures,
    bake_grid,
    nearest_hits,
    radiance_image,
)
from artifixer.scenes.procedural_textures import Texture, bake, bake_photograph

Vector = Sequence[float] | Float[np.ndarray, "3"]
Colour = tuple[float, float, float]

#: Rays by which a probe of the light grid looks around, and how often light is passed on between
#: surfaces.
PROBE_RAYS = 40
BOUNCES = 2
#: Radiance that is shown at half of the range, relative to the logarithmic mean of what a camera in
#: the middle sees.
METERING = 1.9


@dataclass(frozen=True)
class World:
    """A place to photograph.

    solids, textures, light: what the ray caster reads.
    white: radiance that is shown at half of the range.
    free_low, free_high: corners of the box in which cameras may move, ``[3]``; solids inside it are
    still to be kept clear of. interests: points worth looking at, ``[interests 3]``.
    indoors: whether walls enclose the free box.
    """

    solids: Solids
    textures: Textures
    light: Light
    white: float
    free_low: Float[np.ndarray, 3]
    free_high: Float[np.ndarray, 3]
    interests: Float[np.ndarray, "interests 3"]
    indoors: bool


@dataclass(frozen=True)
class Material:
    """texture: index. metres: size of one tile. tint: linear factor. turned: rotated by 90 degrees.
    glow: emitted radiance. fitted: one tile covers the whole of each face instead of ``metres``.
    """

    texture: int
    metres: float
    tint: Colour = (1.0, 1.0, 1.0)
    turned: bool = False
    glow: float = 0.0
    fitted: bool = False

    def tinted(self, colour: Colour) -> Material:
        return replace(self, tint=colour)

    def across(self) -> Material:
        """The same material with its grain turned."""
        return replace(self, turned=not self.turned)


@dataclass(frozen=True)
class Place:
    """A frame standing upright in the world: its origin and its turn about the vertical in radians.
    Furniture faces its +y.
    """

    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0

    def moved(self, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Place:
        """A frame inside this one."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return Place(self.x + c * x - s * y, self.y + s * x + c * y, self.z + z, self.yaw + yaw)

    def point(self, x: float, y: float, z: float) -> Float[np.ndarray, 3]:
        moved = self.moved(x, y, z)
        return np.array([moved.x, moved.y, moved.z])


@dataclass(frozen=True)
class Sky:
    """Sun direction (towards it, unit), sun colour, shadow softness, and the radiance of horizon,
    zenith and ground.
    """

    sun_direction: Float[np.ndarray, 3]
    sun_colour: Float[np.ndarray, 3]
    sun_spread: float
    horizon: Float[np.ndarray, 3]
    zenith: Float[np.ndarray, 3]
    ground: Float[np.ndarray, 3]


@dataclass(frozen=True)
class _Solid:
    kind: int
    to_world: Float[np.ndarray, "3 4"]
    half: Float[np.ndarray, 3]
    material: Material
    offset: Float[np.ndarray, 3]


@dataclass
class Builder:
    """Collects solids, materials and lamps. ``photos`` are pictures that may serve as textures."""

    rng: np.random.Generator
    texture_size: int
    photos: Sequence[UInt8[np.ndarray, "height width 3"]] = ()
    hue: float = 0.0
    interests: list[Float[np.ndarray, 3]] = field(default_factory=list)
    lamps: list[list[float]] = field(default_factory=list)
    _solids: list[_Solid] = field(default_factory=list)
    _baked: list[UInt8[np.ndarray, "texels 3"]] = field(default_factory=list)
    _pool: dict[str, list[Material]] = field(default_factory=dict)

    # Materials.

    def look(self, family: str, most: int = 2) -> Material:
        """A material of a family (a key of ``FAMILIES``); at most so many different ones exist in a
        world.
        """
        pool = self._pool.setdefault(family, [])
        if len(pool) >= most or (pool and self.rng.random() < 0.5):
            return pool[int(self.rng.integers(len(pool)))]
        if self.photos and self.rng.random() < PHOTO_SHARE.get(family, 0.0):
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
        """A hue that goes with the world's: most of a place shares two or three."""
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
        return Texture(kind, np.array(colours), cells, int(self.rng.integers(1 << 20)))

    # Solids. Centres and half sizes are given in the frame ``at``, metres.

    def box(self, at: Place, centre: Vector, half: Vector, material: Material) -> None:
        """A box along the frame's axes."""
        self._add(BOX, at, np.diag(half), centre, half, material)

    def tilted_box(
        self, at: Place, centre: Vector, half: Vector, material: Material, about_x: float
    ) -> None:
        """A box turned about the frame's x axis: positive lifts its front."""
        c, s = math.cos(about_x), math.sin(about_x)
        turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
        self._add(BOX, at, turn @ np.diag(half), centre, half, material)

    def ball(self, at: Place, centre: Vector, half: Vector, material: Material) -> None:
        """An ellipsoid with these half axes."""
        self._add(BALL, at, np.diag(half), centre, half, material)

    def cylinder(
        self, at: Place, centre: Vector, radius: float, half_height: float, material: Material
    ) -> None:
        """An upright cylinder."""
        half = (radius, radius, half_height)
        self._add(CYLINDER, at, np.diag(half), centre, half, material)

    def rod(self, at: Place, start: Vector, end: Vector, radius: float, material: Material) -> None:
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
        self, at: Place, centre: Vector, radius: float, half_height: float, material: Material
    ) -> None:
        """An upright cone; a negative half height puts its tip at the bottom."""
        half = (radius, radius, abs(half_height))
        self._add(CONE, at, np.diag((radius, radius, half_height)), centre, half, material)

    def gable(self, at: Place, centre: Vector, half: Vector, material: Material) -> None:
        """A roof with its ridge along the frame's y axis."""
        self._add(GABLE, at, np.diag(half), centre, half, material)

    def lamp(self, position: Float[np.ndarray, 3], colour: Colour, radius: float = 0.06) -> None:
        """A point of light; colour is the radiance of a white surface 1 m away."""
        self.lamps.append([*position, *colour, radius])

    def _add(
        self,
        kind: int,
        at: Place,
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
            _Solid(
                kind,
                np.concatenate([turn @ axes, position[:, None]], axis=1),
                half,
                material,
                offset,
            )
        )

    def wall_piece(self, at: Place, centre: Vector, half: Vector, material: Material) -> None:
        """A box whose texture goes on from its neighbours in the same frame."""
        self.box(at, centre, half, material)
        self._solids[-1] = replace(self._solids[-1], offset=np.asarray(centre, float))

    # The result.

    def finish(self, sky: Sky, free_low: Vector, free_high: Vector, indoors: bool) -> World:
        """The world, its indirect light baked inside the free box and around it."""
        solids = _arrange(self._solids)
        clouds = (
            self._bake(self.texture("clouds", [(0, 0, 0), (1, 1, 1), (0, 0, 0)], 3))
            if self.rng.random() < 0.7
            else -1
        )
        textures = Textures(np.stack(self._baked), self.texture_size)
        low, high = np.asarray(free_low, float), np.asarray(free_high, float)
        light = _with_grid(solids, textures, self._light(sky, clouds), low, high, indoors)
        world = World(
            solids,
            textures,
            light,
            1.0,
            low,
            high,
            np.array(self.interests).reshape(-1, 3),
            indoors,
        )
        return replace(world, white=_metered(world))

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


def clearance(
    solids: Solids, points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, " points"]:
    """A lower bound of the distance from each point to the nearest solid, 0 inside. Exact for
    boxes, upright cylinders and balls.
    """
    local = (
        np.einsum("sij,pj->psi", solids.to_local[:, :, :3], points) + solids.to_local[None, :, :, 3]
    )
    half = solids.half[None]
    beyond = np.maximum(np.abs(local) - 1, 0) * half
    to_box = np.linalg.norm(beyond, axis=2)
    radial = np.maximum(np.linalg.norm(local[..., :2], axis=2) - 1, 0) * half[..., :2].min(axis=2)
    to_cylinder = np.hypot(radial, beyond[..., 2])
    to_ball = np.maximum(np.linalg.norm(local, axis=2) - 1, 0) * half.min(axis=2)
    kind = solids.kind[None]
    distance = np.where(
        kind == BALL, to_ball, np.where((kind == CYLINDER) | (kind == CONE), to_cylinder, to_box)
    )
    return distance.min(axis=1)


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Display colour from hue, saturation and value in [0,1]; hue wraps around."""
    position = (hue % 1.0) * 6
    red = min(max(abs(position - 3) - 1, 0), 1)
    green = min(max(2 - abs(position - 2), 0), 1)
    blue = min(max(2 - abs(position - 4), 0), 1)
    return tuple(value * (1 - saturation * (1 - channel)) for channel in (red, green, blue))  # type: ignore[return-value]


# From the list of solids to the arrays of the ray caster.


def _arrange(parts: Sequence[_Solid]) -> Solids:
    """The arrays, solids in the order of the tree's leaves."""
    to_world = np.stack([part.to_world for part in parts])
    extent = np.abs(to_world[:, :, :3]).sum(axis=2)
    low, high = to_world[:, :, 3] - extent, to_world[:, :, 3] + extent
    boxes: list[Float[np.ndarray, 6]] = []
    skips: list[int] = []
    leaves: list[int] = []

    def grow(members: np.ndarray) -> None:
        """Adds the tree over the members, depth first; halves are split at the median along the
        longest side.
        """
        node = len(boxes)
        boxes.append(
            np.concatenate([low[members].min(axis=0) - 1e-6, high[members].max(axis=0) + 1e-6])
        )
        skips.append(0)
        leaves.append(int(members[0]) if len(members) == 1 else -1)
        if len(members) > 1:
            first, second = _halves(low[members], high[members])
            grow(members[first])
            grow(members[second])
        skips[node] = len(boxes)

    grow(np.arange(len(parts)))
    inverse = np.linalg.inv(to_world[:, :, :3])
    to_local = np.concatenate([inverse, -inverse @ to_world[:, :, 3:]], axis=2)
    return Solids(
        kind=np.array([part.kind for part in parts]),
        to_local=to_local,
        half=np.stack([part.half for part in parts]),
        texture=np.array([part.material.texture for part in parts]),
        tiling=np.array([_tiling(part) for part in parts]),
        offset=np.stack([part.offset for part in parts]),
        turned=np.array([int(part.material.turned) for part in parts]),
        tint=np.array([part.material.tint for part in parts], float),
        glow=np.array([part.material.glow for part in parts], float),
        node_box=np.stack(boxes),
        node_skip=np.array(skips),
        node_solid=np.array(leaves),
    )


def _halves(
    low: Float[np.ndarray, "solids 3"], high: Float[np.ndarray, "solids 3"]
) -> tuple[np.ndarray, np.ndarray]:
    """Two groups with the least summed surface x count over all cuts along the three axes (the
    surface area heuristic).
    """
    best: tuple[float, np.ndarray, int] | None = None
    count = len(low)
    for axis in range(3):
        order = np.argsort(low[:, axis] + high[:, axis], kind="stable")
        before = _surfaces(np.minimum.accumulate(low[order]), np.maximum.accumulate(high[order]))
        after = _surfaces(
            np.minimum.accumulate(low[order][::-1]), np.maximum.accumulate(high[order][::-1])
        )[::-1]
        numbers = np.arange(1, count)
        costs = before[:-1] * numbers + after[1:] * (count - numbers)
        cut = int(np.argmin(costs))
        if best is None or costs[cut] < best[0]:
            best = (float(costs[cut]), order, cut + 1)
    assert best is not None
    return best[1][: best[2]], best[1][best[2] :]


def _surfaces(
    low: Float[np.ndarray, "boxes 3"], high: Float[np.ndarray, "boxes 3"]
) -> Float[np.ndarray, " boxes"]:
    x, y, z = (high - low).T
    return x * y + y * z + z * x


def _tiling(part: _Solid) -> tuple[float, float]:
    """Tiles per metre across and down."""
    if not part.material.fitted:
        return 1 / part.material.metres, 1 / part.material.metres
    # A fitted picture lies on the two longer sides: flat on the floor, or upright with its face
    # along x or y.
    tile = part.material.metres * 2
    thin = int(np.argmin(part.half))
    across = part.half[1] if thin == 0 else part.half[0]
    down = part.half[1] if thin == 2 else part.half[2]
    return 1 / (tile * across), 1 / (tile * down)


# Light that bounces, and exposure.


def _with_grid(
    solids: Solids,
    textures: Textures,
    light: Light,
    low: Float[np.ndarray, 3],
    high: Float[np.ndarray, 3],
    indoors: bool,
) -> Light:
    """The light with probes over the free box (which stays off the walls by one step, so that no
    probe is behind them).
    """
    step = float(np.clip(np.prod(high - low) ** (1 / 3) / 14, 0.28, 1.2))
    margin = 0.12 if indoors else 2 * step
    start, end = low + margin, high - margin
    if not indoors:
        start, end = np.array([low[0] - margin, low[1] - margin, 0.2]), high + margin
    counts = np.maximum(np.ceil((end - start) / step).astype(int) + 1, 2)
    steps = (end - start) / (counts - 1)
    step = float(steps.max())
    start = (start + end) / 2 - step * (counts - 1) / 2 if not indoors else start
    axes = [start[axis] + step * np.arange(counts[axis]) for axis in range(3)]
    probes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    free = (
        (clearance(solids, probes.reshape(-1, 3)) > 0).reshape(probes.shape[:3]).astype(np.float32)
    )
    first = np.broadcast_to(
        0.25 * (light.horizon + light.zenith).astype(np.float32), (*free.shape, 6, 3)
    ) * np.float32(0.3 if indoors else 1)
    light = light._replace(
        grid_origin=start, grid_step=step, grid=np.ascontiguousarray(first), grid_free=free
    )
    for _ in range(BOUNCES):
        light = light._replace(grid=bake_grid(solids, textures, light, _directions(PROBE_RAYS)))
    return light


def _directions(count: int) -> Float[np.ndarray, "directions 3"]:
    """Unit vectors spread evenly over the sphere: a golden spiral."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.arange(count) * math.pi * (3 - math.sqrt(5))
    across = np.sqrt(1 - z * z)
    return np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


def _metered(world: World) -> float:
    """Exposure from what is seen around the middle of the free box, sky left out."""
    middle = (world.free_low + world.free_high) / 2
    middle[2] = min(middle[2], 1.6)
    directions = _directions(160)
    directions = directions[np.abs(directions[:, 2]) < 0.7]
    _, hit = nearest_hits(
        world.solids, np.broadcast_to(middle, directions.shape).copy(), directions
    )
    directions = np.ascontiguousarray(directions[hit >= 0])[:, None]
    shown = radiance_image(world.solids, world.textures, world.light, middle, directions, 1, 1.0)
    brightness = (shown / (1 - shown)).mean(axis=-1)
    return METERING * float(np.exp(np.log(brightness + 1e-3).mean()))


# Families of materials: what a surface of a kind looks like, and how large one tile of it is in
# metres.


def _wood_colours(builder: Builder) -> list[Colour]:
    rng = builder.rng
    hue, saturation, value = rng.uniform(0.045, 0.1), rng.uniform(0.3, 0.65), rng.uniform(0.3, 0.8)
    return [
        hsv(hue, saturation, value),
        hsv(hue + 0.01, saturation, 0.68 * value),
        hsv(hue, saturation, 0.3 * value),
    ]


def _soft_colours(
    builder: Builder, low: float = 0.35, high: float = 0.95, saturation: float = 0.45
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


def _green_colours(builder: Builder) -> list[Colour]:
    rng = builder.rng
    hue, value = rng.uniform(0.19, 0.33), rng.uniform(0.38, 0.62)
    return [
        hsv(hue, 0.6, value),
        hsv(hue - 0.05, 0.55, value * 1.25),
        hsv(hue + 0.03, 0.6, value * 0.3),
    ]


def _stone_colours(builder: Builder) -> list[Colour]:
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


def _brick_colours(builder: Builder) -> list[Colour]:
    rng = builder.rng
    hue, saturation, value = rng.uniform(0.0, 0.08), rng.uniform(0.25, 0.6), rng.uniform(0.45, 0.75)
    return [
        hsv(hue, saturation, value),
        hsv(hue + 0.015, saturation, 0.7 * value),
        hsv(0.1, 0.08, rng.uniform(0.5, 0.8)),
    ]


def _floor(builder: Builder) -> tuple[Texture, float]:
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


def _wall(builder: Builder) -> tuple[Texture, float]:
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


def _facade(builder: Builder) -> tuple[Texture, float]:
    kind = str(builder.rng.choice(["bricks", "bricks", "plaster", "planks", "pebbles"]))
    if kind == "bricks":
        return builder.texture(kind, _brick_colours(builder), 5), 1.3
    if kind == "planks":
        return builder.texture(kind, _wood_colours(builder), 8), 1.8
    if kind == "pebbles":
        return builder.texture(kind, _stone_colours(builder), 2), 2.0
    return builder.texture(kind, _soft_colours(builder, 0.7, 0.97, 0.35), 4), 2.4


def _cloth(builder: Builder) -> tuple[Texture, float]:
    kind = str(builder.rng.choice(["fabric", "fabric", "stripes", "ornament"]))
    return builder.texture(
        kind, _soft_colours(builder, 0.25, 0.9, 0.7), int(builder.rng.integers(5, 10))
    ), 0.9


def _paving(builder: Builder) -> tuple[Texture, float]:
    kind = str(builder.rng.choice(["tiles", "pebbles", "bricks", "concrete"]))
    colours = _brick_colours(builder) if kind == "bricks" else _stone_colours(builder)
    return builder.texture(kind, colours, 4), 2.0


def _picture(builder: Builder) -> tuple[Texture, float]:
    rng = builder.rng
    kind = str(rng.choice(["painting", "painting", "painting", "clouds", "marble", "ornament"]))
    first, second = _soft_colours(builder, 0.4, 1.0, 0.9), _soft_colours(builder, 0.2, 0.9, 1.0)
    return builder.texture(kind, [first[0], second[1], second[2]], int(rng.integers(2, 6))), 1.0


FAMILIES: dict[str, Callable[[Builder], tuple[Texture, float]]] = {
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

#: How often a photograph, when there are any, takes the place of a painted texture.
PHOTO_SHARE = {
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
