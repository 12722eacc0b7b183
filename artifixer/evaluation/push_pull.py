"""Push-pull fill of renders: a smooth, seamless continuation of what the splats show, the free
baseline that invented content has to beat (not in the paper).

In: one render as it lies in a render folder, 8-bit colour premultiplied on black, and its 8-bit
opacity. Out: 8-bit colour whose empty places show colours diffused from the opaque ones. Push-pull:
Gortler et al. 1996, section 3.4. Colours are not divided by opacity, as in ``inpainting``: only
pixels of high opacity lend theirs.
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
    colour = torch.tensor(rgb, dtype=torch.float32).permute(2, 0, 1)[None] / 255
    alpha = torch.tensor(opacity, dtype=torch.float32)[None, None] / 255
    known = ((alpha - KNOWN_FROM) / KNOWN_RANGE).clamp(0, 1)
    if not known.any():
        return rgb.copy()
    filled = colour + (1 - alpha) * diffused(colour, known)
    return (filled[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def diffused(
    colour: Float[Tensor, "images channels height width"],
    known: Float[Tensor, "images 1 height width"],
) -> Float[Tensor, "images channels height width"]:
    """Colours everywhere from those with weight ``known`` in [0,1], of which some are positive.

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
