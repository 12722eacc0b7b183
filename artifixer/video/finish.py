"""Post-processing of decoded frames, not in the paper: residual of the render, the model's smoothed
colours in empty regions over a smooth fill of the render, detail of the reference photos, blend
with the render.

In: decoded frames of the model, their render and its opacity, all at one size. Out: final frames.
``enhance`` and training validation both use it; training pairs have no depth, hence validation no
detail of photos. ``FinishConfig()`` leaves frames unchanged, the setting of the public weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.imaging.push_pull import fill_empty
from artifixer.video.conditions import ReferencePhotos
from artifixer.video.photo_detail import with_photo_detail

#: Incremented when smoothed frames of the same decoded frames change, so that frames of earlier
#: versions count as outdated.
VERSION = 9

#: Fraction of the model's change that is taken; chosen on the clips and captures of
#: docs/invention.md, like the rest of these settings.
CHANGE_FRACTION = 0.5

#: Standard deviation of the smoothing of the change, in cells: what the model knows of empty
#: regions varies slowly.
SIGMA = 2.0

#: Avoids a division by zero far from empty pixels.
MIN_WEIGHT = 1e-3


@dataclass(frozen=True)
class FinishConfig:
    """Settings of ``finish``."""

    keep_residual: bool = False
    """Add the detail of opaque parts of the render that the autoencoder loses: opacity^2 (render -
    decoded render)."""

    strength: float = 1.0
    """Blend weight on opaque pixels, 0 to 1: 0 keeps the render, 1 takes the model's output."""

    smooth_cells: int = 0
    """Take only smooth colours from the model, and only where the render is empty: the result is
    the push-pull fill of the render, by its depth where that is known, plus half of its change by
    the model, smoothed over two cells of this many pixels. Opaque regions keep the render, with the
    detail of the reference photos (``photo_detail.py``) where its depth is known. 0 takes the
    frame. For models that invent no detail, whose frames are paler than photos and show the grid of
    their tokens (docs/invention.md)."""

    def __post_init__(self) -> None:
        assert 0 <= self.strength <= 1, f"strength {self.strength}, expected 0 to 1"
        assert self.smooth_cells >= 0, f"cells of {self.smooth_cells} pixels, expected at least 0"

    @property
    def reads_depth(self) -> bool:
        """Whether ``finish`` uses the depth of the render."""
        return self.smooth_cells > 0

    @property
    def key(self) -> dict[str, object]:
        """Part of the key of a stage that writes finished frames; empty without smoothing, so that
        frames of the public weights are kept.
        """
        return {"smoothing": [VERSION, self.smooth_cells]} if self.smooth_cells else {}


def finish(
    frames: Float[Tensor, "frames height width 3"],
    opacity: Float[Tensor, "frames height width"],
    config: FinishConfig,
    render: Float[Tensor, "frames height width 3"] | None = None,
    decoded_render: Float[Tensor, "frames height width 3"] | None = None,
    depth: Float[Tensor, "frames height width"] | None = None,
    cameras: Cameras | None = None,
    photos: ReferencePhotos | None = None,
) -> Float[Tensor, "frames height width 3"]:
    """Final frames; colours are approximately in [0,1] and are not clamped.

    render: required unless ``config`` leaves frames unchanged. decoded_render: the render encoded
    and decoded by the autoencoder, required for the residual. depth: of the render, for
    ``fill_empty`` and the detail of the photos; None where it is unknown. cameras: of the frames,
    required with ``photos``.
    """
    opaque = opacity.square()[..., None]
    if config.keep_residual:
        assert render is not None and decoded_render is not None, (
            "the residual needs the render, also decoded"
        )
        frames = frames + opaque * (render - decoded_render)
    if config.smooth_cells:
        assert render is not None, "smoothing needs the render"
        base = fill_empty(render, opacity, depth)
        frames = base + CHANGE_FRACTION * _change_in_empty_regions(
            frames - base, opacity[..., None], config.smooth_cells
        )
        if photos is not None and depth is not None:
            assert cameras is not None, "the detail of photos needs the frames' cameras"
            frames = with_photo_detail(frames, opacity, depth, cameras, photos)
    if config.strength < 1:
        assert render is not None, "a strength below 1 needs the render"
        frames = frames + (1 - config.strength) * opaque * (render - frames)
    return frames


def _change_in_empty_regions(
    change: Float[Tensor, "frames height width 3"],
    opacity: Float[Tensor, "frames height width 1"],
    cell: int,
) -> Float[Tensor, "frames height width 3"]:
    """The mean change of the empty pixels around each pixel. It rises from 0 where half of the
    surroundings is opaque, so that neither a step of the opacity nor a tone of the model shows at
    the border. cell: side in pixels.
    """
    empty, sigma = 1 - opacity, SIGMA * cell
    mean = smoothed(change * empty, sigma) / smoothed(empty, sigma).clamp(min=MIN_WEIGHT)
    return (1 - 2 * smoothed(opacity.square(), sigma)).clamp(min=0) * mean


def smoothed(
    images: Float[Tensor, "frames height width channels"], sigma: float
) -> Float[Tensor, "frames height width channels"]:
    """Gaussian blur with a standard deviation of ``sigma`` pixels; the borders are repeated."""
    reach = math.ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = torch.exp(-offsets.square() / (2 * sigma**2))
    weights = weights / weights.sum()
    planes = images.permute(0, 3, 1, 2).flatten(0, 1)[:, None]
    planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), "replicate"), weights[None, None, None])
    planes = F.conv2d(
        F.pad(planes, (0, 0, reach, reach), "replicate"), weights[None, None, :, None]
    )
    blurred: Tensor = planes[:, 0].unflatten(0, (len(images), images.shape[-1])).permute(0, 2, 3, 1)
    return blurred
