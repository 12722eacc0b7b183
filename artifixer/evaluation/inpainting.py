"""Classical inpainting of renders: the cheap baselines that a learned repair has to beat.

In: one render as it lies in a render folder, 8-bit colour premultiplied on black, and its 8-bit
opacity. Out: 8-bit colour where the pixels that the splats left mostly empty are filled from their
surroundings by OpenCV. Colours are never divided by opacity: with a black background dark surfaces
end up as low opacity, and the division would blow up noise.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8

InpaintingMethod = Literal["telea", "ns"]

#: Both methods, in the order of the tables: Telea 2004 (fast marching), Bertalmio et al. 2001
#: (Navier-Stokes).
METHODS: tuple[InpaintingMethod, ...] = get_args(InpaintingMethod)

#: Pixels of less opacity than this are filled; the others stay as they are.
FILL_BELOW = 0.5

#: Neighbourhood in pixels from which a filled pixel takes its colour.
RADIUS = 3.0


def inpaint(
    rgb: UInt8[np.ndarray, "height width 3"],
    opacity: UInt8[np.ndarray, "height width"],
    method: InpaintingMethod,
) -> UInt8[np.ndarray, "height width 3"]:
    """The render with its pixels of opacity below ``FILL_BELOW`` filled from their surroundings.

    A render that is empty everywhere has no surroundings: it comes back as it is.
    """
    import cv2

    assert rgb.dtype == np.uint8 and opacity.dtype == np.uint8, (
        f"render {rgb.dtype}, opacity {opacity.dtype}; expected uint8"
    )
    assert rgb.shape == (*opacity.shape, 3), f"render {rgb.shape} with opacity {opacity.shape}"
    is_empty = opacity < FILL_BELOW * 255
    if is_empty.all() or not is_empty.any():
        return rgb.copy()
    algorithm = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
    return np.asarray(
        cv2.inpaint(np.ascontiguousarray(rgb), is_empty.astype(np.uint8), RADIUS, algorithm)
    )
