"""Figures of invented content: tile ratio, seam, and perceptual distance inside a region.

In: frames in [0,1], ``[*frames height width 3]``, and the pixels that count. Out: ratios of running
sums, so that memory does not grow with the number of frames. None of these figures alone measures
quality (noise has no seam, a blur has no tiles): they detect artifacts and complement a blind
comparison by people. Not in the paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

#: Width of the band around opaque pixels in which generated content has to continue them, pixels.
BAND = 16

#: Maximum distance, pixels, of an opaque and an empty pixel from the place between them where
#: opacity crosses one half.
BORDER_REACH = 4

Frames = Float[Tensor, "*frames height width 3"]
Places = Bool[Tensor, "*frames height width"]

#: Distance of image pairs, ``[frames height width 3]`` twice -> ``[frames]``.
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Mean:
    """A mean from running sums; None without values."""

    total: float = 0.0
    count: float = 0.0

    def add(self, values: Tensor) -> None:
        """Accumulate all values."""
        self.total += float(values.double().sum())
        self.count += values.numel()

    def add_weighted(self, value: float, weight: float) -> None:
        """Accumulate one value ``weight`` times."""
        self.total += value * weight
        self.count += weight

    def value(self) -> float | None:
        return self.total / self.count if self.count else None


@dataclass
class TileRatio:
    """Mean gradient across token borders divided by that elsewhere, in chosen pixels: 1 without
    visible tiles, above 1 where neighbouring tokens differ.
    """

    token: int
    """Side of a token in pixels of the frames."""

    border: Mean = field(default_factory=Mean)
    elsewhere: Mean = field(default_factory=Mean)

    def add(self, frames: Frames, where: Places) -> None:
        """Accumulate pairs of neighbouring pixels that are both in ``where``."""
        for axis in (-2, -1):
            gradient, both = _differences(frames, where, axis)
            second = torch.arange(1, gradient.shape[axis] + 1, device=frames.device)
            at_border = second % self.token == 0
            at_border = at_border[:, None] if axis == -2 else at_border[None, :]
            at_border = at_border.expand(gradient.shape)
            self.border.add(gradient[both & at_border])
            self.elsewhere.add(gradient[both & ~at_border])

    def value(self) -> float | None:
        """None without pixels, or without any gradient away from token borders."""
        border, elsewhere = self.border.value(), self.elsewhere.value()
        return None if border is None or not elsewhere else border / elsewhere


@dataclass
class Seam:
    """Mean gradient across the border between opaque and empty pixels divided by the truth's there:
    1 as in the truth, above 1 for a visible edge, below 1 for a blur."""

    frames: Mean = field(default_factory=Mean)
    truth: Mean = field(default_factory=Mean)

    def add(self, frames: Frames, truth: Frames, opacity: Float[Tensor, "*frames h w"]) -> None:
        """Accumulate the places where opacity crosses one half between opaque and empty pixels."""
        near = near_border(opacity)
        for axis in (-2, -1):
            high = opacity > 0.5
            first, second = _neighbours(high, axis)
            _, both = _differences(frames, near, axis)
            crossing = (first != second) & both
            for mean, images in ((self.frames, frames), (self.truth, truth)):
                gradient, _ = _differences(images, near, axis)
                mean.add(gradient[crossing])

    def value(self) -> float | None:
        """None without a border, or where the truth is flat along it."""
        ours, theirs = self.frames.value(), self.truth.value()
        return None if ours is None or not theirs else ours / theirs


def near_border(opacity: Float[Tensor, "*frames height width"]) -> Places:
    """Pixels with both an opaque (> 0.9) and an empty (< 0.1) one within ``BORDER_REACH``."""
    return grown(opacity > 0.9, BORDER_REACH) & grown(opacity < 0.1, BORDER_REACH)


def grown(places: Places, reach: int) -> Places:
    """The pixels, and those at most ``reach`` rows and columns away."""
    planes = places.reshape(-1, 1, *places.shape[-2:]).float()
    return (F.max_pool2d(planes, 2 * reach + 1, 1, reach) > 0).reshape(places.shape)


def region_distance(
    distance: Distance, frames: Frames, others: Frames, where: Places
) -> tuple[Float[Tensor, " images"], Float[Tensor, " images"]]:
    """Distance of the frames inside a region, and the region's fraction of the image.

    Outside the region both images are set to ``others``, and the distance of the whole image is
    divided by the region's fraction. The distance is 0 where the fraction is 0.
    """
    flat, theirs = (images.reshape(-1, *images.shape[-3:]) for images in (frames, others))
    places = where.reshape(-1, *where.shape[-2:])
    share = places.float().mean(dim=(1, 2))
    inside = torch.where(places[..., None], flat, theirs)
    with torch.no_grad():
        whole = distance(inside, theirs)
    return torch.where(share > 0, whole / share.clamp(min=1e-9), torch.zeros_like(whole)), share


def empty_crops(
    where: Bool[Tensor, "height width"], side: int, least: float
) -> list[tuple[int, int]]:
    """(top, left) of the square crops, half a side apart, whose fraction of pixels in ``where`` is
    at least ``least``.
    """
    height, width = where.shape
    step = max(1, side // 2)
    places = [
        (top, left)
        for top in range(0, height - side + 1, step)
        for left in range(0, width - side + 1, step)
    ]
    return [
        (top, left)
        for top, left in places
        if float(where[top : top + side, left : left + side].float().mean()) >= least
    ]


def _differences(
    frames: Frames, where: Places, axis: int
) -> tuple[Float[Tensor, "*frames rows columns"], Bool[Tensor, "*frames rows columns"]]:
    """Mean absolute difference over channels between neighbours along an axis, -1 or -2, and
    whether both are in ``where``.
    """
    first, second = _neighbours(frames, axis - 1)
    one, other = _neighbours(where, axis)
    return (second - first).abs().mean(dim=-1), one & other


def _neighbours(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    length = values.shape[axis]
    return values.narrow(axis, 0, length - 1), values.narrow(axis, 1, length - 1)
