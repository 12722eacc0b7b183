"""Consistency of frames with each other: the error after moving one frame into another by depth.

In: frames of any method at known cameras, and the depth that splats of the scene have there. Out:
mean absolute colour difference over the pixels that both frames see, once between neighbouring
frames (flicker) and once between frames far apart in time whose cameras are back in the same place
(whether invented content is the same when the camera returns).

The depth is the same for all methods, so differences are those of the frames. A pixel counts where
its point projects into the other frame and the depth there agrees, so that occlusions are left out.
Photos themselves do not have error 0: reflections, exposure and errors of the depth remain, which
is why the photos' own error is reported beside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.stopping import stop_if_requested

#: Relative difference up to which two depths of a point agree.
DEPTH_TOLERANCE = 0.02

#: Frames this far apart in the sequence, and more, are a revisit when their views overlap.
REVISIT_FRAMES = 8

#: Share of the pixels that must be seen by both frames, for a revisit and for any pair.
REVISIT_OVERLAP = 0.5
LEAST_OVERLAP = 0.05

#: Revisit pairs at most; the ones with the largest overlap of evenly spread frames are taken.
MOST_REVISITS = 64


@dataclass(frozen=True)
class Sequence3d:
    """A sequence of views: cameras of one size, and the camera z at every pixel (world units, NaN
    where nothing is)."""

    cameras: Sequence[Cameras]
    depths: Callable[[int], Float[np.ndarray, "height width"]]

    def __len__(self) -> int:
        return len(self.cameras)


@dataclass(frozen=True)
class Warp:
    """How pixels of frame ``target`` are found in frame ``source``: ``[height width 2]`` positions
    for ``grid_sample``, and which pixels both see."""

    target: int
    source: int
    grid: Float[Tensor, "height width 2"]
    visible: Bool[Tensor, "height width"]


@dataclass(frozen=True)
class Consistency:
    """Errors in [0,1]; None where there is no pair. pairs, revisits: how many there are."""

    neighbours: float | None
    revisit: float | None
    pairs: int
    revisits: int


def warp(views: Sequence3d, target: int, source: int) -> Warp:
    """Where the pixels of one frame lie in another."""
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
    # nearest: depths of a foreground and a background have no meaning when mixed
    seen = _sampled(there[..., None], grid, "nearest")[..., 0]
    agrees = (seen - z.reshape(height, width)).abs() <= DEPTH_TOLERANCE * seen.abs()
    return Warp(target, source, grid, visible.reshape(height, width) & agrees)


def neighbour_warps(views: Sequence3d) -> list[Warp]:
    """Every frame from the one before it, where they overlap."""
    found = []
    for target in range(1, len(views)):
        stop_if_requested("while comparing neighbouring frames")
        pair = warp(views, target, target - 1)
        if float(pair.visible.float().mean()) >= LEAST_OVERLAP:
            found.append(pair)
    return found


def revisit_warps(views: Sequence3d) -> list[Warp]:
    """For each frame the best overlapping one at least ``REVISIT_FRAMES`` earlier, where they share
    ``REVISIT_OVERLAP``; at most ``MOST_REVISITS``, evenly spread.
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
    if len(found) > MOST_REVISITS:
        found = [found[k * len(found) // MOST_REVISITS] for k in range(MOST_REVISITS)]
    return found


def consistency(
    frame: Callable[[int], UInt8[np.ndarray, "height width 3"]],
    neighbours: Sequence[Warp],
    revisits: Sequence[Warp],
) -> Consistency:
    """The errors of one method's frames. frame: pixels at the size of the cameras."""
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
    moved = _sampled(theirs, pair.grid, "bilinear")
    return float((ours - moved).abs().mean(dim=-1)[pair.visible].mean())


def _mean_error(
    frame: Callable[[int], UInt8[np.ndarray, "height width 3"]], pairs: Sequence[Warp]
) -> float | None:
    errors = []
    for pair in pairs:
        stop_if_requested("while comparing frames")
        errors.append(warp_error(frame(pair.target), frame(pair.source), pair))
    return float(np.mean(errors)) if errors else None


def _sampled(
    values: Float[Tensor, "height width channels"],
    grid: Float[Tensor, "rows columns 2"],
    mode: str,
) -> Float[Tensor, "rows columns channels"]:
    sampled = F.grid_sample(
        values.permute(2, 0, 1)[None],
        grid[None],
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].permute(1, 2, 0)
