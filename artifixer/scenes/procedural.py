"""Procedural captures: rooms and yards drawn by lot, photographed along smooth paths, with exact
depth and visibility.

In: a name such as ``procedural:7`` or ``procedural:7:frames=24,width=128,height=128,place=yard``,
or a numpy generator.
Out: a ``Scene`` as from any other capture, the ``World`` behind it, renders with depth, and which
cameras see which surfaces. World units are metres, z is up. The same name gives the same bytes.

The sky of a yard is background at infinity: photos show its gradient and clouds, its depth is
``inf``, and it counts as no surface.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.runtime.errors import InputError
from artifixer.scenes.procedural_builder import Builder, World, clearance
from artifixer.scenes.procedural_places import furnish_room, lay_out_yard
from artifixer.scenes.procedural_raycast import FAR, in_sight, nearest_hits, radiance_image
from artifixer.scenes.scene import Photo, Scene, SparsePoints

__all__ = [
    "NO_SURFACE",
    "World",
    "WorldViews",
    "load",
    "render_world",
    "sample_path",
    "sample_world",
    "seen_by",
    "world_of",
]

PREFIX = "procedural:"

#: Worlds are drawn in metres.
METRES_PER_UNIT = 1.0

#: ``seen_by`` where a pixel shows the sky.
NO_SURFACE = -1

Place = Literal["any", "room", "yard"]


@dataclass(frozen=True)
class ProceduralCapture:
    """What a name stands for.

    seed: of the world, the path and the points. frames, width, height: photos and their size in
    pixels. place: a room, a yard, or either by lot (two rooms for each yard).
    points_per_photo: pixels tried per photo for sparse points; those that two or more photos see
    are kept.
    """

    seed: int
    frames: int = 48
    width: int = 256
    height: int = 192
    place: Place = "any"
    points_per_photo: int = 90


@dataclass(frozen=True)
class WorldSettings:
    """texture_size: texels along a texture's side, a power of two. room_share: rooms among places
    drawn by lot.
    """

    texture_size: int = 256
    room_share: float = 0.65


@dataclass(frozen=True)
class PathSettings:
    """keep_clear: metres between a camera and any solid. near_view: least median distance of what a
    camera sees, metres. key_poses: poses that the smooth curve runs through. attempts: paths tried,
    each time asking for a little less. focal: range of the focal length in image sides (the longer
    one).
    """

    keep_clear: float = 0.28
    near_view: float = 1.1
    key_poses: int = 6
    attempts: int = 400
    focal: tuple[float, float] = (0.7, 1.5)


@dataclass(frozen=True)
class WorldViews:
    """rgb ``[views height width 3]`` in [0,1], display-encoded; depth ``[views height width]``:
    camera z, metres, of the surface at the pixel's centre, ``inf`` where there is sky. Both
    float32.
    """

    rgb: Float[Tensor, "views height width 3"]
    depth: Float[Tensor, "views height width"]


def load(name: str) -> Scene:
    """The capture ``procedural:SEED`` or ``procedural:SEED:key=value,...`` with the keys of
    ``ProceduralCapture``.

    Photos are rendered when they are first read, and kept. Points lie exactly on surfaces; their
    tracks hold every photo that sees them. Raises InputError for a name that is not of this form.
    """
    capture = _parsed(name)
    world = world_of(name)
    cameras = _path_of(name)
    names = [f"{number:05d}.png" for number in range(capture.frames)]
    photos = tuple(
        Photo(
            photo_name,
            capture.width,
            capture.height,
            functools.cache(functools.partial(_photograph, world, cameras[number])),
        )
        for number, photo_name in enumerate(names)
    )
    points = _sparse_points(
        world, cameras, capture.points_per_photo, _generator(capture.seed, "points")
    )
    single_views = tuple(cameras[i] for i in range(len(cameras)))
    return Scene(name, "procedural", photos, single_views, points, metres_per_unit=METRES_PER_UNIT)


def world_of(scene: Scene | str) -> World:
    """The world that a procedural scene, or the scene of that name, shows. Raises InputError when
    it is not procedural.
    """
    return _world_of_name(scene if isinstance(scene, str) else scene.name)


def sample_world(
    generator: np.random.Generator, place: Place = "any", settings: WorldSettings | None = None
) -> World:
    """A room or a yard drawn by lot."""
    settings = settings or WorldSettings()
    is_room = generator.random() < settings.room_share if place == "any" else place == "room"
    builder = Builder(generator, settings.texture_size)
    return furnish_room(builder) if is_room else lay_out_yard(builder)


def sample_path(
    world: World,
    frames: int,
    generator: np.random.Generator,
    *,
    width: int,
    height: int,
    settings: PathSettings | None = None,
) -> Cameras:
    """A smooth path of ``frames`` pinhole cameras through the free space: around something worth
    seeing, or a walk with a pan.

    float32. Raises RuntimeError when the world leaves no room for a path (none of the places drawn
    here do).
    """
    settings = settings or PathSettings()
    focal = float(np.exp(generator.uniform(*np.log(settings.focal)))) * max(width, height)
    for attempt in range(settings.attempts):
        shrink = 0.994**attempt
        draw = _around if generator.random() < 0.6 else _walk
        eyes, targets = draw(world, settings.key_poses, shrink, generator)
        eyes, targets = _curve(eyes, frames), _curve(targets, frames)
        between = _curve(eyes, 4 * frames)
        inside = (between >= world.free_low - 0.05).all() and (
            between <= world.free_high + 0.05
        ).all()
        if not inside or clearance(world.solids, between).min() < settings.keep_clear * shrink:
            continue
        cameras = _looking(eyes, targets, focal, width, height)
        if _typical_view(world, cameras) >= settings.near_view * shrink:
            return cameras
    raise RuntimeError(
        f"no path keeps {settings.keep_clear} m off all solids in {settings.attempts} attempts"
    )


def render_world(world: World, cameras: Cameras, samples: int = 2) -> WorldViews:
    """Photos of the world and exact depth; ``samples`` x ``samples`` rays per pixel. Any lens
    model.
    """
    shape = (len(cameras), cameras.height, cameras.width)
    rgb, depth = np.empty((*shape, 3), np.float32), np.empty(shape, np.float32)
    for view in range(len(cameras)):
        rgb[view] = _colours(world, cameras[view], samples)
        depth[view] = _depth(world, cameras[view])
    return WorldViews(torch.from_numpy(rgb), torch.from_numpy(depth))


def seen_by(world: World, cameras: Cameras, others: Cameras) -> Int[Tensor, "views height width"]:
    """For each pixel of ``cameras``, how many of ``others`` see the surface point at its centre.

    Exact: a point is seen when it projects inside the other's image and nothing blocks the line of
    sight (with a slack of 2 mm at the point). Outside the image is unseen. Pixels that show the sky
    are ``NO_SURFACE``.
    """
    counts = torch.empty(len(cameras), cameras.height, cameras.width, dtype=torch.int64)
    for view in range(len(cameras)):
        points, hit = _surface_points(world, cameras[view], _directions(cameras[view], 1))
        seen = _sees(world, others, points).sum(axis=0)
        counts[view] = torch.from_numpy(np.where(hit, seen, NO_SURFACE)).reshape(
            cameras.height, cameras.width
        )
    return counts


# Names.


def _parsed(name: str) -> ProceduralCapture:
    expected = (
        "expected procedural:SEED or procedural:SEED:frames=N,width=N,height=N,place=room|yard"
    )
    parts = name.split(":")
    if parts[0] + ":" != PREFIX or len(parts) not in (2, 3):
        raise InputError(f"{name}: {expected}")
    values: dict[str, int] = {"seed": _number(name, "SEED", parts[1], 0, 2**63 - 1)}
    place: Place = "any"
    limits = {
        "frames": (2, 100_000),
        "width": (8, 8192),
        "height": (8, 8192),
        "points_per_photo": (1, 100_000),
    }
    for option in parts[2].split(",") if len(parts) == 3 else []:
        key, _, value = option.partition("=")
        if key == "place" and value in ("any", "room", "yard"):
            place = value  # type: ignore[assignment]
        elif key in limits:
            values[key] = _number(name, key, value, *limits[key])
        else:
            raise InputError(f"{name}: option {option!r}, {expected}")
    return ProceduralCapture(**values, place=place)


def _number(name: str, key: str, text: str, low: int, high: int) -> int:
    # isdecimal alone admits digits of other scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and low <= int(text) <= high):
        raise InputError(f"{name}: {key} is {text!r}, expected a whole number from {low} to {high}")
    return int(text)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Independent streams for the world, its path and its points, so that none depends on how much
    another draws.
    """
    return np.random.default_rng([seed, *purpose.encode()])


@functools.lru_cache(maxsize=8)
def _world_of_name(name: str) -> World:
    capture = _parsed(name)
    return sample_world(_generator(capture.seed, "world"), capture.place)


def _path_of(name: str) -> Cameras:
    capture = _parsed(name)
    generator = _generator(capture.seed, "path")
    return sample_path(
        world_of(name), capture.frames, generator, width=capture.width, height=capture.height
    )


def _photograph(world: World, camera: Cameras) -> UInt8[np.ndarray, "height width 3"]:
    return np.rint(_colours(world, camera, samples=2) * 255).astype(np.uint8)


# Photos and depth of one view.


def _colours(world: World, camera: Cameras, samples: int) -> Float[np.ndarray, "height width 3"]:
    """Display-encoded colours in [0,1]."""
    eye = camera.centers[0].double().numpy()
    fine = _directions(camera, samples).reshape(camera.height * samples, camera.width * samples, 3)
    shown = radiance_image(
        world.solids, world.textures, world.light, eye, fine, samples, world.white
    )
    return np.sqrt(np.clip(shown, 0, 1))


def _depth(world: World, camera: Cameras) -> Float[np.ndarray, "height width"]:
    """Camera z of the surface at each pixel's centre, ``inf`` where there is sky."""
    directions = _directions(camera, 1)
    eye = camera.centers[0].double().numpy()
    distance, solid = nearest_hits(
        world.solids, np.broadcast_to(eye, directions.shape).copy(), directions
    )
    forward = camera.viewmats[0, 2, :3].double().numpy()
    return np.where(solid >= 0, distance * (directions @ forward), np.inf).reshape(
        camera.height, camera.width
    )


# Paths.


def _around(
    world: World, keys: int, shrink: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Key eyes and targets on an arc around a point of interest, facing it."""
    middle = (world.free_low + world.free_high) / 2
    centre = (
        world.interests[generator.integers(len(world.interests))]
        if len(world.interests)
        else middle
    )
    if world.indoors:
        centre = centre + generator.uniform(0.0, 0.5) * (
            np.array([middle[0], middle[1], centre[2]]) - centre
        )
    room = (world.free_high - world.free_low)[:2].min() / 2
    radius = generator.uniform(0.5, 1.0) * max(room, 1.2) * shrink + (
        0.8 if not world.indoors else 0.3
    )
    start, sweep = (
        generator.uniform(0, 2 * math.pi),
        generator.choice([-1, 1]) * generator.uniform(1.2, 5.2) * shrink,
    )
    angles = start + sweep * np.linspace(0, 1, keys)
    radii = radius * (1 + 0.12 * generator.normal(size=keys))
    heights = _heights(world, keys, generator)
    eyes = np.stack(
        [centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles), heights], axis=1
    )
    eyes = np.clip(eyes, world.free_low, world.free_high)
    return eyes, centre + generator.normal(size=(keys, 3)) * [0.15, 0.15, 0.1]


def _walk(
    world: World, keys: int, shrink: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Key eyes on a line across the free space, looking ahead or sideways while turning."""
    span = (world.free_high - world.free_low)[:2]
    first, last = (world.free_low[:2] + generator.uniform(0.05, 0.95, 2) * span for _ in range(2))
    last = first + (last - first) * shrink
    along = np.linspace(0, 1, keys)[:, None]
    across = np.array([-(last - first)[1], (last - first)[0]]) * 0.12
    ground = first + along * (last - first) + np.sin(math.pi * along) * across * generator.normal()
    eyes = np.concatenate([ground, _heights(world, keys, generator)[:, None]], axis=1)
    eyes = np.clip(eyes, world.free_low, world.free_high)
    pan = generator.choice([-1, 1]) * generator.uniform(0.5, 3.2)
    # Starts towards the middle of the place, where there is most to see.
    middle = (world.free_low + world.free_high) / 2
    towards = math.atan2(middle[1] - first[1], middle[0] - first[0])
    azimuth = towards - pan / 3 + pan * np.linspace(0, 1, keys) + 0.08 * generator.normal(size=keys)
    elevation = -0.22 + 0.08 * generator.normal(size=keys)
    return eyes, eyes + 2.5 * np.stack(
        [np.cos(azimuth), np.sin(azimuth), np.tan(elevation)], axis=1
    )


def _heights(world: World, keys: int, generator: np.random.Generator) -> Float[np.ndarray, " keys"]:
    """One height for the whole path, with a little up and down."""
    low, high = world.free_low[2], world.free_high[2]
    return np.clip(
        generator.uniform(low + 0.3, high) + 0.08 * generator.normal(size=keys), low, high
    )


def _curve(points: Float[np.ndarray, "points 3"], count: int) -> Float[np.ndarray, "count 3"]:
    """``count`` points on the Catmull-Rom spline through the points, ends included."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    position = np.linspace(0, len(points) - 1, count)
    first = np.minimum(position.astype(int), len(points) - 2)
    t = (position - first)[:, None]
    a, b, c, d = (padded[first + k] for k in range(4))
    return b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))


def _looking(
    eyes: np.ndarray, targets: np.ndarray, focal: float, width: int, height: int
) -> Cameras:
    poses = look_at(
        torch.from_numpy(eyes),
        torch.from_numpy(targets),
        torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64),
    )
    K = torch.tensor(
        [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=torch.float64
    )
    return Cameras.pinhole(
        invert_rigid(poses).float(), K.expand(len(eyes), 3, 3).float().clone(), width, height
    )


def _typical_view(world: World, cameras: Cameras) -> float:
    """The least over all cameras of the median distance of what they see, metres."""
    coarse = cameras.resized(8, 6)
    nearest = FAR
    for view in range(len(coarse)):
        directions = _directions(coarse[view], 1)
        eye = coarse.centers[view].double().numpy()
        distance, _ = nearest_hits(
            world.solids, np.broadcast_to(eye, directions.shape).copy(), directions
        )
        nearest = min(nearest, float(np.median(distance)))
    return nearest


# Rays, surface points and who sees them.


def _directions(camera: Cameras, samples: int) -> Float[np.ndarray, "rays 3"]:
    """Unit world directions through a grid of ``samples`` x ``samples`` points in each pixel of one
    view, row by row.
    """
    rows = (torch.arange(camera.height * samples, dtype=torch.float64) + 0.5) / samples
    columns = (torch.arange(camera.width * samples, dtype=torch.float64) + 0.5) / samples
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(1, -1, 2)
    return _rays(camera, pixels[0])


def _rays(camera: Cameras, pixels: Float[Tensor, "pixels 2"]) -> Float[np.ndarray, "pixels 3"]:
    camera = camera.to(dtype=torch.float64)
    return np.ascontiguousarray(
        (camera.unproject(pixels[None])[0] @ camera.viewmats[0, :3, :3]).numpy()
    )


def _surface_points(
    world: World, camera: Cameras, directions: Float[np.ndarray, "rays 3"]
) -> tuple[np.ndarray, np.ndarray]:
    """First surface points along rays of one view ``[rays 3]`` (the eye itself where there is
    none), and whether there is one.
    """
    eye = camera.to(dtype=torch.float64).centers[0].numpy()
    distance, solid = nearest_hits(
        world.solids, np.broadcast_to(eye, directions.shape).copy(), directions
    )
    hit = solid >= 0
    return eye + np.where(hit, distance, 0.0)[:, None] * directions, hit


def _sees(
    world: World, cameras: Cameras, points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, "views points"]:
    """Whether each view sees each point: inside the image, and nothing in between."""
    precise = cameras.to(dtype=torch.float64)
    pixels, _, valid = precise.project(torch.from_numpy(points))
    size = torch.tensor([cameras.width, cameras.height])
    inside = (valid & ((pixels >= 0) & (pixels < size)).all(dim=-1)).numpy()
    for view in range(len(cameras)):
        inside[view, inside[view]] = in_sight(
            world.solids, precise.centers[view].numpy(), np.ascontiguousarray(points[inside[view]])
        )
    return inside


def _sparse_points(
    world: World, cameras: Cameras, per_photo: int, generator: np.random.Generator
) -> SparsePoints:
    """Surface points at random pixels of every photo, with all photos that see them; points of a
    single photo are dropped.
    """
    found, colours = [], []
    for view in range(len(cameras)):
        pixels = torch.from_numpy(
            generator.uniform(0, 1, (per_photo, 2)) * [cameras.width, cameras.height]
        )
        # Three neighbouring rays per point, because the caster takes the size of a pixel from
        # neighbours.
        fine = np.stack(
            [
                _rays(cameras[view], pixels + torch.tensor([shift, 0.0]))
                for shift in (-1.0, 0.0, 1.0)
            ],
            axis=1,
        )
        points, hit = _surface_points(world, cameras[view], np.ascontiguousarray(fine[:, 1]))
        eye = cameras.centers[view].double().numpy()
        shown = radiance_image(
            world.solids, world.textures, world.light, eye, fine, 1, world.white
        )[:, 1]
        found.append(points[hit])
        colours.append(np.sqrt(shown[hit]))
    xyz, rgb = np.concatenate(found).astype(np.float32), np.concatenate(colours)
    sees = _sees(world, cameras, xyz.astype(np.float64))
    kept = sees.sum(axis=0) >= 2
    xyz, rgb, sees = xyz[kept], rgb[kept], sees[:, kept]
    observed_point, observed_view = (torch.from_numpy(index) for index in np.nonzero(sees.T))
    pixels, _, _ = cameras.to(dtype=torch.float64).project(torch.from_numpy(xyz).double())
    return SparsePoints(
        torch.from_numpy(xyz),
        torch.from_numpy(np.rint(rgb * 255).astype(np.uint8)),
        observed_point,
        observed_view,
        pixels[observed_view, observed_point].float(),
    )
