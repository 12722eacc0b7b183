"""Push-pull fill of renders: a smooth, seamless fill of empty pixels (not in the paper). The
embedded model adds its colours to it (``video/finish.py``), and generated content is compared with
it as a baseline.

In: renders, colour premultiplied on black, and their opacity. Out: colour; empty pixels have the
colours of opaque ones, diffused. Push-pull: Gortler et al. 1996, section 3.4. Colours are not
divided by opacity, for the reason in ``evaluation/inpainting``; only pixels of high opacity are
sources.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

#: Minimum opacity of a pixel that is a source, and the range over which its weight rises to 1.
KNOWN_FROM, KNOWN_RANGE = 0.75, 0.25

#: Mean weights of cells are multiplied by this and clamped to 1: a cell with a known quarter takes
#: the colour of that quarter.
KNOWN_GAIN = 4.0

#: Avoids a division by zero in cells without weight.
MIN_WEIGHT = 1e-6


def push_pull_fill(
    rgb: UInt8[np.ndarray, "height width 3"], opacity: UInt8[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The render composited over the fill: rgb + (1 - opacity) fill. Opaque pixels are unchanged,
    and so is a render without any pixel of high opacity.
    """
    assert rgb.dtype == np.uint8 and opacity.dtype == np.uint8, (
        f"render {rgb.dtype}, opacity {opacity.dtype}; expected uint8"
    )
    assert rgb.shape == (*opacity.shape, 3), f"render {rgb.shape} with opacity {opacity.shape}"
    colour = torch.tensor(rgb, dtype=torch.float32)[None] / 255
    filled = fill_empty(colour, torch.tensor(opacity, dtype=torch.float32)[None] / 255)
    return (filled[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def fill_empty(
    render: Float[Tensor, "frames height width 3"], opacity: Float[Tensor, "frames height width"]
) -> Float[Tensor, "frames height width 3"]:
    """render + (1 - opacity) fill, for each frame. A frame without any pixel of high opacity is
    unchanged.

    render: premultiplied on black, in [0,1]; opacity in [0,1].
    """
    colour, alpha = render.permute(0, 3, 1, 2), opacity[:, None]
    known = ((alpha - KNOWN_FROM) / KNOWN_RANGE).clamp(0, 1)
    filled = colour + (1 - alpha) * diffused(colour, known)
    return filled.permute(0, 2, 3, 1)


def diffused(
    colour: Float[Tensor, "images channels height width"],
    known: Float[Tensor, "images 1 height width"],
) -> Float[Tensor, "images channels height width"]:
    """Colours diffused from pixels with weight ``known`` in [0,1]; 0 for an image without any.

    Push: weighted means over 2x2 cells down to one cell. Pull: from coarse to fine, each level is a
    blend of its own means and the bilinearly upsampled coarser level, by the weight of its cells.
    """
    levels = [(colour * known, known)]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append(tuple(_halved(planes) for planes in levels[-1]))  # type: ignore[arg-type]
    weighted, weight = levels[-1]
    filled = weighted / weight.clamp(min=MIN_WEIGHT)
    for weighted, weight in reversed(levels[:-1]):
        size = tuple(weight.shape[-2:])
        filled = F.interpolate(filled, size=size, mode="bilinear", align_corners=False)
        share = (weight * KNOWN_GAIN).clamp(max=1)
        filled = torch.lerp(filled, weighted / weight.clamp(min=MIN_WEIGHT), share)
    return filled


def _halved(
    planes: Float[Tensor, "images channels height width"],
) -> Float[Tensor, "images channels rows columns"]:
    """Means over 2x2 pixels; over fewer at the borders of odd sides."""
    return F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)
