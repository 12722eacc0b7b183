"""Camera paths through a procedural world.

In: a ``World`` and a numpy generator. Out: ``Cameras`` on a smooth curve in free space, clear of
all solids and not too close to what they see.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.scenes.procedural.raycast import (
    FAR,
    nearest_hits,
)
from artifixer.scenes.procedural.solids import clearance
from artifixer.scenes.procedural.views import ray_directions
from artifixer.scenes.procedural.world import World


@dataclass(frozen=True)
class PathSettings:
    """How camera paths are sampled."""

    keep_clear: float = 0.28
    """Minimum distance between a camera and any solid, metres."""
    near_view: float = 1.1
    """Minimum over the cameras of the median distance of what they see, metres."""
    key_poses: int = 6
    """Poses that the smooth curve runs through."""
    attempts: int = 400
    """Paths that are tried, with bounds that shrink at each attempt."""
    focal: tuple[float, float] = (0.7, 1.5)
    """Range of the focal length in units of the image's longer side."""


def sample_path(
    world: World,
    frames: int,
    generator: np.random.Generator,
    *,
    width: int,
    height: int,
    settings: PathSettings | None = None,
) -> Cameras:
    """A smooth path of ``frames`` pinhole cameras through the free space: around a point of
    interest, or a walk with a pan.

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
    heights: np.ndarray = np.clip(
        generator.uniform(low + 0.3, high) + 0.08 * generator.normal(size=keys), low, high
    )
    return heights


def _curve(points: Float[np.ndarray, "points 3"], count: int) -> Float[np.ndarray, "count 3"]:
    """``count`` points on the Catmull-Rom spline through the points, ends included."""
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    position = np.linspace(0, len(points) - 1, count)
    first = np.minimum(position.astype(int), len(points) - 2)
    t = (position - first)[:, None]
    a, b, c, d = (padded[first + k] for k in range(4))
    curve: np.ndarray = b + 0.5 * t * (
        c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))
    )
    return curve


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
        directions = ray_directions(coarse[view], 1)
        eye = coarse.centers[view].double().numpy()
        distance, _ = nearest_hits(
            world.solids, np.broadcast_to(eye, directions.shape).copy(), directions
        )
        nearest = min(nearest, float(np.median(distance)))
    return nearest
