"""Procedural captures: names to scenes.

In: a name such as ``procedural:7`` or ``procedural:7:frames=24,width=128,height=128,place=yard``,
or a numpy generator. Out: a ``Scene`` as from any other capture, and the ``World`` behind it. World
units are metres, z is up. The same name gives the same bytes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.procedural.camera_paths import sample_path
from artifixer.scenes.procedural.raycast import (
    radiance_image,
)
from artifixer.scenes.procedural.rooms import furnish_room
from artifixer.scenes.procedural.views import (
    display_colours,
    is_seen,
    pixel_directions,
    surface_points,
)
from artifixer.scenes.procedural.world import Builder, World
from artifixer.scenes.procedural.yards import lay_out_yard
from artifixer.scenes.scene import Photo, Scene, SparsePoints

PREFIX = "procedural:"

#: Worlds are in metres.
METRES_PER_UNIT = 1.0

Place = Literal["any", "room", "yard"]


@dataclass(frozen=True)
class ProceduralCapture:
    """The options of a name."""

    seed: int
    """Of the world, the path and the points."""
    frames: int = 48
    width: int = 256
    """Of a photo, pixels."""
    height: int = 192
    place: Place = "any"
    """A room, a yard, or one of them at random (``WorldSettings.room_fraction``)."""
    points_per_photo: int = 90
    """Pixels tried per photo for sparse points; those that two or more photos see are kept."""


@dataclass(frozen=True)
class WorldSettings:
    """How worlds are sampled."""

    texture_size: int = 256
    """Texels along a texture's side, a power of two."""
    room_fraction: float = 0.65
    """Of rooms among places that are chosen at random."""


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
    """A random room or yard."""
    settings = settings or WorldSettings()
    is_room = generator.random() < settings.room_fraction if place == "any" else place == "room"
    builder = Builder(generator, settings.texture_size)
    return furnish_room(builder) if is_room else lay_out_yard(builder)


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
    photo: np.ndarray = np.rint(display_colours(world, camera, samples=2) * 255).astype(np.uint8)
    return photo


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
                pixel_directions(cameras[view], pixels + torch.tensor([shift, 0.0]))
                for shift in (-1.0, 0.0, 1.0)
            ],
            axis=1,
        )
        points, hit = surface_points(world, cameras[view], np.ascontiguousarray(fine[:, 1]))
        eye = cameras.centers[view].double().numpy()
        shown = radiance_image(
            world.solids, world.textures, world.light, eye, fine, 1, world.white
        )[:, 1]
        found.append(points[hit])
        colours.append(np.sqrt(shown[hit]))
    xyz, rgb = np.concatenate(found).astype(np.float32), np.concatenate(colours)
    sees = is_seen(world, cameras, xyz.astype(np.float64))
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
