"""Photos -> matching directions of a few pairs of them, without use of any pose (SIFT of OpenCV).

For checks of given poses that may take a second or two: few photos, reduced in size. Structure from
motion (``photos.py``) matches all of them.
"""

from __future__ import annotations

import itertools
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from artifixer.geometry.cameras import Cameras
from artifixer.imaging.resize import fit_size
from artifixer.runtime.errors import InputError
from artifixer.scenes.scene import Scene

#: Photos are reduced to this longest side (pixels) and give at most this many features.
LONGEST_SIDE, FEATURES = 480, 800

#: Photos that are matched: groups of neighbours by name, evenly spread. Of large photos there are
#: fewer, since reading them takes most of the time.
GROUPS, GROUP = 3, 4
PIXEL_BUDGET = 60e6

#: Distance between the neighbours of a group as a fraction of the capture, so that video frames
#: differ.
NEIGHBOUR_STEP = 1 / 40

#: A match counts when its second-best candidate is this much worse, in both directions.
RATIO = 0.8

#: Distance in pixels of the small picture from an epipolar line, and how many matches that agree on
#: one epipolar geometry make a pair.
EPIPOLAR_PIXELS, MIN_MATCHES = 1.5, 30

#: Rays farther from the axis than this (tangent) are left out: a pinhole geometry is fitted.
WIDEST_TANGENT = 3.0


@dataclass(frozen=True)
class PairMatches:
    """Matches between two photos of a scene that agree on some epipolar geometry.

    first, second: indices of the photos. first_plane, second_plane: where the matching rays meet
    the plane z = 1 of each camera (lens distortion undone). focal: pixels of the small pictures per
    unit of that plane.
    """

    first: int
    second: int
    first_plane: Float[np.ndarray, "matches 2"]
    second_plane: Float[np.ndarray, "matches 2"]
    focal: float


def match_photos(scene: Scene) -> list[PairMatches]:
    """Pairs among a few photos that share enough features; photos that cannot be read are left out.

    The same scene gives the same matches.
    """
    features = {}
    for index in _chosen(scene):
        with suppress(InputError):  # who uses the photo says what is wrong with it
            features[index] = _features(scene, index)
    pairs = []
    for first, second in itertools.combinations(sorted(features), 2):
        found = _matched(first, features[first], second, features[second])
        if found is not None:
            pairs.append(found)
    return pairs


@dataclass(frozen=True)
class _Features:
    plane: Float[np.ndarray, "features 2"]
    descriptors: Float[np.ndarray, "features 128"]
    focal: float


def _chosen(scene: Scene) -> list[int]:
    """Indices of the photos to look at."""
    count = len(scene.photos)
    pixels = max(photo.width * photo.height for photo in scene.photos)
    groups = max(1, min(GROUPS, int(PIXEL_BUDGET / pixels / GROUP)))
    step = max(1, round(count * NEIGHBOUR_STEP))
    reach = (GROUP - 1) * step
    starts = np.linspace(0, max(0, count - 1 - reach), groups).round().astype(int).tolist()
    return sorted({min(start + k * step, count - 1) for start in starts for k in range(GROUP)})


def _features(scene: Scene, index: int) -> _Features:
    import cv2

    photo, camera = scene.photos[index], scene.cameras[index].to("cpu", torch.float64)
    width, height = fit_size(photo.width, photo.height, LONGEST_SIDE)
    grey = cv2.cvtColor(photo.read(), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)
    keypoints, descriptors = cv2.SIFT.create(nfeatures=FEATURES).detectAndCompute(small, None)
    if descriptors is None or len(keypoints) < MIN_MATCHES:
        return _Features(np.zeros((0, 2)), np.zeros((0, 128), np.float32), 1.0)
    # OpenCV counts from the centre of the first pixel
    pixels = np.array([keypoint.pt for keypoint in keypoints]) + 0.5
    plane, inside = _to_plane(camera.resized(width, height), pixels)
    focal = float(camera.Ks[0, 0, 0]) * width / photo.width
    # RootSIFT: the root of the normalised histogram compares better (Arandjelovic 2012)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-9))
    return _Features(plane[inside], root[inside], focal)


def _to_plane(
    camera: Cameras, pixels: Float[np.ndarray, "pixels 2"]
) -> tuple[Float[np.ndarray, "pixels 2"], np.ndarray]:
    """Pixels on the plane z = 1, and which of them are near enough to the axis."""
    rays = camera.unproject(torch.from_numpy(pixels)[None])[0].numpy()
    inside = np.hypot(rays[:, 0], rays[:, 1]) < WIDEST_TANGENT * rays[:, 2]
    return rays[:, :2] / np.where(inside, rays[:, 2], 1.0)[:, None], inside


def _matched(first: int, one: _Features, second: int, two: _Features) -> PairMatches | None:
    import cv2

    if min(len(one.plane), len(two.plane)) < MIN_MATCHES:
        return None
    likeness = one.descriptors @ two.descriptors.T
    matches = _mutual(likeness)
    if len(matches) < MIN_MATCHES:
        return None
    a, b = one.plane[matches[:, 0]], two.plane[matches[:, 1]]
    focal = (one.focal + two.focal) / 2
    _, mask = cv2.findFundamentalMat(
        a * focal, b * focal, cv2.FM_RANSAC, EPIPOLAR_PIXELS, 0.999, 2000
    )
    if mask is None:
        return None
    agree = mask[:, 0].astype(bool)
    if agree.sum() < MIN_MATCHES:
        return None
    return PairMatches(first, second, a[agree], b[agree], focal)


def _mutual(likeness: Float[np.ndarray, "first second"]) -> np.ndarray:
    """Index pairs that are each other's best by a margin; descriptors have length one."""
    distance = np.sqrt(np.maximum(2 - 2 * likeness, 0))
    forward, backward = distance.argmin(axis=1), distance.argmin(axis=0)
    rows = np.arange(len(distance))
    best, second = np.partition(distance, 1, axis=1)[:, :2].T
    clear = (backward[forward] == rows) & (best < RATIO * second)
    return np.stack([rows[clear], forward[clear]], axis=1)
