"""Indirect light on a grid of probes, and exposure.

In: the arrays of the ray caster and the box of free space. Out: ``Light`` with a baked grid; the
radiance that is shown at half of the range.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from artifixer.scenes.procedural.raycast import (
    Light,
    Solids,
    Textures,
    bake_grid,
    nearest_hits,
    radiance_image,
)
from artifixer.scenes.procedural.solids import clearance

#: Rays per probe of the light grid, and bounces of indirect light.
PROBE_RAYS = 40

BOUNCES = 2

#: Radiance that is shown at half of the range, relative to the logarithmic mean of what a camera in
#: the middle sees.
METERING = 1.9


def with_bounced_light(
    solids: Solids,
    textures: Textures,
    light: Light,
    low: Float[np.ndarray, " 3"],
    high: Float[np.ndarray, " 3"],
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
        light = light._replace(
            grid=bake_grid(solids, textures, light, _sphere_directions(PROBE_RAYS))
        )
    return light


def _sphere_directions(count: int) -> Float[np.ndarray, "directions 3"]:
    """Unit vectors spread evenly over the sphere: a golden spiral."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.arange(count) * math.pi * (3 - math.sqrt(5))
    across = np.sqrt(1 - z * z)
    return np.stack([across * np.cos(angle), across * np.sin(angle), z], axis=1)


def metered_white(
    solids: Solids,
    textures: Textures,
    light: Light,
    low: Float[np.ndarray, " 3"],
    high: Float[np.ndarray, " 3"],
) -> float:
    """Exposure from what is seen around the middle of the free box, sky left out."""
    middle = (low + high) / 2
    middle[2] = min(middle[2], 1.6)
    directions = _sphere_directions(160)
    directions = directions[np.abs(directions[:, 2]) < 0.7]
    _, hit = nearest_hits(solids, np.broadcast_to(middle, directions.shape).copy(), directions)
    directions = np.ascontiguousarray(directions[hit >= 0])[:, None]
    shown = radiance_image(solids, textures, light, middle, directions, 1, 1.0)
    brightness = (shown / (1 - shown)).mean(axis=-1)
    return METERING * float(np.exp(np.log(brightness + 1e-3).mean()))
