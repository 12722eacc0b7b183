"""Inpainting of renders without a model: the baselines that a learned repair has to beat.

In: one render as in a render folder, 8-bit colour premultiplied on black, and its 8-bit opacity.
Out: 8-bit colour; pixels of low opacity are filled from their surroundings. Colours are
not divided by opacity: fits on a black background give dark surfaces a low opacity, and the
division would amplify noise.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

from artifixer.imaging.push_pull import push_pull_fill

InpaintingMethod = Literal["telea", "ns", "push_pull"]

#: The methods in the order of the tables: Telea 2004 (fast marching), Bertalmio et al. 2001
#: (Navier-Stokes), both by OpenCV; ``imaging/push_pull``, which the embedded model adds to.
METHODS: tuple[InpaintingMethod, ...] = get_args(InpaintingMethod)

#: Telea and Navier-Stokes fill pixels of lower opacity and keep the others.
FILL_BELOW = 0.5

#: Radius of the neighbourhood that a filled pixel takes its colour from, pixels.
RADIUS = 3.0


def inpaint(
    rgb: UInt8[np.ndarray, "height width 3"],
    opacity: UInt8[np.ndarray, "height width"],
    method: InpaintingMethod,
) -> UInt8[np.ndarray, "height width 3"]:
    """The render with its pixels of opacity below ``FILL_BELOW`` filled from their surroundings;
    push-pull composites the render over the fill instead. A render that is empty everywhere is
    returned unchanged.
    """
    import cv2

    assert rgb.dtype == np.uint8 and opacity.dtype == np.uint8, (
        f"render {rgb.dtype}, opacity {opacity.dtype}; expected uint8"
    )
    assert rgb.shape == (*opacity.shape, 3), f"render {rgb.shape} with opacity {opacity.shape}"
    if method == "push_pull":
        return push_pull_fill(rgb, opacity)
    is_empty = opacity < FILL_BELOW * 255
    if is_empty.all() or not is_empty.any():
        return rgb.copy()
    algorithm = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    return np.asarray(
        cv2.inpaint(np.ascontiguousarray(rgb), is_empty.astype(np.uint8), RADIUS, algorithm)
    )
