"""Nerfstudio's radial polynomial with an r^8 term -> the rational polynomial of ``Cameras``.

nerfstudio distorts by ``1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8``; OpenCV's k4 is in the denominator.
Within a photo, the rational function with six coefficients approximates the polynomial to a small
fraction of a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Maximum difference of the two functions in the photo, pixels.
FIT_TOLERANCE = 5e-3

#: Maximum radius at focal length 1, as for the pinhole lens.
LARGEST_RADIUS = 14.0

#: Radii at which both functions are compared, and steps of the reweighted fit.
_SAMPLES = 2000
_FIT_STEPS = 3


def rational_coefficients(
    polynomial: Sequence[float], radius: float, focal: float
) -> tuple[float, ...] | None:
    """k1 to k6 of the rational lens that equals the polynomial lens up to a distorted radius.

    polynomial: k1 to k4, of r^2 to r^8. radius: of the farthest corner, distorted, at focal length
    1. focal: in pixels, which turns differences into pixels. None when the lens folds over inside
    the photo, or when no rational function follows it to ``FIT_TOLERANCE``.
    """
    radii = np.linspace(0, LARGEST_RADIUS, 200_000)
    factors = _polynomial(polynomial, radii**2)
    folds = np.flatnonzero(np.diff(radii * factors) <= 0)
    reached = np.flatnonzero(radii * factors >= radius)
    if not len(reached) or (len(folds) and folds[0] < reached[0]):
        return None
    largest = float(radii[reached[0]])
    r = largest * np.sin(np.linspace(0, np.pi / 2, _SAMPLES))[1:]  # denser where fits go astray
    u, target = (r / largest) ** 2, _polynomial(polynomial, r**2)
    powers = np.stack([u, u**2, u**3], axis=1)
    # numerator - target * denominator = 0 is linear in the coefficients; dividing it by the
    # denominator of the step before makes it the distance of the two functions
    rows = np.concatenate([powers, -target[:, None] * powers], axis=1)
    weight = r
    for _ in range(_FIT_STEPS):
        solution = np.linalg.lstsq(rows * weight[:, None], (target - 1) * weight, rcond=None)[0]
        below = 1 + powers @ solution[3:]
        if (below <= 0).any():
            return None
        weight = r / below
    error = r * np.abs((1 + powers @ solution[:3]) / below - target)
    if error.max() * focal > FIT_TOLERANCE:
        return None
    scales = largest ** (2.0 * np.arange(1, 4))
    return tuple(float(value) for value in solution / np.tile(scales, 2))


def _polynomial(coefficients: Sequence[float], squares: np.ndarray) -> np.ndarray:
    k1, k2, k3, k4 = coefficients
    return 1 + squares * (k1 + squares * (k2 + squares * (k3 + squares * k4)))
