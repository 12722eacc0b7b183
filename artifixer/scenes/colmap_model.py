"""What a COLMAP model holds: cameras, images and points as they stand in its files, and which of
them can be used.

Single broken entries are left out and named; a model is refused when its files contradict each
other. ``colmap_files.py`` reads and writes the files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8

from artifixer.runtime.counts import counted
from artifixer.runtime.errors import InputError
from artifixer.scenes.colmap_lenses import LENSES
from artifixer.scenes.photo_files import (
    LARGEST_INTRINSIC,
    LARGEST_POSITION,
    LARGEST_SIZE,
    SMALLEST_FOCAL_LENGTH,
    shorter,
)
from artifixer.scenes.point_cloud import usable_points

#: Points and images belong together when the images confirm this fraction of the points' tracks.
MIN_AGREEING_TRACKS = 0.5

#: Tolerance on the norm of quaternions, which files round to few digits.
QUATERNION_TOLERANCE = 1e-3


@dataclass(frozen=True)
class ColmapCamera:
    """One line of ``cameras``: name of the lens model, image size in pixels, parameters in COLMAP's
    order.
    """

    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


@dataclass(frozen=True)
class ColmapImage:
    """One image: world_to_camera as unit quaternion (wxyz) and translation; keypoints, and the
    point id each one observes (-1: none).
    """

    image_id: int
    quaternion: Float[np.ndarray, " 4"]
    translation: Float[np.ndarray, " 3"]
    camera_id: int
    name: str
    keypoints: Float[np.ndarray, "keypoints 2"]
    point_ids: Int[np.ndarray, " keypoints"]


@dataclass(frozen=True)
class ColmapPoints:
    """All points; tracks are three parallel arrays: row of the point, image id, index among the
    image's keypoints.
    """

    ids: Int[np.ndarray, " points"]
    xyz: Float[np.ndarray, "points 3"]
    rgb: UInt8[np.ndarray, "points 3"]
    track_row: Int[np.ndarray, " observations"]
    track_image: Int[np.ndarray, " observations"]
    track_keypoint: Int[np.ndarray, " observations"]


@dataclass(frozen=True)
class ColmapModel:
    """A whole model. ``folder`` is named in messages; ``points`` is None when the model has no
    ``points3D`` file.

    broken: what is wrong with images that are left out, by their names; notes: remarks on what else
    is left out.
    """

    folder: Path
    cameras: dict[int, ColmapCamera]
    images: tuple[ColmapImage, ...]
    points: ColmapPoints | None
    broken: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    suffix: str = ".bin"

    @property
    def images_file(self) -> Path:
        """The file that lists the images."""
        return model_file(self.folder, "images", self.suffix)


def model_file(folder: Path, name: str, suffix: str) -> Path:
    return folder / (name + suffix)


# Checks -------------------------------------------------------------------------------------------


def camera_fault(path: Path, camera_id: int, camera: ColmapCamera) -> str | None:
    """What makes a camera unusable, in one line."""
    label = f"{path}: camera {camera_id}"
    if not (0 < camera.width <= LARGEST_SIZE and 0 < camera.height <= LARGEST_SIZE):
        return (
            f"{label} has the size {camera.width}x{camera.height}; expected 1 to {LARGEST_SIZE} "
            "pixels"
        )
    for name, value in zip(LENSES[camera.model].parameters, camera.parameters, strict=True):
        if not abs(value) <= LARGEST_INTRINSIC:  # NaN fails too
            return (
                f"{label} has {name} = {value}; expected a number of at most {LARGEST_INTRINSIC:g}"
            )
        if name in ("f", "fx", "fy") and value < SMALLEST_FOCAL_LENGTH:
            return (
                f"{label} has the focal length {value}; expected at least "
                f"{SMALLEST_FOCAL_LENGTH:g} pixel"
            )
    return None


def good_images(
    path: Path,
    cameras: Mapping[int, ColmapCamera],
    bad_cameras: Mapping[int, str],
    images: Sequence[ColmapImage],
) -> tuple[tuple[ColmapImage, ...], dict[str, str]]:
    """Images that can be used, and what is wrong with the others, by name. Of images that are
    listed several times with one pose, the first counts; with several poses, none.

    Raises InputError for an image id that occurs twice: tracks could mean either.
    """
    ids: set[int] = set()
    doubled = {name for name, count in Counter(image.name for image in images).items() if count > 1}
    first: dict[str, ColmapImage] = {}
    good: list[ColmapImage] = []
    broken: dict[str, str] = {}
    for image in images:
        label = f"image {image.image_id} ({image.name})"
        if image.image_id in ids:
            raise InputError(f"{path}: {label} occurs twice; expected unique ids")
        ids.add(image.image_id)
        fault = _image_fault(path, image, cameras, bad_cameras)
        if fault is None and image.name in doubled:
            same = first.setdefault(image.name, image)
            if not _same_view(same, image):
                fault = f"{label} occurs twice, with other poses; expected unique names"
            elif same is not image:
                continue
        if fault is None:
            good.append(image)
        else:
            broken.setdefault(image.name, f"{path}: {fault}")
    return tuple(image for image in good if image.name not in broken), broken


def _same_view(first: ColmapImage, second: ColmapImage) -> bool:
    return first.camera_id == second.camera_id and np.array_equal(
        [*first.quaternion, *first.translation], [*second.quaternion, *second.translation]
    )


def _image_fault(
    path: Path,
    image: ColmapImage,
    cameras: Mapping[int, ColmapCamera],
    bad_cameras: Mapping[int, str],
) -> str | None:
    """What makes an image unusable, in one line."""
    label = f"image {image.image_id} ({image.name})"
    if image.camera_id in bad_cameras:
        fault = bad_cameras[image.camera_id].removeprefix(f"{path.parent}{os.sep}")
        return f"{label} uses a broken camera: {fault}"
    if image.camera_id not in cameras:
        return (
            f"{label} uses camera {image.camera_id}, which does not exist; expected one of the "
            f"{len(cameras)} listed"
        )
    if (
        not (np.abs(image.quaternion) <= 2).all()  # NaN fails too
        or abs(np.linalg.norm(image.quaternion) - 1) > QUATERNION_TOLERANCE
    ):
        return f"{label} has the rotation {image.quaternion.tolist()}; expected a unit quaternion"
    if not _within(LARGEST_POSITION, image.translation):
        return (
            f"{label} has the translation {image.translation.tolist()}; expected numbers of at "
            f"most {LARGEST_POSITION:g}"
        )
    return None


def add_camera(
    path: Path, cameras: dict[int, ColmapCamera], camera_id: int, camera: ColmapCamera
) -> None:
    if camera_id in cameras:
        raise InputError(f"{path}: camera {camera_id} occurs twice; expected unique ids")
    names = LENSES[camera.model].parameters
    if len(camera.parameters) != len(names):
        raise InputError(
            f"{path}: camera {camera_id} has {counted(len(camera.parameters), 'parameter')}; "
            f"{camera.model} expects {len(names)} ({', '.join(names)})"
        )
    cameras[camera_id] = camera


def unused_cameras_note(
    bad_cameras: Mapping[int, str], images: Sequence[ColmapImage], path: Path
) -> tuple[str, ...]:
    """One line about broken cameras that no image uses."""
    used = {image.camera_id for image in images}
    unused = [text for camera_id, text in bad_cameras.items() if camera_id not in used]
    if not unused:
        return ()
    count = counted(len(unused), "broken camera")
    return (f"{path.name}: {count} that no photo uses left out ({shorter(unused[0], path)})",)


def agreeing_tracks(
    path: Path, images: Sequence[ColmapImage], points: ColmapPoints
) -> tuple[tuple[ColmapImage, ...], ColmapPoints, tuple[str, ...]]:
    """Points with usable positions, and images with the observations on which points and images
    agree; and remarks on what is left out.

    Points are cleaned, thinned or replaced by other tools, which leave the images as they were. An
    observation counts when the image's keypoint names the point and the point's track names the
    keypoint. Where fewer than ``MIN_AGREEING_TRACKS`` of the tracks are so confirmed, the points
    come from elsewhere and agree by chance, so none counts. Raises InputError for a point id that
    occurs twice.
    """
    notes: tuple[str, ...] = ()
    ids = np.sort(points.ids)
    if (ids[1:] == ids[:-1]).any():
        raise InputError(
            f"{path}: point {ids[:-1][ids[1:] == ids[:-1]][0]} occurs twice; expected unique ids"
        )
    good, remarks = usable_points(path, points.xyz)
    if not good.all():
        notes += remarks
        points = _chosen(points, good)
    observed = np.concatenate([np.zeros(0, np.int64), *(image.point_ids for image in images)])
    claimed = int((observed >= 0).sum())
    if not claimed:
        return tuple(images), points, notes  # converters write points and poses without keypoints

    image_ids = np.array([image.image_id for image in images])
    counts = np.array([len(image.keypoints) for image in images])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    order = np.argsort(image_ids)
    slot = np.minimum(np.searchsorted(image_ids, points.track_image, sorter=order), len(images) - 1)
    row = order[slot]
    in_model = image_ids[row] == points.track_image
    known = in_model & (points.track_keypoint >= 0) & (points.track_keypoint < counts[row])
    keypoint = (starts[row] + points.track_keypoint)[known]
    keypoint = keypoint[observed[keypoint] == points.ids[points.track_row[known]]]
    agreed = np.zeros(len(observed), bool)
    agreed[keypoint] = True
    pixels = np.concatenate([np.zeros((0, 2)), *(image.keypoints for image in images)])
    agreed &= (np.abs(pixels) <= LARGEST_INTRINSIC).all(axis=1)
    count = int(agreed.sum())
    if count == claimed == int(in_model.sum()):
        return tuple(images), points, notes
    if count == 0 or count < MIN_AGREEING_TRACKS * in_model.sum():
        agreed[:] = False
        notes += (
            f"{path.name} and {path.with_stem('images').name} do not belong together: the points "
            "are used, their observations are not",
        )
    else:
        notes += (
            f"{max(claimed, int(in_model.sum())) - count} of {max(claimed, int(in_model.sum()))} "
            f"observations are left out: {path.with_stem('images').name} and {path.name} do not "
            "agree on them",
        )
    point_ids = np.split(np.where(agreed, observed, -1), np.cumsum(counts)[:-1])
    cleaned = (replace(image, point_ids=own) for image, own in zip(images, point_ids, strict=True))
    return tuple(cleaned), points, notes


def _chosen(points: ColmapPoints, good: np.ndarray) -> ColmapPoints:
    """The points where ``good`` is true, with their tracks."""
    rows = np.cumsum(good) - 1
    tracks = good[points.track_row]
    return ColmapPoints(
        points.ids[good],
        points.xyz[good],
        points.rgb[good],
        rows[points.track_row[tracks]],
        points.track_image[tracks],
        points.track_keypoint[tracks],
    )


def _within(limit: float, values: np.ndarray) -> bool:
    return bool((np.abs(values) <= limit).all())  # NaN fails too
