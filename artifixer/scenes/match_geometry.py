"""Matches between two photos and what they say about poses: how many agree with given ones, and
whether a turn of the camera explains them all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from artifixer.scenes.photo_matches import PairMatches

#: Distance from the epipolar line in pixels of the small pictures at which a match agrees.
EPIPOLAR_PIXELS = 1.5

#: Angle between the rays of a match (radians) below which the sign of its depth is not reliable.
PARALLEL = 0.005

#: Photos show no parallax when turning the camera explains their matches to this many pixels (of
#: the small pictures), the median of every pair; and when there are this many pairs.
ROTATION_PIXELS, ROTATION_PAIRS = 0.75, 5


def agreement(viewmats: Float[np.ndarray, "views 4 4"], pairs: Sequence[PairMatches]) -> float:
    """Fraction of the matches that lie on the poses' epipolar lines in front of both cameras, mean
    over pairs.
    """
    return float(np.mean([_pair_agreement(viewmats, pair) for pair in pairs]))


def _pair_agreement(viewmats: np.ndarray, pair: PairMatches) -> float:
    relative = viewmats[pair.second] @ np.linalg.inv(viewmats[pair.first])
    rotation, translation = relative[:3, :3], relative[:3, 3]
    length = np.linalg.norm(translation)
    if not length > 0:
        return 0.0
    one, two = _rays(pair.first_plane), _rays(pair.second_plane)
    turned = one @ rotation.T
    # essential matrix E = [t]x R: x2' E x1 = 0; Sampson's distance (Hartley and Zisserman 11.9)
    lines_two = np.cross(translation / length, turned)
    lines_one = np.cross(two, translation / length) @ rotation
    residual = np.abs((two * lines_two).sum(axis=1))
    slope = (lines_two[:, :2] ** 2).sum(axis=1) + (lines_one[:, :2] ** 2).sum(axis=1)
    distance = residual / np.sqrt(np.maximum(slope, 1e-30)) * pair.focal
    first_depth, second_depth, angle = _depths(turned, two, translation)
    in_front = (angle < PARALLEL) | ((first_depth > 0) & (second_depth > 0))
    return float(((distance < EPIPOLAR_PIXELS) & in_front).mean())


def _rays(plane: Float[np.ndarray, "matches 2"]) -> Float[np.ndarray, "matches 3"]:
    return np.concatenate([plane, np.ones((len(plane), 1))], axis=1)


def _depths(
    turned: np.ndarray, two: np.ndarray, translation: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least squares of depth_1 R x1 + t = depth_2 x2, and about the sine of the angle between the
    rays.
    """
    aa, bb, ab = (turned**2).sum(axis=1), (two**2).sum(axis=1), (turned * two).sum(axis=1)
    at, bt = turned @ translation, two @ translation
    determinant = np.maximum(aa * bb - ab**2, 1e-30)
    return (
        (ab * bt - bb * at) / determinant,
        (aa * bt - ab * at) / determinant,
        np.sqrt(determinant / (aa * bb)),
    )


# Pure rotation ------------------------------------------------------------------------------------


def shows_no_parallax(pairs: Sequence[PairMatches], pixels: float = ROTATION_PIXELS) -> bool:
    """Whether a rotation of the camera explains the matches of every pair, the median to
    ``pixels``.
    """
    return all(rotation_residual(pair) < pixels for pair in pairs)


def rotation_residual(pair: PairMatches) -> float:
    """Median distance in pixels between matching rays after the best rotation (Kabsch's, reweighted
    towards the smallest absolute error).
    """
    one, two = (_unit(_rays(plane)) for plane in (pair.first_plane, pair.second_plane))
    weight = np.ones(len(one))
    for _ in range(10):
        u, _, vt = np.linalg.svd((two * weight[:, None]).T @ one)
        rotation = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
        distance = np.linalg.norm(two - one @ rotation.T, axis=1)
        weight = 1 / np.maximum(distance, 0.1 / pair.focal)
    return float(np.median(distance) * pair.focal)


def _unit(vectors: np.ndarray) -> np.ndarray:
    units: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return units
