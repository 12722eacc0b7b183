"""Georeferenced worlds: geometry is float32 around a local origin, files hold the world's own
coordinates in float64.

At 5,400,000 the resolution of float32 is half a unit. A capture whose cameras are far from zero,
relative to the distances between them, is therefore read in float64 and shifted to an origin among
its cameras; files are shifted back. Rotations and units are those of the world.
Most captures have the origin ``WORLD`` and are not shifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras

Origin = tuple[float, float, float]

#: The world's own zero: nothing is shifted.
WORLD: Origin = (0.0, 0.0, 0.0)

#: Positions farther from zero than this many times their spread are shifted. Rounding to float32
#: then moves a point by less than 10 * 2**-24 of the spread, under 0.003 pixels for something one
#: spread away at a focal length of 4,000 pixels.
LARGEST_OFFSET = 10.0

#: Fraction of the positions within the spread of their median.
SPREAD_QUANTILE = 0.8


def local_origin(positions: Float[np.ndarray, "positions 3"]) -> Origin:
    """Origin for float64 positions in world units: a round position near their median, or ``WORLD``
    when they are near zero.

    Computed from the median and a quantile of the distances from it, which are robust against a few
    wrong positions (a pose left at zero). Positions that are not finite are omitted; coinciding
    positions count as spread over one unit.
    """
    positions = positions[np.isfinite(positions).all(axis=1)]
    if not len(positions):
        return WORLD
    middle = np.median(positions, axis=0)
    distances = np.linalg.norm(positions - middle, axis=1)
    # the higher neighbour: of two positions the median lies in the middle, of few no quantile
    # between them stands for the spread
    spread = float(np.quantile(distances, SPREAD_QUANTILE, method="higher")) or 1.0
    if not np.linalg.norm(middle) > LARGEST_OFFSET * spread:
        return WORLD
    step = 10.0 ** np.floor(np.log10(spread))  # a round number that is read easily
    x, y, z = (round(float(value), 9) for value in np.round(middle / step) * step)
    return x, y, z


def camera_origin(cameras: Sequence[Cameras]) -> Origin:
    """``local_origin`` of the cameras' positions; cameras in float64."""
    return (
        local_origin(torch.cat([camera.centers for camera in cameras]).numpy())
        if cameras
        else WORLD
    )


def to_local(cameras: Cameras, origin: Origin) -> Cameras:
    """Float64 cameras of the world as float32 ones around ``origin``."""
    return _shifted(cameras, origin, 1.0).to(dtype=torch.float32)


def to_world(cameras: Cameras, origin: Origin) -> Cameras:
    """Cameras around ``origin`` as float64 ones of the world; the inverse of ``to_local`` up to its
    rounding.

    Rotations that were rounded to float32 are orthonormalised first: far from zero, a reader that
    does so would move the camera.
    """
    cameras = cameras.to(dtype=torch.float64)
    if origin == WORLD:
        return cameras
    u, _, v_transposed = torch.linalg.svd(cameras.viewmats[:, :3, :3])
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, :3] = u @ v_transposed
    return _shifted(replace(cameras, viewmats=viewmats), origin, -1.0)


def points_to_local(
    points: Float[Tensor, "points 3"] | Float[np.ndarray, "points 3"], origin: Origin
) -> Float[Tensor, "points 3"]:
    """Positions of the world as float32 ones around ``origin``."""
    return (
        torch.as_tensor(points).to(torch.float64) - torch.tensor(origin, dtype=torch.float64)
    ).to(torch.float32)


def points_to_world(points: Float[Tensor, "points 3"], origin: Origin) -> Float[Tensor, "points 3"]:
    """Positions around ``origin`` as float64 ones of the world."""
    return points.to(torch.float64) + torch.tensor(
        origin, dtype=torch.float64, device=points.device
    )


def _shifted(cameras: Cameras, origin: Origin, sign: float) -> Cameras:
    """world_to_camera after the world's zero moved to ``origin`` (sign 1), or back (sign -1)."""
    if origin == WORLD:
        return cameras
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] += sign * (
        viewmats[:, :3, :3] @ torch.tensor(origin, dtype=viewmats.dtype, device=viewmats.device)
    )
    return replace(cameras, viewmats=viewmats)
