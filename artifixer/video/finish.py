"""Post-processing of decoded frames, not in the paper: residual of the render, smooth fill of empty
regions, blend with the render.

In: decoded frames of the model, their render and its opacity, all at one size. Out: final frames.
``enhance`` and training validation both use it: what is validated is what ships. ``FinishConfig()``
leaves frames unchanged, the setting of the public weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Opacity at which the weight of a pixel's own detail in the smooth fill starts to rise from 0, and
#: the range over which it rises to 1. Splats fitted to few photos are nearly opaque where photos
#: agree; lower opacities are mostly blur.
CONFIDENT_FROM, CONFIDENT_RANGE = 0.75, 0.25

#: Factor on the weights of known pixels at each level of the pyramid, before they are clamped to 1:
#: a cell of which a quarter is known is determined by that quarter.
KNOWN_GAIN = 4.0


@dataclass(frozen=True)
class FinishConfig:
    """Settings of ``finish``."""

    keep_residual: bool = False
    """Add the detail of opaque parts of the render that the autoencoder loses: opacity^2 (render -
    decoded render)."""

    strength: float = 1.0
    """Blend weight on opaque pixels, 0 to 1: 0 keeps the render, 1 takes the model's output."""

    smooth_cells: int = 0
    """Replace empty regions by the frame's means over cells of this many pixels, interpolated
    smoothly from the opaque parts; 0 keeps the model's detail. For models whose detail in empty
    regions shows the grid of their tokens."""

    def __post_init__(self) -> None:
        assert 0 <= self.strength <= 1, f"strength {self.strength}, expected 0 to 1"
        assert self.smooth_cells >= 0, f"cells of {self.smooth_cells} pixels, expected at least 0"

    @property
    def reads_render(self) -> bool:
        """Whether ``finish`` needs the render."""
        return self.keep_residual or self.strength < 1


def finish(
    frames: Float[Tensor, "frames height width 3"],
    opacity: Float[Tensor, "frames height width"],
    config: FinishConfig,
    render: Float[Tensor, "frames height width 3"] | None = None,
    decoded_render: Float[Tensor, "frames height width 3"] | None = None,
) -> Float[Tensor, "frames height width 3"]:
    """Final frames; colours are approximately in [0,1] and are not clamped.

    render: required if ``config.reads_render``. decoded_render: the render encoded and decoded by
    the autoencoder, required for the residual.
    """
    opaque = opacity.square()[..., None]
    if config.smooth_cells:
        frames = smooth_empty(frames, opacity, config.smooth_cells)
    if config.keep_residual:
        assert render is not None and decoded_render is not None, (
            "the residual needs the render, also decoded"
        )
        frames = frames + opaque * (render - decoded_render)
    if config.strength < 1:
        assert render is not None, "a strength below 1 needs the render"
        frames = frames + (1 - config.strength) * opaque * (render - frames)
    return frames


def smooth_empty(
    frames: Float[Tensor, "frames height width 3"],
    opacity: Float[Tensor, "frames height width"],
    cells: int,
) -> Float[Tensor, "frames height width 3"]:
    """Frames with empty regions filled smoothly by push-pull (Gortler et al. 1996, section 3.4)
    from the opaque pixels and the frame's own coarse colours.

    Colours are averaged into a pyramid of cells of up to ``cells`` pixels, weighted by a confidence
    that depends on opacity. The coarsest level starts with the frame's own means. Each finer level
    is the interpolated coarser level where nothing is known, and the mean of known pixels
    elsewhere.
    """
    known = ((opacity - CONFIDENT_FROM) / CONFIDENT_RANGE).clamp(0, 1)[:, None]
    colours = frames.permute(0, 3, 1, 2)
    levels, plain = [(colours * known, known)], colours
    while 2 ** len(levels) <= cells and min(plain.shape[2:]) > 1:
        plain = _halved(plain)
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    # Means over overlapping windows, so that cell borders are not visible after interpolation.
    filled = F.avg_pool2d(plain, 3, stride=1, padding=1, count_include_pad=False)
    for coloured, weight in reversed(levels):
        filled = _enlarged(filled, coloured.shape[-2], coloured.shape[-1])
        known_fraction = (weight * KNOWN_GAIN).clamp(max=1)
        filled = torch.lerp(filled, coloured / weight.clamp(min=1e-4), known_fraction)
    # The finest level is blended by the pixel's own confidence: opaque pixels are unchanged.
    return torch.lerp(filled.permute(0, 2, 3, 1), frames, known.permute(0, 2, 3, 1))


def _halved(
    planes: Float[Tensor, "frames channels height width"],
) -> Float[Tensor, "frames channels h w"]:
    """Means over 2x2 pixels; at odd borders over the existing ones."""
    return F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)


def _enlarged(
    planes: Float[Tensor, "frames channels h w"], height: int, width: int
) -> Float[Tensor, "frames channels height width"]:
    if planes.shape[-2:] == (height, width):
        return planes
    return F.interpolate(planes, size=(height, width), mode="bicubic", align_corners=False)
