"""Initial Gaussians: at sparse points observed by the training photos, and at pixels of the photos
back-projected to a plausible depth.

Structure from motion leaves few points where views are few, so points are added along the training
photos' pixels, at the depth of the sparse points seen nearby, with the pixel's colour. Nothing is
placed where no training photo looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.scenes.scene import Photo, SparsePoints
from artifixer.scenes.view import View
from artifixer.splats.splats import SH_BASE, SH_COEFFICIENTS, Splats


@dataclass(frozen=True)
class InitialConfig:
    """Settings of the initial Gaussians."""

    observed_by: int = 2
    """Minimum number of training photos that observe a sparse point, where tracks are known."""
    points: int = 3000
    """Minimum number of points in all; pixels are added to reach it."""
    depth_neighbours: int = 3
    """Number of sparse points, nearest in the image, between which a pixel's depth is
    interpolated."""
    depth_noise: float = 0.03
    """Relative standard deviation of that depth."""
    opacity: float = 0.3
    """Opacity of every initial Gaussian."""
    scale: float = 0.7
    """Standard deviation relative to the mean distance to the nearest points."""
    max_scale: float = 0.1
    """Upper bound of the standard deviation, relative to the scene's extent."""


@dataclass(frozen=True)
class ColoredPoints:
    """xyz in world units ``[points 3]``, rgb in [0,1] ``[points 3]``, both float32."""

    xyz: Float[Tensor, "points 3"]
    rgb: Float[Tensor, "points 3"]

    def __len__(self) -> int:
        return len(self.xyz)

    @staticmethod
    def of(xyz: Float[Tensor, "points 3"], rgb: UInt8[Tensor, "points 3"]) -> ColoredPoints:
        return ColoredPoints(xyz.to(torch.float32), rgb.to(torch.float32) / 255)

    def joined(self, other: ColoredPoints) -> ColoredPoints:
        return ColoredPoints(torch.cat([self.xyz, other.xyz]), torch.cat([self.rgb, other.rgb]))


def seen_points(points: SparsePoints, training: Sequence[int], observed_by: int) -> ColoredPoints:
    """Sparse points that at least ``observed_by`` of the training views saw; all of them when the
    capture has no tracks.
    """
    if not points.has_tracks:
        return ColoredPoints.of(points.xyz, points.rgb)
    in_training = torch.isin(points.observed_view, torch.tensor(list(training)))
    pairs = torch.unique(
        torch.stack([points.observed_point[in_training], points.observed_view[in_training]]), dim=1
    )
    views = torch.bincount(pairs[0], minlength=len(points))
    keep = views >= min(observed_by, len(training))
    return ColoredPoints.of(points.xyz[keep], points.rgb[keep])


def scene_extent(cameras: Sequence[Cameras], points: ColoredPoints) -> float:
    """Size of the reconstructed scene, world units: the unit of learning rates and regularisers.

    The larger of 1.1 x the farthest camera's distance from the cameras' mean (as in 3DGS) and half
    the median depth of the points: otherwise the step sizes of a large scene captured by a few
    cameras close together would be too small.
    """
    centers = torch.cat([camera.centers for camera in cameras])
    spread = 1.1 * (centers - centers.mean(dim=0)).norm(dim=1).max()
    if len(points) == 0:
        return float(spread) if spread > 0 else 1.0
    depths = torch.cat([_visible_depths(camera, points)[1] for camera in cameras])
    return float(torch.maximum(spread, 0.5 * depths.median())) if len(depths) else float(spread)


def add_pixels(
    points: ColoredPoints,
    views: Sequence[View],
    config: InitialConfig,
    generator: torch.Generator,
) -> ColoredPoints:
    """The points, and random pixels of the photos back-projected to the depth of nearby points, up
    to ``config.points`` in all.

    Views in which no point is visible use the depths of the other views; without any point, depths
    are drawn around the distance between the cameras.
    """
    wanted = config.points - len(points)
    if wanted <= 0:
        return points
    spread = torch.cat([view.camera.centers for view in views]).std(dim=0).norm()
    fallback = (
        torch.cat([_visible_depths(view.camera, points)[1] for view in views])
        if len(points)
        else torch.zeros(0)
    )
    if len(fallback) == 0:
        fallback = (spread if spread > 0 else torch.tensor(1.0)) * torch.linspace(0.5, 4.0, 64)
    added = [points]
    for position, view in enumerate(views):
        camera = view.camera
        count = wanted // len(views) + (position < wanted % len(views))
        seen = _shown(view.photo)
        if seen is None:
            pixels = torch.rand(count, 2, generator=generator) * torch.tensor(
                [camera.width, camera.height]
            )
        elif len(seen):
            chosen = seen[torch.randint(len(seen), (count,), generator=generator)]
            pixels = chosen + torch.rand(count, 2, generator=generator)
        else:
            continue
        depths = _depths_at(pixels, camera, points, fallback, config.depth_neighbours, generator)
        depths = depths * (1 + config.depth_noise * torch.randn(count, generator=generator)).clamp(
            0.5, 1.5
        )
        directions = camera.unproject(pixels[None])[0]
        in_camera = directions / directions[:, 2:] * depths[:, None]
        pose = camera.camera_to_world[0]
        colors = view.photo.pixels()[pixels[:, 1].long(), pixels[:, 0].long()]
        added.append(ColoredPoints(in_camera @ pose[:3, :3].mT + pose[:3, 3], colors))
    together = added[0]
    for more in added[1:]:
        together = together.joined(more)
    return together


def _shown(photo: Photo) -> Int[Tensor, "pixels 2"] | None:
    """Column and row of the unmasked opaque pixels; None for all pixels."""
    layers = [layer for layer in (photo.mask, photo.opacity) if layer is not None]
    if not layers:
        return None
    counts = torch.stack([torch.from_numpy(layer()) > 127 for layer in layers]).all(dim=0)
    return counts.nonzero().flip(1)


def splats_at(
    points: ColoredPoints, sh_degree: int, extent: float, config: InitialConfig
) -> Splats:
    """Isotropic Gaussians at the points, with scales proportional to the mean distance to their
    three nearest neighbours.
    """
    from scipy.spatial import cKDTree

    count = len(points)
    neighbours = min(4, count)
    distances = (
        cKDTree(points.xyz.numpy())
        .query(points.xyz.numpy(), k=neighbours)[0]
        .reshape(count, neighbours)
    )
    nearest = torch.from_numpy(
        distances[:, 1:].mean(axis=1) if neighbours > 1 else np.full(count, extent)
    ).to(torch.float32)
    scales = (config.scale * nearest).clamp(1e-4 * extent, config.max_scale * extent)
    sh = torch.zeros(count, SH_COEFFICIENTS[sh_degree], 3)
    sh[:, 0] = (points.rgb - 0.5) / SH_BASE
    return Splats(
        means=points.xyz.clone(),
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        log_scales=scales.log()[:, None].repeat(1, 3),
        opacity_logits=torch.logit(torch.full((count,), config.opacity)),
        sh=sh,
    )


def _visible_depths(
    camera: Cameras, points: ColoredPoints
) -> tuple[Float[Tensor, "visible 2"], Float[Tensor, " visible"]]:
    """Pixels and camera depths of the points inside one view, occlusion ignored."""
    pixels, depths, valid = camera.project(points.xyz)
    pixels, depths, valid = pixels[0], depths[0], valid[0]
    inside = (
        (pixels >= 0).all(dim=1) & (pixels[:, 0] < camera.width) & (pixels[:, 1] < camera.height)
    )
    visible = valid & inside & (depths > 0)
    return pixels[visible], depths[visible]


def _depths_at(
    pixels: Float[Tensor, "count 2"],
    camera: Cameras,
    points: ColoredPoints,
    fallback: Float[Tensor, " depths"],
    neighbours: int,
    generator: torch.Generator,
) -> Float[Tensor, " count"]:
    """Camera depth at pixels: inverse-distance mean of the nearest visible points, or a draw from
    ``fallback``.
    """
    from scipy.spatial import cKDTree

    known, depths = (
        _visible_depths(camera, points) if len(points) else (torch.zeros(0, 2), torch.zeros(0))
    )
    if len(known) == 0:
        return fallback[torch.randint(len(fallback), (len(pixels),), generator=generator)]
    k = min(neighbours, len(known))
    distances, nearest = cKDTree(known.numpy()).query(pixels.numpy(), k=k)
    weights = torch.from_numpy(1 / (np.asarray(distances).reshape(-1, k) + 1.0)).to(torch.float32)
    chosen = depths[torch.from_numpy(np.asarray(nearest).reshape(-1, k))]
    return (weights * chosen).sum(dim=1) / weights.sum(dim=1)
