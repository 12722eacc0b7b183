"""Push-pull fill of renders: a smooth, seamless fill of empty pixels (not in the paper). The
embedded model adds its colours to it (``video/finish.py``), and generated content is compared with
it as a baseline.

In: renders, colour premultiplied on black, and their opacity; for ``fill_empty`` also their depth.
Out: colour; empty pixels have the colours of opaque ones, diffused. Push-pull: Gortler et al. 1996,
section 3.4. Colours are not divided by opacity, for the reason in ``evaluation/inpainting``; only
pixels of high opacity are sources. With depth, far sources count more than near ones: what appears
behind an object is its background, as in depth-image-based rendering.
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

#: Power of the depth, relative to the median of the known pixels, by which sources count, and the
#: range of that relative depth. Chosen on the clips of docs/invention.md.
DEPTH_POWER, DEPTH_RANGE = 4.0, (0.1, 8.0)

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
    render: Float[Tensor, "frames height width 3"],
    opacity: Float[Tensor, "frames height width"],
    depth: Float[Tensor, "frames height width"] | None = None,
) -> Float[Tensor, "frames height width 3"]:
    """render + (1 - opacity) fill, for each frame. A frame without any pixel of high opacity is
    unchanged.

    render: premultiplied on black, in [0,1]; opacity in [0,1]. depth: camera z in any unit, not
    positive or not finite where it is unknown; None counts all sources alike.
    """
    colour, alpha = render.permute(0, 3, 1, 2), opacity[:, None]
    known = ((alpha - KNOWN_FROM) / KNOWN_RANGE).clamp(0, 1)
    importance = None if depth is None else _background(depth[:, None], known)
    filled = colour + (1 - alpha) * diffused(colour, known, importance)
    return filled.permute(0, 2, 3, 1)


def _background(
    depth: Float[Tensor, "images 1 height width"], known: Float[Tensor, "images 1 height width"]
) -> Float[Tensor, "images 1 height width"]:
    """By how much sources count: a power of their relative depth; 1 where depth is unknown."""
    usable = (depth > 0) & depth.isfinite()
    low, high = DEPTH_RANGE
    importance = torch.ones_like(depth)
    for values, sources, out in zip(depth, usable & (known > 0), importance, strict=True):
        if sources.any():
            relative = values[sources] / values[sources].median()
            out[sources] = relative.clamp(low, high) ** DEPTH_POWER
    return importance


def diffused(
    colour: Float[Tensor, "images channels height width"],
    known: Float[Tensor, "images 1 height width"],
    importance: Float[Tensor, "images 1 height width"] | None = None,
) -> Float[Tensor, "images channels height width"]:
    """Colours diffused from pixels with weight ``known`` in [0,1]; 0 for an image without any.

    Push: weighted means over 2x2 cells down to one cell. Pull: from coarse to fine, each level is a
    blend of its own means and the bilinearly upsampled coarser level, by the weight of its cells.
    importance: positive factors of the pixels in the means and in the upsampling, not in the
    blends of levels; None for ones.
    """
    # colours and importance are carried as sums over known pixels
    factor = torch.ones_like(known) if importance is None else importance
    levels = [(torch.cat([colour * factor, factor], dim=1) * known, known)]
    while max(levels[-1][1].shape[-2:]) > 1:
        levels.append(tuple(_halved(planes) for planes in levels[-1]))  # type: ignore[arg-type]
    sums, known = levels[-1]
    filled = sums / known.clamp(min=MIN_WEIGHT)
    for sums, known in reversed(levels[:-1]):
        size = tuple(known.shape[-2:])
        filled = F.interpolate(filled, size=size, mode="bilinear", align_corners=False)
        share = (known * KNOWN_GAIN).clamp(max=1)
        filled = torch.lerp(filled, sums / known.clamp(min=MIN_WEIGHT), share)
    return filled[:, :-1] / filled[:, -1:].clamp(min=MIN_WEIGHT)


def _halved(
    planes: Float[Tensor, "images channels height width"],
) -> Float[Tensor, "images channels rows columns"]:
    """Means over 2x2 pixels; over fewer at the borders of odd sides."""
    return F.avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False)
