"""Camera paths for video: through given views (``tour``), smoothly along and beyond them
(``spline``), around their focus (``orbit``).

In: cameras of captured or held-out photos, and the typical distance of the scene from them. Out:
``CameraPath``, cameras in the order of the video. A step between two frames is bounded in angle and
in translation relative to that distance, so that neighbouring frames overlap enough for a video
model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.transforms import (
    invert_rigid,
    look_at,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_angle,
)


@dataclass(frozen=True)
class StepLimits:
    """angle: radians between neighbouring frames. translation: relative to the typical distance.
    frames: of the whole path.

    When a path would need more than ``frames``, its steps grow evenly until it does not.
    """

    angle: float = math.radians(4)
    translation: float = 0.04
    frames: int = 400


@dataclass(frozen=True)
class CameraPath:
    """cameras: one per frame. stops: for each frame the index of the given view that stands exactly
    there, or None.
    """

    cameras: Cameras
    stops: tuple[int | None, ...]

    def __len__(self) -> int:
        return len(self.cameras)


#: Sub-samples of one segment between two views, for measuring its length.
_SAMPLES = 64

#: Upper bound of the ratio of the curve's length to the length measured on sub-samples.
_LENGTH_MARGIN = 1.02

#: Maximum number of captured views that a spline passes through; few, so that it is smooth.
_SPLINE_VIEWS = 8


def alike(cameras: Sequence[Cameras]) -> Cameras:
    """Single views of any sizes and lenses as one batch of the first one's size and lens model.

    Views of another size are scaled; views of another lens model get the first one's intrinsics and
    distortion.
    """
    first = cameras[0]
    resized = []
    for camera in cameras:
        if camera.model == first.model:
            resized.append(camera.resized(first.width, first.height))
        else:
            resized.append(replace(first, viewmats=camera.viewmats))
    return concatenate(resized)


def typical_distance(cameras: Cameras, points: Float[Tensor, "points 3"]) -> float | None:
    """Median camera z of the points that are inside a view's image, over all views; None when no
    point is.
    """
    pixels, depths, valid = cameras.project(points)
    size = pixels.new_tensor([cameras.width, cameras.height])
    inside = valid & (pixels >= 0).all(dim=-1) & (pixels < size).all(dim=-1)
    return float(depths[inside].median()) if bool(inside.any()) else None


def tour(views: Cameras, distance: float, limits: StepLimits | None = None) -> CameraPath:
    """A path exactly through all views, in an order with a short length.

    distance: typical distance of the scene from the views, world units, positive. More views than
    ``limits.frames`` are subsampled evenly.
    """
    limits = limits or StepLimits()
    order = short_order(views, distance)
    if len(order) > limits.frames:
        order = [
            order[round(k * (len(order) - 1) / (limits.frames - 1))] for k in range(limits.frames)
        ]
    return _through(views[order], [*order], distance, limits)


def spline(
    views: Cameras, distance: float, beyond: float = 0.3, limits: StepLimits | None = None
) -> CameraPath:
    """A smooth path along a few of the views and past both ends by ``beyond`` times the distance
    between the last two of them.
    """
    limits = limits or StepLimits()
    order = short_order(views, distance)
    keep = min(_SPLINE_VIEWS, len(order))
    chosen = [order[round(k * (len(order) - 1) / max(1, keep - 1))] for k in range(keep)]
    keys = views[chosen]
    stops: list[int | None] = [*chosen]
    if len(chosen) > 1 and beyond > 0:
        keys = concatenate(
            [_past(keys[1], keys[0], beyond), keys, _past(keys[-2], keys[-1], beyond)]
        )
        stops = [None, *stops, None]
    return _through(keys, stops, distance, limits)


def orbit(views: Cameras, frames: int = 120) -> CameraPath:
    """A full circle around the focus of the views at their mean height, distance and intrinsics; +y
    of the images stays down.
    """
    center, up = (
        focus_point(views),
        torch.nn.functional.normalize(-views.viewmats[:, 1, :3].mean(dim=0), dim=0),
    )
    offsets = views.centers - center
    heights = offsets @ up
    sideways = offsets - heights[:, None] * up
    radius = sideways.norm(dim=1).mean()
    start = (
        sideways[0] if sideways[0].norm() > 1e-6 * (1 + radius) else views.camera_to_world[0, :3, 0]
    )
    start = torch.nn.functional.normalize(start - (start @ up) * up, dim=0)
    side = torch.linalg.cross(up, start)
    angles = torch.arange(frames, dtype=start.dtype) * (2 * math.pi / frames)
    eyes = (
        center
        + heights.mean() * up
        + radius * (angles.cos()[:, None] * start + angles.sin()[:, None] * side)
    )
    viewmats = invert_rigid(look_at(eyes, center.expand_as(eyes), up))
    cameras = Cameras(
        viewmats,
        views.Ks.mean(dim=0).expand(frames, 3, 3),
        views.width,
        views.height,
        views.model,
        views.distortion.mean(dim=0).expand(frames, 8),
    )
    return CameraPath(cameras, (None,) * frames)


def timed(keys: Cameras, frames: Sequence[int]) -> CameraPath:
    """A smooth path through key views with a given number of frames from each to the next; each key
    view is a frame.

    frames: one number, at least 1, per segment.
    """
    assert len(frames) == len(keys) - 1, f"{len(frames)} segments between {len(keys)} views"
    if len(keys) == 1:
        return CameraPath(keys, (0,))
    curve = _Curve.through(keys)
    parts: list[Cameras] = []
    stops: list[int | None] = []
    for segment, count in enumerate(frames):
        t = torch.arange(1, count, dtype=torch.float64) / count
        parts.append(keys[segment])
        stops.append(segment)
        if count > 1:
            parts.append(curve.at(segment, t).to(dtype=keys.viewmats.dtype))
            stops.extend([None] * (count - 1))
    return CameraPath(concatenate([*parts, keys[-1]]), (*stops, len(keys) - 1))


def focus_point(views: Cameras) -> Float[Tensor, " 3"]:
    """The point nearest to all optical axes in the least-squares sense, kept in front of the views.

    For parallel axes, a point one camera spacing ahead of their mean.
    """
    axes = views.viewmats[:, 2, :3].double()
    centers = views.centers.double()
    # projects onto the plane across each axis
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None, :]
    matrix = across.sum(dim=0)
    spread = (centers - centers.mean(dim=0)).norm(dim=1).mean().clamp(min=1e-3)
    ahead = centers.mean(dim=0) + spread * torch.nn.functional.normalize(axes.sum(dim=0), dim=0)
    if torch.linalg.eigvalsh(matrix)[0] < 1e-3 * len(views):
        point_ahead: Tensor = ahead.to(views.viewmats.dtype)
        return point_ahead
    point = torch.linalg.solve(matrix, (across @ centers[:, :, None]).sum(dim=0))[:, 0]
    in_front = ((point - centers) * axes).sum(dim=1).median() > 0
    focus: Tensor = (point if in_front else ahead).to(views.viewmats.dtype)
    return focus


def short_order(views: Cameras, distance: float) -> list[int]:
    """An order of the views with a short path: nearest neighbours from an outermost view, then
    2-opt until nothing improves.

    The length between two views is their translation over ``distance`` plus their angle in radians.
    """
    count = len(views)
    rotations, centers = views.viewmats[:, :3, :3].double(), views.centers.double()
    way = torch.cdist(centers, centers) / distance + rotation_angle(
        rotations[:, None], rotations[None]
    )
    order = [int(way.sum(dim=1).argmax())]
    while len(order) < count:
        row = way[order[-1]].clone()
        row[order] = math.inf
        order.append(int(row.argmin()))
    cost = way.tolist()  # plain numbers: the loop below looks up single ones
    improved = True
    while improved:
        improved = False
        for first in range(count - 1):
            for last in range(first + 1, count):
                gain = 0.0
                if first:
                    gain += (
                        cost[order[first - 1]][order[first]] - cost[order[first - 1]][order[last]]
                    )
                if last + 1 < count:
                    gain += cost[order[last]][order[last + 1]] - cost[order[first]][order[last + 1]]
                if gain > 1e-9:
                    order[first : last + 1] = order[first : last + 1][::-1]
                    improved = True
    return order if order[0] <= order[-1] else order[::-1]


def _through(
    keys: Cameras, stops: Sequence[int | None], distance: float, limits: StepLimits
) -> CameraPath:
    """Frames along a smooth curve through the key views, each key view a frame of its own."""
    if len(keys) == 1:
        return CameraPath(keys, (stops[0],))
    curve = _Curve.through(keys)
    grid = torch.linspace(0, 1, _SAMPLES + 1, dtype=torch.float64)
    lengths, ways = [], []
    for segment in range(len(keys) - 1):
        sampled = curve.at(segment, grid)
        steps = torch.maximum(
            rotation_angle(sampled.viewmats[1:, :3, :3], sampled.viewmats[:-1, :3, :3])
            / limits.angle,
            (sampled.centers[1:] - sampled.centers[:-1]).norm(dim=1)
            / (limits.translation * distance),
        )
        ways.append(torch.cat([steps.new_zeros(1), steps.cumsum(0)]))
        lengths.append(float(ways[-1][-1]) * _LENGTH_MARGIN)
    counts = _step_counts(lengths, limits.frames)
    parts, marks = [], []
    for segment, (way, count) in enumerate(zip(ways, counts, strict=True)):
        wanted = torch.arange(count, dtype=torch.float64) / count * way[-1]
        parts.append(curve.at(segment, _inverse(way, grid, wanted)))
        marks.extend([stops[segment], *[None] * (count - 1)])
    path = concatenate(parts).to(dtype=keys.viewmats.dtype)
    path = concatenate([path, keys[-1]])
    marks.append(stops[-1])
    exact = [sum(counts[:segment]) for segment in range(len(counts))]
    viewmats, Ks, distortion = path.viewmats.clone(), path.Ks.clone(), path.distortion.clone()
    viewmats[exact], Ks[exact], distortion[exact] = (
        keys.viewmats[:-1],
        keys.Ks[:-1],
        keys.distortion[:-1],
    )
    return CameraPath(replace(path, viewmats=viewmats, Ks=Ks, distortion=distortion), tuple(marks))


def _step_counts(lengths: Sequence[float], frames: int) -> list[int]:
    """Steps per segment: at least one, as many as its length asks for, shrunk evenly when the path
    would exceed ``frames``.
    """
    stretch = 1.0
    while True:
        counts = [max(1, math.ceil(length / stretch)) for length in lengths]
        if sum(counts) + 1 <= frames or max(counts) == 1:
            return counts
        stretch *= 1.02


def _inverse(
    way: Float[Tensor, " samples"], grid: Float[Tensor, " samples"], wanted: Float[Tensor, " steps"]
) -> Float[Tensor, " steps"]:
    """Curve parameters at which the way reaches the wanted lengths (linear between samples)."""
    right = torch.searchsorted(way, wanted, right=True).clamp(1, len(way) - 1)
    low, high = way[right - 1], way[right]
    fraction = (wanted - low) / (high - low).clamp(min=1e-12)
    return grid[right - 1] + fraction.clamp(0, 1) * (grid[right] - grid[right - 1])


@dataclass(frozen=True)
class _Curve:
    """Cubic Hermite curve through key views; tangents as in a Catmull-Rom spline with knots at the
    distance between keys.

    values: ``[keys channels]``: centre 3, quaternion 4 (signs aligned), fx fy cx cy, distortion 8.
    slopes: the same, per unit of knot.
    """

    keys: Cameras
    values: Float[Tensor, "keys channels"]
    slopes: Float[Tensor, "keys channels"]
    knots: Float[Tensor, " keys"]

    @staticmethod
    def through(keys: Cameras) -> _Curve:
        exact = keys.to(dtype=torch.float64)
        pose = exact.camera_to_world
        quats = matrix_to_quaternion(pose[:, :3, :3])
        for key in range(1, len(keys)):
            if quats[key] @ quats[key - 1] < 0:
                quats[key] = -quats[key]
        intrinsics = exact.Ks[:, [0, 1, 0, 1], [0, 1, 2, 2]]
        values = torch.cat([pose[:, :3, 3], quats, intrinsics, exact.distortion], dim=1)
        scale = (pose[1:, :3, 3] - pose[:-1, :3, 3]).norm(dim=1)
        turn = (quats[1:] - quats[:-1]).norm(dim=1)
        gaps = scale / scale.mean().clamp(min=1e-9) + turn / turn.mean().clamp(min=1e-9) + 1e-3
        knots = torch.cat([gaps.new_zeros(1), gaps.cumsum(0)])
        chords = (values[1:] - values[:-1]) / gaps[:, None]
        slopes = torch.zeros_like(values)
        slopes[0], slopes[-1] = chords[0], chords[-1]
        before, after = gaps[:-1, None], gaps[1:, None]
        slopes[1:-1] = (after * chords[:-1] + before * chords[1:]) / (before + after)
        return _Curve(keys, values, slopes, knots)

    def at(self, segment: int, t: Float[Tensor, " samples"]) -> Cameras:
        """Views at parameters in [0,1] of one segment, float64."""
        gap = self.knots[segment + 1] - self.knots[segment]
        t = t[:, None]
        t2, t3 = t * t, t * t * t
        values = (
            (2 * t3 - 3 * t2 + 1) * self.values[segment]
            + (t3 - 2 * t2 + t) * gap * self.slopes[segment]
            + (3 * t2 - 2 * t3) * self.values[segment + 1]
            + (t3 - t2) * gap * self.slopes[segment + 1]
        )
        pose = torch.zeros(len(t), 4, 4, dtype=torch.float64)
        pose[:, :3, :3] = quaternion_to_matrix(values[:, 3:7])
        pose[:, :3, 3] = values[:, :3]
        pose[:, 3, 3] = 1
        Ks = torch.zeros(len(t), 3, 3, dtype=torch.float64)
        Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2] = values[:, 7:11].unbind(dim=1)
        Ks[:, 2, 2] = 1
        return Cameras(
            invert_rigid(pose),
            Ks,
            self.keys.width,
            self.keys.height,
            self.keys.model,
            values[:, 11:],
        )


def _past(inner: Cameras, end: Cameras, beyond: float) -> Cameras:
    """A view past ``end`` by the fraction ``beyond`` of the way from ``inner`` to it; rotation goes
    on as well.
    """
    inner_pose, pose = inner.camera_to_world[0], end.camera_to_world[0].clone()
    pose[:3, 3] += beyond * (pose[:3, 3] - inner_pose[:3, 3])
    a, b = matrix_to_quaternion(inner_pose[:3, :3]), matrix_to_quaternion(pose[:3, :3])
    if a @ b < 0:
        a = -a
    pose[:3, :3] = quaternion_to_matrix(b + beyond * (b - a))
    return replace(end, viewmats=invert_rigid(pose[None]))
