"""3D distillation: splats fitted to photos and generated frames (ArtiFixer 3D; paper section 4.2).

In: the training photos, the frames that the model generated, their cameras, and the splats whose
renders were enhanced. Out: new splats.

Photos have full weight. The weight of a frame's pixels is a setting:

``uniform``   the weight of a photo's pixels (the paper)
``lpips``     0.1 LPIPS is the only loss on frames (the public release); needs the extra ``metrics``
``evidence``  full weight where no training view observes the pixel's surface; the more views
              observe it at a consistent depth, the lower the weight, since photos are more reliable
              there
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.imaging.perceptual import load_lpips
from artifixer.runtime.errors import InputError
from artifixer.runtime.seeds import generator
from artifixer.scenes.view import View
from artifixer.splats.initial import ColoredPoints, add_pixels, scene_extent, splats_at
from artifixer.splats.reconstruct import IterationReport, ReconstructConfig, reconstruct
from artifixer.splats.render import Renders, render
from artifixer.splats.splats import SH_COEFFICIENTS, Splats
from artifixer.splats.training_view import TrainingView, ViewLoss

FrameWeights = Literal["uniform", "lpips", "evidence"]

#: The release's factor on LPIPS, its only loss on frames.
LPIPS_WEIGHT = 0.1

#: Minimum opacity at which a pixel of a render shows a surface.
SURFACE_OPACITY = 0.5


@dataclass(frozen=True)
class DistillConfig:
    """Settings of a distillation."""

    reconstruct: ReconstructConfig = field(default_factory=ReconstructConfig)
    """Settings of the fit."""

    weights: FrameWeights = "uniform"
    """Weighting of the frames' pixels: ``uniform``, ``lpips`` or ``evidence``."""

    start: Literal["fresh", "warm"] = "fresh"
    """Initial splats: ``fresh`` from the capture's points and pixels of photos and frames, ``warm``
    from the splats that were enhanced."""

    frames: int | None = None
    """Maximum number of frames, evenly spaced along the path; None for all."""

    photo_fraction: float = 0.3
    """Fraction of the iterations that show a photo, in [0, 1)."""

    max_repeats: int = 8
    """Maximum ratio of a photo's iterations to a frame's; limits ``photo_fraction``."""

    evidence: tuple[float, ...] = (1.0, 0.3, 0.1)
    """Weight of a pixel observed by 0, 1, 2 ... training views; the last entry holds for all larger
    numbers."""

    depth_tolerance: float = 0.05
    """Maximum relative difference of two depths of the same surface."""


@dataclass(frozen=True)
class DistillViews:
    """What splats are distilled from."""

    photos: Sequence[View]
    """The training photos."""

    frames: Sequence[View]
    """The generated frames, in the order of the path."""


def check_distillation(config: DistillConfig) -> None:
    """Raise ``InputError`` when the settings need a network that is not installed."""
    if config.weights == "lpips":
        network, reason = load_lpips("lpips_vgg01")
        if network is None:
            raise InputError(
                f"frame weights lpips: {reason}; expected the network, or the weights evidence or "
                "uniform"
            )


def distill(
    views: DistillViews,
    source: Splats,
    points: ColoredPoints,
    config: DistillConfig,
    seed: int,
    *,
    checkpoint: Path | None = None,
    device: str = "cpu",
    report: Callable[[IterationReport], None] = lambda _: None,
) -> Splats:
    """Fit splats to photos and frames.

    source: the splats whose renders were enhanced. points: sparse points seen by the training
    photos, for a fresh start. checkpoint, report and errors: as in ``reconstruct``.
    """
    check_distillation(config)
    views = _fewer_frames(views, config.frames)
    extent = scene_extent([view.camera for view in views.photos], points)
    training = _training_views(views, source, config, device)
    fit = config.reconstruct.with_free_space_loss(0)  # frames constrain unobserved regions
    if config.start == "warm":
        initial = with_degree(source.map(lambda tensor: tensor.cpu()), fit.sh_degree)
        # keep the view dependence of the source from the first iteration
        fit = replace(fit, sh_every=1)
    else:
        initial = _fresh_start(views, points, extent, config, seed)
    return reconstruct(
        training, initial, extent, fit, seed, checkpoint=checkpoint, device=device, report=report
    )


@torch.no_grad()
def evidence(
    splats: Splats, training: Sequence[Cameras], target: Cameras, tolerance: float
) -> Int[Tensor, "height width"]:
    """Per pixel of a single view, the number of training views that observe its surface, by the
    depths of the splats' renders; 0 where there is no surface.

    tolerance: maximum relative difference of consistent depths. Renders every training view; for
    several targets use ``TrainingDepths``.
    """
    return TrainingDepths.of(splats, training).views_of(render(splats, target), target, tolerance)


class RenderedView(NamedTuple):
    """A camera (a single view) and the splats' render from it."""

    camera: Cameras
    renders: Renders


@dataclass(frozen=True)
class TrainingDepths:
    """Renders of the splats from the training cameras."""

    views: Sequence[RenderedView]

    @staticmethod
    @torch.no_grad()
    def of(splats: Splats, cameras: Sequence[Cameras]) -> TrainingDepths:
        return TrainingDepths([RenderedView(camera, render(splats, camera)) for camera in cameras])

    @torch.no_grad()
    def views_of(
        self, renders: Renders, target: Cameras, tolerance: float
    ) -> Int[Tensor, "height width"]:
        """See ``evidence``; ``renders`` are those of the target, a single view."""
        surface, is_surface = _surface_points(renders, target)
        count = torch.zeros(is_surface.shape, dtype=torch.int64, device=is_surface.device)
        for camera, seen in self.views:
            pixels, depths, valid = (values[0] for values in camera.project(surface))
            inside = (
                valid
                & (pixels >= 0).all(-1)
                & (pixels[:, 0] < camera.width)
                & (pixels[:, 1] < camera.height)
            )
            columns = pixels[:, 0].long().clamp(0, camera.width - 1)
            rows = pixels[:, 1].long().clamp(0, camera.height - 1)
            known = seen.depth[0, rows, columns]
            # false where the depth is unknown (NaN)
            agrees = (depths - known).abs() <= tolerance * known
            agrees &= inside & (seen.opacity[0, rows, columns] >= SURFACE_OPACITY)
            count += agrees.reshape(count.shape)
        return torch.where(is_surface, count, 0)


def _surface_points(renders: Renders, camera: Cameras) -> tuple[Float[Tensor, "pixels 3"], Tensor]:
    """World position of each pixel's surface in row order, and the mask of pixels that have one."""
    depth = renders.depth[0]
    is_surface = (renders.opacity[0] >= SURFACE_OPACITY) & depth.isfinite()
    rows = torch.arange(camera.height, dtype=depth.dtype, device=depth.device) + 0.5
    columns = torch.arange(camera.width, dtype=depth.dtype, device=depth.device) + 0.5
    pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(1, -1, 2)
    directions = camera.unproject(pixels)[0]
    in_camera = directions / directions[:, 2:] * torch.where(is_surface, depth, 1).reshape(-1, 1)
    pose = camera.camera_to_world[0]
    return in_camera @ pose[:3, :3].mT + pose[:3, 3], is_surface


def _fewer_frames(views: DistillViews, max_frames: int | None) -> DistillViews:
    count = len(views.frames)
    if max_frames is None or count <= max_frames:
        return views
    chosen = [round(k * (count - 1) / max(1, max_frames - 1)) for k in range(max_frames)]
    return DistillViews(views.photos, [views.frames[i] for i in chosen])


def _training_views(
    views: DistillViews, source: Splats, config: DistillConfig, device: str
) -> list[TrainingView]:
    """Photos, repeated to reach their fraction, then frames with their weights."""
    repeats = photo_repeats(len(views.photos), len(views.frames), config)
    photos = [TrainingView.of(view) for view in views.photos] * repeats
    frames = [TrainingView.of(view) for view in views.frames]
    if config.weights == "lpips":
        loss = _lpips_loss(device)
        frames = [replace(frame, loss=loss) for frame in frames]
    if config.weights == "evidence":
        weights = _evidence_weights(views, source, config, device)
        frames = [
            replace(frame, pixel_weights=pixels)
            for frame, pixels in zip(frames, weights, strict=True)
        ]
    return photos + frames


def photo_repeats(photos: int, frames: int, config: DistillConfig) -> int:
    """Repetitions of each photo for photos to be ``photo_fraction`` of all views."""
    wanted = config.photo_fraction / (1 - config.photo_fraction) * frames / max(1, photos)
    return max(1, min(config.max_repeats, round(wanted)))


@torch.no_grad()
def _evidence_weights(
    views: DistillViews, source: Splats, config: DistillConfig, device: str
) -> list[Float[Tensor, "height width"]]:
    splats = source.map(lambda tensor: tensor.to(device))
    table = torch.tensor(config.evidence, device=device)
    training = TrainingDepths.of(splats, [view.camera.to(device) for view in views.photos])
    weights = []
    for view in views.frames:
        target = view.camera.to(device)
        count = training.views_of(render(splats, target), target, config.depth_tolerance)
        weights.append(table[count.clamp(max=len(table) - 1)].cpu())
    return weights


def _lpips_loss(device: str) -> ViewLoss:
    network, reason = load_lpips("lpips_vgg01", device)
    assert network is not None, reason
    return lambda image, frame: LPIPS_WEIGHT * network(image, frame)


def with_degree(splats: Splats, degree: int) -> Splats:
    """The same splats with spherical harmonics of another degree, truncated or zero-padded."""
    missing = SH_COEFFICIENTS[degree] - splats.sh.shape[1]
    return replace(
        splats,
        sh=F.pad(splats.sh, (0, 0, 0, missing))
        if missing > 0
        else splats.sh[:, : SH_COEFFICIENTS[degree]].contiguous(),
    )


def _fresh_start(
    views: DistillViews, points: ColoredPoints, extent: float, config: DistillConfig, seed: int
) -> Splats:
    """Splats at the sparse points, and at pixels of photos and frames back-projected to the depth
    of nearby points.
    """
    pictures = [*views.photos, *views.frames]
    settings = config.reconstruct.initial
    points = add_pixels(points, pictures, settings, generator(seed, "initial points"))
    return splats_at(points, config.reconstruct.sh_degree, extent, settings)
