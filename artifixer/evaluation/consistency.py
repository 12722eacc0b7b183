"""Consistency of frames with each other: the error after warping one frame into another with depth.

In: frames of any method at known cameras, and the depth of the scene's splats at these cameras.
Out: mean absolute colour difference over the pixels that both frames see, between neighbouring
frames (flicker), and between frames far apart in time whose cameras are in the same place (whether
generated content is the same when the camera returns).

All methods share the same depth, so their errors differ only by their frames. A pixel counts if its
point projects into the other frame and agrees with the depth there, which excludes occlusions. The
error of the photos themselves is not 0 because of reflections, exposure and errors of the depth; it
is reported for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.imaging.sampling import sample_grid
from artifixer.runtime.stopping import stop_if_requested

#: Maximum relative difference between two depths of the same point.
DEPTH_TOLERANCE = 0.02

#: Minimum distance in the sequence, frames, of two frames that count as a revisit.
REVISIT_FRAMES = 8

#: Minimum fraction of the pixels that both frames see, for a revisit and for any pair.
REVISIT_OVERLAP = 0.5
MIN_OVERLAP = 0.05

#: Maximum number of revisit pairs, evenly spaced.
MAX_REVISITS = 64


@dataclass(frozen=True)
class Sequence3d:
    """A sequence of views with depth."""

    cameras: Sequence[Cameras]
    """Single views of one size."""

    depths: Callable[[int], Float[np.ndarray, "height width"]]
    """Index -> camera z of every pixel, world units; NaN where the render is empty."""

    def __len__(self) -> int:
        return len(self.cameras)


@dataclass(frozen=True)
class Warp:
    """Correspondence between the pixels of two frames."""

    target: int
    """Index of the frame whose pixels are looked up."""

    source: int
    """Index of the frame that they are looked up in."""

    grid: Float[Tensor, "height width 2"]
    """Positions of the target's pixels in the source, as for ``sample_grid``."""

    visible: Bool[Tensor, "height width"]
    """The target's pixels that both frames see."""


@dataclass(frozen=True)
class Consistency:
    """Mean errors in [0,1]; None without a pair of frames."""

    neighbours: float | None
    """Between neighbouring frames."""

    revisit: float | None
    """Between frames far apart in time whose cameras are in the same place."""

    pairs: int
    """Number of neighbouring pairs."""

    revisits: int
    """Number of revisit pairs."""


def warp(views: Sequence3d, target: int, source: int) -> Warp:
    """The pixels of frame ``target`` in frame ``source``."""
    camera, other = views.cameras[target], views.cameras[source]
    height, width = camera.height, camera.width
    depth = torch.from_numpy(np.ascontiguousarray(views.depths(target))).to(torch.float32)
    rows, columns = torch.meshgrid(
        torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij"
    )
    directions = camera.unproject(torch.stack([columns, rows], dim=-1).reshape(1, -1, 2))[0]
    in_camera = directions / directions[:, 2:].clamp(min=1e-6) * depth.reshape(-1, 1)
    to_world = camera.camera_to_world[0]
    points = in_camera.nan_to_num(0.0) @ to_world[:3, :3].T + to_world[:3, 3]
    pixels, z, is_imaged = (values[0] for values in other.project(points))
    grid = torch.stack([pixels[:, 0] / other.width, pixels[:, 1] / other.height], dim=-1) * 2 - 1
    inside = (grid.abs() < 1).all(dim=-1) & is_imaged & (z > 0)
    visible = inside & depth.reshape(-1).isfinite() & (directions[:, 2] > 1e-6)
    grid = grid.clamp(-2, 2).reshape(height, width, 2)
    there = torch.from_numpy(np.ascontiguousarray(views.depths(source))).to(torch.float32)
    # nearest: a mean of foreground and background depth has no meaning
    seen = sample_grid(there[..., None], grid, "nearest")[..., 0]
    agrees = (seen - z.reshape(height, width)).abs() <= DEPTH_TOLERANCE * seen.abs()
    return Warp(target, source, grid, visible.reshape(height, width) & agrees)


def neighbour_warps(views: Sequence3d) -> list[Warp]:
    """Pairs of neighbouring frames that overlap."""
    found = []
    for target in range(1, len(views)):
        stop_if_requested("while comparing neighbouring frames")
        pair = warp(views, target, target - 1)
        if float(pair.visible.float().mean()) >= MIN_OVERLAP:
            found.append(pair)
    return found


def revisit_warps(views: Sequence3d) -> list[Warp]:
    """For each frame, the nearest camera at least ``REVISIT_FRAMES`` earlier, if they overlap by
    ``REVISIT_OVERLAP``; at most ``MAX_REVISITS`` pairs.
    """
    found = []
    centers = torch.cat([camera.centers for camera in views.cameras])
    forward = torch.cat([camera.camera_to_world[:, :3, 2] for camera in views.cameras])
    for target in range(REVISIT_FRAMES, len(views)):
        stop_if_requested("while looking for revisits")
        earlier = slice(0, target - REVISIT_FRAMES + 1)
        distances = (centers[earlier] - centers[target]).norm(dim=1)
        scale = (centers - centers.mean(dim=0)).norm(dim=1).mean().clamp(min=1e-9)
        turns = 1 - forward[earlier] @ forward[target]
        pair = warp(views, target, int((distances / scale + turns).argmin()))
        if float(pair.visible.float().mean()) >= REVISIT_OVERLAP:
            found.append(pair)
    if len(found) > MAX_REVISITS:
        found = [found[k * len(found) // MAX_REVISITS] for k in range(MAX_REVISITS)]
    return found


def consistency(
    frame: Callable[[int], UInt8[np.ndarray, "height width 3"]],
    neighbours: Sequence[Warp],
    revisits: Sequence[Warp],
) -> Consistency:
    """The errors of one method. frame: index -> pixels at the cameras' size."""
    return Consistency(
        _mean_error(frame, neighbours), _mean_error(frame, revisits), len(neighbours), len(revisits)
    )


def warp_error(
    target: UInt8[np.ndarray, "height width 3"],
    source: UInt8[np.ndarray, "height width 3"],
    pair: Warp,
) -> float:
    """Mean absolute difference in [0,1] over the pixels that both frames see."""
    ours, theirs = (torch.from_numpy(pixels).to(torch.float32) / 255 for pixels in (target, source))
    moved = sample_grid(theirs, pair.grid, "bilinear")
    return float((ours - moved).abs().mean(dim=-1)[pair.visible].mean())


def _mean_error(
    frame: Callable[[int], UInt8[np.ndarray, "height width 3"]], pairs: Sequence[Warp]
) -> float | None:
    errors = []
    for pair in pairs:
        stop_if_requested("while comparing frames")
        errors.append(warp_error(frame(pair.target), frame(pair.source), pair))
    return float(np.mean(errors)) if errors else None
