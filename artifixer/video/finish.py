"""The last step of a frame: what a decoded frame takes from its render, and how its empty places
are smoothed.

In: decoded frames of the model, the render they were made from and its opacity, all at one size.
Out: the frames that leave the program. ``enhance`` and the training's validation both finish their
frames here, so that what is validated is what ships. None of it is in the paper. ``FinishConfig()``
leaves frames as they are, which is how the public weights run.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Opacity below which a pixel's own detail counts for nothing in the smoothed parts, and the range
#: over which it gains its full weight. Splats fitted to few photos are nearly opaque where photos
#: agree, so that what is fainter is mostly a smear.
CONFIDENT_FROM, CONFIDENT_RANGE = 0.75, 0.25

#: Weights of known pixels are multiplied by this at each level of the pyramid before they are cut
#: at 1: a quarter of an area that is known determines its mean.
KNOWN_GAIN = 4.0


@dataclass(frozen=True)
class FinishConfig:
    """What is done to decoded frames, in this order."""

    keep_residual: bool = False
    """Give back the detail that the autoencoder takes from opaque parts of the render: opacity^2
    (render - decoded render).
    """

    strength: float = 1.0
    """Blend weight on opaque pixels, 0 to 1: 0 keeps the render, 1 takes the model's output."""

    smooth_cells: int = 0
    """Where the render is empty, only the frame's means over cells of this many pixels count,
    continued smoothly from the opaque parts; 0 leaves the model's detail there. For models whose
    detail in empty places is a pattern of their tokens."""

    def __post_init__(self) -> None:
        assert 0 <= self.strength <= 1, f"strength {self.strength}, expected 0 to 1"
        assert self.smooth_cells >= 0, f"cells of {self.smooth_cells} pixels, expected at least 0"

    @property
    def reads_render(self) -> bool:
        """Whether the render's colours enter the frames."""
        return self.keep_residual or self.strength < 1


def finish(
    frames: Float[Tensor, "frames height width 3"],
    opacity: Float[Tensor, "frames height width"],
    config: FinishConfig,
    render: Float[Tensor, "frames height width 3"] | None = None,
    decoded_render: Float[Tensor, "frames height width 3"] | None = None,
) -> Float[Tensor, "frames height width 3"]:
    """Finished frames; colours are around [0,1] and are not clamped.

    render: needed where ``config.reads_render``. decoded_render: the render through the
    autoencoder, needed for the residual.
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
    """Frames whose empty places are a smooth, seamless fill: push-pull from the opaque pixels, on
    the frame's own coarse colours.

    Colours are averaged into a pyramid, weighted by how far a pixel's opacity is to be trusted,
    down to ``cells`` pixels. There the frame's own mean stands for what is unknown. Upwards, each
    level is the interpolated level below where nothing is known, and the mean of what is known
    elsewhere. (Push-pull: Gortler et al. 1996, section 3.4.)
    """
    known = ((opacity - CONFIDENT_FROM) / CONFIDENT_RANGE).clamp(0, 1)[:, None]
    colours = frames.permute(0, 3, 1, 2)
    levels, plain = [(colours * known, known)], colours
    while 2 ** len(levels) <= cells and min(plain.shape[2:]) > 1:
        plain = _halved(plain)
        levels.append((_halved(levels[-1][0]), _halved(levels[-1][1])))
    # Twice the cells' spacing: means over overlapping windows, so that no cell's border shows in
    # the interpolation.
    filled = F.avg_pool2d(plain, 3, stride=1, padding=1, count_include_pad=False)
    for coloured, weight in reversed(levels):
        filled = _enlarged(filled, coloured.shape[-2], coloured.shape[-1])
        share = (weight * KNOWN_GAIN).clamp(max=1)
        filled = torch.lerp(filled, coloured / weight.clamp(min=1e-4), share)
    # The weight of the pixel itself decides at the finest level: opaque pixels stay, the ramp
    # between is blended.
    return torch.lerp(filled.permute(0, 2, 3, 1), frames, known.permute(0, 2, 3, 1))


def _halved(
    planes: Float[Tensor, "frames channels height width"],
) -> Float[Tensor, "frames channels h w"]:
    """Means over 2x2 pixels; at odd borders over those that are there."""
    return F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)


def _enlarged(
    planes: Float[Tensor, "frames channels h w"], height: int, width: int
) -> Float[Tensor, "frames channels height width"]:
    if planes.shape[-2:] == (height, width):
        return planes
    return F.interpolate(planes, size=(height, width), mode="bicubic", align_corners=False)
