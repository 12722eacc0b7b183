"""Push-pull fill of renders: a smooth, seamless continuation of what the splats show (not in the
paper). It is the base to which the embedded model adds its colours (``video/finish.py``), and the
free baseline that invented content has to beat.

In: renders, colour premultiplied on black, and their opacity. Out: colour whose empty places show
colours diffused from the opaque ones. Push-pull: Gortler et al. 1996, section 3.4. Colours are not
divided by opacity, as in ``evaluation/inpainting``: only pixels of high opacity lend theirs.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

#: Opacity from which on a pixel lends its colour, and the range over which it gains full weight.
KNOWN_FROM, KNOWN_RANGE = 0.75, 0.25

#: Mean weights of cells are multiplied by this before they are cut at 1: a cell of which a quarter
#: is known has the colour of that quarter.
KNOWN_GAIN = 4.0

#: Keeps cells without weight from a division by zero.
LEAST_WEIGHT = 1e-6


def push_pull_fill(
    rgb: UInt8[np.ndarray, "height width 3"], opacity: UInt8[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The render over a fill: rgb + (1 - opacity) fill.

    Opaque pixels stay as they are. A render without any known pixel comes back as it is.
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
    """render + (1 - opacity) fill, each frame by itself. A frame without any known pixel comes back
    as it is.

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
    """Colours everywhere from those with weight ``known`` in [0,1]; 0 where an image has none.

    Push: weighted means over 2x2 cells down to one. Pull: each level takes the bilinearly enlarged
    coarser one where little is known, its own mean elsewhere.
    """
    levels = [(colour * known, known)]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append(tuple(_halved(planes) for planes in levels[-1]))  # type: ignore[arg-type]
    weighted, weight = levels[-1]
    filled = weighted / weight.clamp(min=LEAST_WEIGHT)
    for weighted, weight in reversed(levels[:-1]):
        size = tuple(weight.shape[-2:])
        filled = F.interpolate(filled, size=size, mode="bilinear", align_corners=False)
        share = (weight * KNOWN_GAIN).clamp(max=1)
        filled = torch.lerp(filled, weighted / weight.clamp(min=LEAST_WEIGHT), share)
    return filled


def _halved(
    planes: Float[Tensor, "images channels height width"],
) -> Float[Tensor, "images channels rows columns"]:
    """Means over 2x2 pixels; at odd borders over those that are there."""
    return F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)
