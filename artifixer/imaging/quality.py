"""Quality of predicted frames: figures per view, and squared errors pooled over pixels and regions.

In: predictions, photos and the opacity of the model's input render, all uint8. Out: figures from
running sums, so that memory does not grow with the number of frames. Evaluation, training
validation and the report use this module. Means over frames are dominated by easy frames, pooled
figures (one squared error over all pixels) by hard ones; separate figures for opaque and empty
pixels show where a method gains. PSNR and SSIM are defined in ``imaging/metrics``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from artifixer.imaging.metrics import psnr, ssim_map

#: Pixels of the render above the first opacity count as opaque, below the second as empty.
OPAQUE_ABOVE = 0.9
EMPTY_BELOW = 0.1

#: Frames whose render has a lower PSNR count as hard, dB.
HARD_BELOW = 20.0

#: PSNR is clamped to this before averaging, dB: one perfect frame would make the mean infinite.
MAX_PSNR = 60.0

Frames = UInt8[Tensor, "*frames height width 3"]
Opacity = UInt8[Tensor, "*frames height width"]


@dataclass(frozen=True)
class RenderQuality:
    """Figures of one render of splats."""

    photo: str
    """Name of the photo."""

    psnr: float
    """dB; infinite where prediction and photo are equal."""

    ssim: float


@dataclass(frozen=True)
class ViewQuality(RenderQuality):
    """Figures of one predicted view."""

    lpips_vgg01: float | None
    """None without the network, as for ``lpips_alex``."""

    lpips_alex: float | None

    empty: float
    """Fraction of the pixels that are empty in the render."""


@dataclass
class SquaredError:
    """Exact sums of squared errors of 8-bit values over selected pixels, all channels."""

    total: int = 0
    values: int = 0

    def add(
        self, squared: Int[Tensor, "*frames height width"], where: Bool[Tensor, "*frames h w"]
    ) -> None:
        """Accumulate the pixels ``where``. squared: per pixel the sum over three channels."""
        self.total += int(squared[where].sum())
        self.values += 3 * int(where.sum())

    def psnr(self) -> float | None:
        """10 log10(255^2 / mean squared error); None without pixels, infinite without error."""
        if not self.values:
            return None
        return 10 * math.log10(255**2 * self.values / self.total) if self.total else math.inf


@dataclass
class RegionErrors:
    """Squared errors pooled over all pixels, opaque and empty ones."""

    pooled: SquaredError = field(default_factory=SquaredError)
    opaque: SquaredError = field(default_factory=SquaredError)
    empty: SquaredError = field(default_factory=SquaredError)

    def add(
        self,
        frames: Frames,
        truth: Frames,
        opacity: Opacity,
        counts: Bool[Tensor, "*frames height width"] | None = None,
    ) -> None:
        """Accumulate a frame or a clip. counts: mask of the pixels; None for all."""
        if counts is None:
            counts = torch.ones_like(opacity, dtype=torch.bool)
        squared = squared_differences(frames, truth)
        self.pooled.add(squared, counts)
        self.opaque.add(squared, counts & is_opaque(opacity))
        self.empty.add(squared, counts & is_empty(opacity))


def squared_differences(frames: Frames, truth: Frames) -> Int[Tensor, "*frames height width"]:
    """Per pixel, sum over channels of the squared differences of 8-bit values."""
    return (frames.long() - truth.long()).square().sum(dim=-1)


def is_opaque(opacity: Opacity) -> Bool[Tensor, "*frames height width"]:
    """Pixels where the render is opaque."""
    return opacity > OPAQUE_ABOVE * 255


def is_empty(opacity: Opacity) -> Bool[Tensor, "*frames height width"]:
    """Pixels where the render is empty."""
    return opacity < EMPTY_BELOW * 255


def clamped_psnr(frames: Frames, truth: Frames) -> Float[Tensor, "*frames"]:
    """PSNR of each frame, dB, at most ``MAX_PSNR``."""
    return psnr(frames.float() / 255, truth.float() / 255).clamp(max=MAX_PSNR)


def decibels(error: float) -> float:
    """PSNR of a mean squared error of [0,1] colours, at most ``MAX_PSNR``."""
    return float(-10 * np.log10(max(error, 10 ** (-MAX_PSNR / 10))))


@dataclass
class ClipQuality:
    """Figures over the frames of several clips."""

    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    errors: RegionErrors = field(default_factory=RegionErrors)
    ssim_sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By region: sum of the local similarity of its pixels, and how many there are."""

    def add(self, frames: Frames, truth: Frames, opacity: Opacity) -> None:
        """Accumulate a clip."""
        self.psnr += clamped_psnr(frames, truth).tolist()
        similarity = ssim_map(frames.float() / 255, truth.float() / 255).mean(dim=-1)
        self.ssim += similarity.mean(dim=(-2, -1)).reshape(-1).tolist()
        self.errors.add(frames, truth, opacity)
        everywhere = torch.ones_like(opacity, dtype=torch.bool)
        for name, where in (
            ("pooled", everywhere),
            ("opaque", is_opaque(opacity)),
            ("empty", is_empty(opacity)),
        ):
            total, count = self.ssim_sums.get(name, (0.0, 0))
            values = similarity[where]
            self.ssim_sums[name] = (total + float(values.double().sum()), count + values.numel())

    def figures(self, hard: Sequence[bool]) -> dict[str, float]:
        """PSNR in dB: mean over frames, over hard frames, and of the pooled error of all, opaque
        and empty pixels; SSIM alike: ``ssim`` is the mean over frames. hard: one entry per frame.
        """
        figures = {"psnr_mean": float(np.mean(self.psnr)), "ssim": float(np.mean(self.ssim))}
        for label, values in (("psnr_hard", self.psnr), ("ssim_hard", self.ssim)):
            chosen = [value for value, is_hard in zip(values, hard, strict=True) if is_hard]
            if chosen:
                figures[label] = float(np.mean(chosen))
        for name, (total, count) in self.ssim_sums.items():
            if count:
                figures[f"ssim_{name}"] = total / count
        for name in ("pooled", "opaque", "empty"):
            error: SquaredError = getattr(self.errors, name)
            if (value := error.psnr()) is not None:
                figures[f"psnr_{name}"] = min(value, MAX_PSNR)
        return figures


class PartQuality:
    """Squared errors by part of the clip and level of opacity: measures whether quality drifts
    along the clip.

    Parts show different content, so their errors are compared at equal opacity: the mean error at
    each level of opacity, weighted by the number of pixels of all parts at it. Levels that are
    missing in any part are omitted.
    """

    def __init__(self, parts: int = 3, levels: int = 10) -> None:
        self.squared = torch.zeros(parts, levels, dtype=torch.float64)
        self.pixels = torch.zeros(parts, levels, dtype=torch.float64)

    def add(self, frames: Frames, truth: Frames, opacity: Opacity) -> None:
        """Accumulate a clip, split into parts of nearly equal length."""
        parts, levels = self.squared.shape
        error = (frames.double() - truth.double()).div(255).square().mean(dim=-1)
        level = opacity.long() * levels // 256
        for part, (errors, places) in enumerate(
            zip(error.tensor_split(parts), level.tensor_split(parts), strict=True)
        ):
            self.squared[part] += torch.bincount(
                places.flatten(), errors.flatten(), minlength=levels
            )
            self.pixels[part] += torch.bincount(places.flatten(), minlength=levels)

    def psnr(self) -> tuple[float, ...]:
        """Pooled PSNR of each part at equal opacity, dB; NaN when the parts share no level."""
        shared = (self.pixels > 0).all(dim=0)
        weights = self.pixels.sum(dim=0)[shared]
        errors = (self.squared[:, shared] / self.pixels[:, shared] * weights).sum(
            dim=1
        ) / weights.sum()
        return tuple(decibels(error) for error in errors.tolist())
