"""Gaussian blur of one image on the CPU, by OpenCV.

In: a float image ``[height width channels]``. Out: the same, blurred.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

#: Wider blurs are computed on images reduced by a power of two.
WIDEST_SIGMA = 8.0


def blurred(
    image: Float[Tensor, "height width channels"], sigma: float
) -> Float[Tensor, "height width channels"]:
    """Gaussian blur with a standard deviation of ``sigma`` pixels; the border is repeated. Wide
    blurs are computed on a smaller image.
    """
    import cv2

    height, width = image.shape[:2]
    shrink = 2 ** max(0, math.ceil(math.log2(sigma / WIDEST_SIGMA)))
    pixels: np.ndarray = image.contiguous().numpy()
    if shrink > 1:
        size = (math.ceil(width / shrink), math.ceil(height / shrink))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    pixels = cv2.GaussianBlur(pixels, (0, 0), sigma / shrink, borderType=cv2.BORDER_REPLICATE)
    if shrink > 1:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(pixels).reshape(image.shape)
