"""Figures of generated content: metrics of candidates' frames over opaque and empty pixels, with
controls that show which metrics are reliable.

In: clips of renders with the photos (and the exact depth, if it is known) of the same views, and
candidates' frames. Out: one row of figures per candidate, and for each figure whether a control
(noise or dots over a smooth fill, which no viewer prefers) beats all baselines: such a figure does
not measure quality and is discarded. Not in the paper. Regions: ``imaging/quality``.

Figures, by name:

``psnr_*``, ``ssim*``  ``imaging/quality``: mean, pooled, hard (render below 20 dB), opaque, empty
``st_lpips_band``      ST-LPIPS in opaque pixels and ``BAND`` pixels around them
``st_lpips_empty``     the same in empty pixels; prefers noise, meaningful only with the controls
``kd_empty``           1000 x KD (EfficientNet-Lite0) of crops that are mostly empty
``tile_ratio``         ratio of gradients across token borders to others, in empty pixels
``tile_ratio_shown``   the same in all other pixels
``seam``               gradient across borders of opaque and empty, relative to the truth's
``stability``          warp error (true depth) of empty pixels, relative to the truth's
``seeds_empty``, ``seeds_opaque``  ST-LPIPS between two seeds: diversity, not quality
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from artifixer.evaluation.consistency import Sequence3d, Warp, warp
from artifixer.evaluation.inpainting import METHODS, inpaint
from artifixer.geometry.cameras import Cameras
from artifixer.imaging.invention import (
    BAND,
    Distance,
    Mean,
    Seam,
    TileRatio,
    empty_crops,
    grown,
    region_distance,
)
from artifixer.imaging.perceptual import KD_CROPS, ContentFeatures, kernel_distance
from artifixer.imaging.push_pull import push_pull_fill
from artifixer.imaging.quality import HARD_BELOW, ClipQuality, is_empty, is_opaque
from artifixer.runtime.counts import counted
from artifixer.runtime.seeds import generator
from artifixer.training.validation import Baseline

Frames = UInt8[Tensor, "frames height width 3"]

#: Whether a figure is better when it is higher, lower, or nearer to 1.
Better = Literal["higher", "lower", "one"]

#: Figures that measure quality, and which values are better.
BETTER: dict[str, Better] = {
    "psnr_mean": "higher",
    "psnr_pooled": "higher",
    "psnr_hard": "higher",
    "psnr_opaque": "higher",
    "psnr_empty": "higher",
    "ssim": "higher",
    "ssim_pooled": "higher",
    "ssim_hard": "higher",
    "ssim_opaque": "higher",
    "ssim_empty": "higher",
    "st_lpips_band": "lower",
    "st_lpips_empty": "lower",
    "kd_empty": "lower",
    "tile_ratio": "one",
    "tile_ratio_shown": "one",
    "seam": "one",
    "stability": "lower",
}

#: All columns, in order.
COLUMNS = (*BETTER, "seeds_empty", "seeds_opaque")

#: Side of the crops for KD before they are upsampled, pixels, and their minimum fraction of empty
#: pixels.
CROP_SIDE, CROP_EMPTY = 48, 0.6

#: Distances in frames between warped frames.
WARP_STEPS = (1, 2)

#: Standard deviation of the noise control, and the grain sizes of its octaves in pixels. Of seven
#: kinds of noise, this one has the best ST-LPIPS in empty pixels; it resembles the output of an
#: untrained generator.
NOISE, NOISE_GRAINS = 0.1, (2, 4, 8, 16)

#: Spacing of the dots of the other control, pixels, and their added brightness.
DOT_SPACING, DOT_CONTRAST = 8, 0.15

#: Minimum relative margin by which a control beats the best other candidate, because of rounding at
#: the borders of regions.
WIN_MARGIN = 1e-3


@dataclass(frozen=True)
class MeasuredClip:
    """Renders along a path and the photos at the same cameras."""

    name: str

    truth: Frames
    """Photos."""

    renders: Frames
    """Premultiplied on black."""

    opacity: UInt8[Tensor, "frames height width"]

    cameras: Sequence[Cameras]
    """A single view per frame."""

    depths: Float[np.ndarray, "frames height width"] | None = None
    """Exact camera z in world units, infinite for sky and NaN where it is unknown; None where the
    capture has no depth."""

    def __post_init__(self) -> None:
        assert self.truth.shape == self.renders.shape == (*self.opacity.shape, 3), self.name
        assert len(self.cameras) == len(self.truth), self.name
        assert self.depths is None or self.depths.shape == self.opacity.shape, self.name

    def filled(self, baseline: Baseline) -> Frames:
        """Frames of a method that processes one render at a time."""
        return torch.from_numpy(
            np.stack(
                [
                    baseline(render, opacity)
                    for render, opacity in zip(
                        self.renders.numpy(), self.opacity.numpy(), strict=True
                    )
                ]
            )
        )


#: Methods without a model, which a model has to beat.
BASELINE_METHODS: dict[str, Baseline] = {
    method: partial(inpaint, method=method) for method in METHODS
}


def noise_control(clip: MeasuredClip, seed: int = 0) -> Frames:
    """Coloured noise over the push-pull fill, different in each frame."""
    frames, height, width = clip.opacity.shape
    random = generator(seed, f"noise control of {clip.name}")
    noise = torch.zeros(frames, 3, height, width)
    for grain in NOISE_GRAINS:
        coarse = torch.randn(frames, 3, -(-height // grain), -(-width // grain), generator=random)
        fine = F.interpolate(coarse, scale_factor=grain, mode="bilinear")
        noise += fine[..., :height, :width]
    noise *= NOISE / math.sqrt(len(NOISE_GRAINS))
    return _over_fill(clip, noise.permute(0, 2, 3, 1))


def dots_control(clip: MeasuredClip, seed: int = 0) -> Frames:
    """A lattice of bright dots over the push-pull fill; the seed shifts the lattice."""
    frames, height, width = clip.opacity.shape
    dots = torch.zeros(frames, height, width, 1)
    first = seed % DOT_SPACING
    for offset in (0, 1):
        dots[:, first + offset :: DOT_SPACING, first::DOT_SPACING] = DOT_CONTRAST
        dots[:, first + offset :: DOT_SPACING, first + 1 :: DOT_SPACING] = DOT_CONTRAST
    return _over_fill(clip, dots)


#: Controls, which no viewer prefers: a figure in which one of them is best is discarded.
CONTROLS = {"noise": noise_control, "dots": dots_control}


@dataclass(frozen=True)
class InventionNetworks:
    """Networks of learned metrics; None where weights are missing. notes: one line for each."""

    distance: Distance | None = None
    features: ContentFeatures | None = None
    notes: tuple[str, ...] = ()


class InventionMeasure:
    """Running figures of candidates over clips.

    token: side of a model's token in pixels of the frames, for the tile ratio. networks: of learned
    metrics; figures without a network are None.
    """

    def __init__(self, token: int, networks: InventionNetworks | None = None) -> None:
        self._token = token
        self._networks = networks or InventionNetworks()
        self._rows: dict[str, _Row] = {}
        self._hard: list[bool] = []
        self._truth_crops: list[Tensor] = []
        self._warps: list[tuple[Warp, Bool[Tensor, "h w"]]] = []
        self._clip: MeasuredClip | None = None
        self.clips = 0

    def begin(self, clip: MeasuredClip) -> None:
        """Start a clip, and compute what all candidates share."""
        self._clip = clip
        self.clips += 1
        quality = ClipQuality()
        quality.add(clip.renders, clip.truth, clip.opacity)
        self._hard += [value < HARD_BELOW for value in quality.psnr]
        self._truth_crops += self._crops(clip.truth, clip)
        self._warps = empty_warps(clip)

    def add(self, candidate: str, frames: Frames, other_seed: Frames | None = None) -> None:
        """Accumulate a candidate's frames of the current clip. other_seed: frames of the same
        candidate from another seed."""
        clip = self._clip
        assert clip is not None, "begin a clip first"
        assert frames.dtype == torch.uint8 and frames.shape == clip.truth.shape, candidate
        row = self._rows.setdefault(candidate, _Row(TileRatio(self._token), TileRatio(self._token)))
        ours, truth, opacity = (
            values.float() / 255 for values in (frames, clip.truth, clip.opacity)
        )
        opaque, empty = is_opaque(clip.opacity), is_empty(clip.opacity)
        row.quality.add(frames, clip.truth, clip.opacity)
        row.tiles.add(ours, empty)
        row.tiles_shown.add(ours, ~empty)
        row.seam.add(ours, truth, opacity)
        row.crops += self._crops(frames, clip)
        for pair, where in self._warps:
            if where.any():
                row.warped.add(warp_errors(frames, pair)[where])
                row.truth_warped.add(warp_errors(clip.truth, pair)[where])
        if (distance := self._networks.distance) is None:
            return
        _add_distance(row.band, distance, ours, truth, grown(opaque, BAND) | opaque)
        _add_distance(row.empty, distance, ours, truth, empty)
        if other_seed is not None:
            other = other_seed.float() / 255
            _add_distance(row.seeds_empty, distance, ours, other, empty)
            _add_distance(row.seeds_opaque, distance, ours, other, opaque)

    def rows(self) -> dict[str, dict[str, float | None]]:
        """Figures of every candidate; None where there are no such pixels or pairs."""
        return {name: self._figures(row) for name, row in self._rows.items()}

    def notes(self) -> tuple[str, ...]:
        """Why figures are None."""
        found = list(self._networks.notes)
        if self._networks.features is not None and len(self._truth_crops) < KD_CROPS:
            found.append(
                f"kd not computed: {counted(len(self._truth_crops), 'crop')} of {CROP_SIDE} "
                f"pixels are at least {CROP_EMPTY:.0%} empty; expected {KD_CROPS}"
            )
        return tuple(found)

    def _figures(self, row: _Row) -> dict[str, float | None]:
        figures: dict[str, float | None] = dict.fromkeys(COLUMNS)
        figures |= {
            name: value
            for name, value in row.quality.figures(self._hard).items()
            if name in figures
        }
        ours, theirs = row.warped.value(), row.truth_warped.value()
        figures |= {
            "st_lpips_band": row.band.value(),
            "st_lpips_empty": row.empty.value(),
            "tile_ratio": row.tiles.value(),
            "tile_ratio_shown": row.tiles_shown.value(),
            "seam": row.seam.value(),
            "stability": None if ours is None or not theirs else ours / theirs,
            "seeds_empty": row.seeds_empty.value(),
            "seeds_opaque": row.seeds_opaque.value(),
        }
        if self._networks.features is not None and len(row.crops) >= KD_CROPS:
            figures["kd_empty"] = 1000 * kernel_distance(
                torch.cat(row.crops), torch.cat(self._truth_crops)
            )
        return figures

    def _crops(self, frames: Frames, clip: MeasuredClip) -> list[Tensor]:
        features = self._networks.features
        if features is None:
            return []
        empty = is_empty(clip.opacity)
        return [
            features(frame[top : top + CROP_SIDE, left : left + CROP_SIDE].float() / 255)
            for frame, where in zip(frames, empty, strict=True)
            for top, left in empty_crops(where, CROP_SIDE, CROP_EMPTY)
        ]


def discarded_figures(rows: Mapping[str, Mapping[str, float | None]]) -> tuple[str, ...]:
    """Figures of ``BETTER`` in which one of the ``CONTROLS`` beats the render and every baseline.
    Models are not compared, because they may generate noise themselves.
    """
    found = []
    for name, better in BETTER.items():
        losses = {
            candidate: _loss(value, better)
            for candidate, figures in rows.items()
            if (value := figures.get(name)) is not None
        }
        controls = [losses[candidate] for candidate in losses if candidate in CONTROLS]
        others = [
            losses[candidate] for candidate in ("render", *BASELINE_METHODS) if candidate in losses
        ]
        if controls and others and min(controls) < min(others) - WIN_MARGIN * abs(min(others)):
            found.append(name)
    return tuple(found)


def empty_warps(clip: MeasuredClip) -> list[tuple[Warp, Bool[Tensor, "height width"]]]:
    """Warps between frames ``WARP_STEPS`` apart by the true depth, and the pixels of the target
    that both frames see and that are empty in both renders; none without depth, or for a clip of
    fewer than three frames.
    """
    depths = clip.depths
    if depths is None or len(clip.cameras) < 1 + max(WARP_STEPS):
        return []
    # ``warp`` would take two infinite depths for equal
    known = np.where(np.isfinite(depths), depths, np.nan)
    views = Sequence3d(clip.cameras, lambda index: known[index])
    empty = is_empty(clip.opacity)
    found = []
    for step in WARP_STEPS:
        for target in range(step, len(clip.cameras)):
            pair = warp(views, target, target - step)
            other = F.grid_sample(
                empty[pair.source].float()[None, None],
                pair.grid[None],
                mode="nearest",
                align_corners=False,
            )
            found.append((pair, pair.visible & empty[target] & (other[0, 0] > 0.5)))
    return found


def warp_errors(frames: Frames, pair: Warp) -> Float[Tensor, "height width"]:
    """Mean absolute difference over channels, in [0,1], of a frame and another moved into it."""
    ours, theirs = (frames[index].float() / 255 for index in (pair.target, pair.source))
    moved = F.grid_sample(
        theirs.permute(2, 0, 1)[None],
        pair.grid[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return (ours - moved[0].permute(1, 2, 0)).abs().mean(dim=-1)


@dataclass
class _Row:
    """Running sums of one candidate."""

    tiles: TileRatio
    tiles_shown: TileRatio
    quality: ClipQuality = field(default_factory=ClipQuality)
    seam: Seam = field(default_factory=Seam)
    band: Mean = field(default_factory=Mean)
    empty: Mean = field(default_factory=Mean)
    seeds_empty: Mean = field(default_factory=Mean)
    seeds_opaque: Mean = field(default_factory=Mean)
    warped: Mean = field(default_factory=Mean)
    truth_warped: Mean = field(default_factory=Mean)
    crops: list[Tensor] = field(default_factory=list)


def _add_distance(
    mean: Mean, distance: Distance, frames: Tensor, others: Tensor, where: Tensor
) -> None:
    """Accumulate distances weighted by the number of pixels of the region."""
    values, shares = region_distance(distance, frames, others, where)
    for value, share in zip(values.tolist(), shares.tolist(), strict=True):
        mean.add_weighted(value, share * where[0].numel())


def _loss(value: float, better: Better) -> float:
    if better == "one":
        return abs(math.log(max(value, 1e-9)))
    return value if better == "lower" else -value


def _over_fill(clip: MeasuredClip, pattern: Float[Tensor, "frames height width colours"]) -> Frames:
    """(1 - opacity) pattern over the push-pull fill."""
    fill = clip.filled(push_pull_fill).float() / 255
    transparency = 1 - clip.opacity.float()[..., None] / 255
    return ((fill + transparency * pattern).clamp(0, 1) * 255).round().to(torch.uint8)
