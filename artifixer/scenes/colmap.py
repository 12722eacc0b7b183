"""COLMAP models, binary and text -> ``Scene``.

A model is ``cameras``, ``images`` and ``points3D`` (``.bin`` or ``.txt``) in ``sparse/0``,
``sparse`` or the capture's folder itself; photos lie in ``images/`` or in the capture's folder.
Newer COLMAP adds ``rigs`` and ``frames``; ``images`` still holds every pose, so they are not
needed.
COLMAP's conventions are ours: world_to_camera, OpenCV axes, first pixel centre at 0.5.

The files are read here and not by COLMAP's own library: that library ends the whole process on some
damaged files, and this reader says which file is wrong and where. Formats:
https://colmap.github.io/format.html
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras, LensModel
from artifixer.geometry.local_origin import Origin, camera_origin, points_to_local, to_local
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import LARGEST_TEXT, is_regular, open_regular, read_whole
from artifixer.scenes.photo_files import (
    LARGEST_INTRINSIC,
    LARGEST_POSITION,
    LARGEST_SIZE,
    SMALLEST_FOCAL_LENGTH,
    FittedView,
    fit_camera,
    left_out_note,
    open_photo,
)
from artifixer.scenes.photo_names import PhotoNames, renamed_note, unlisted_note
from artifixer.scenes.scene import Photo, Scene, SparsePoints

#: Files may round quaternions to few digits; more than this is damage.
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
    """

    folder: Path
    cameras: dict[int, ColmapCamera]
    images: tuple[ColmapImage, ...]
    points: ColmapPoints | None


#: Folders of a capture that photos of a model may lie in, in the order of preference among equally
#: complete ones.
_PHOTO_FOLDERS = ("images", ".", "input", "images_2", "images_4", "images_8")


def find_model(capture: Path) -> Path | None:
    """Folder of the COLMAP model of a capture, or None: the one with the most images where mapping
    gave several.
    """
    return _largest_model(
        capture,
        (
            "sparse/*",
            "sparse",
            ".",
            "distorted/sparse/*",
            "distorted/sparse",
            "dense/*/sparse",
            "dense/sparse",
        ),
    )


def find_nerfstudio_model(capture: Path) -> Path | None:
    """Folder of the COLMAP model that nerfstudio keeps beside its own files, or None."""
    return _largest_model(capture, ("colmap/sparse/*", "colmap/sparse"))


def _largest_model(capture: Path, places: Sequence[str]) -> Path | None:
    """The largest model of the first place that has any; of equal ones the first."""
    for place in places:
        models = _models_at(capture, place)
        if models:
            return models[0] if len(models) == 1 else max(models, key=_image_count)
    return None


def _models_at(capture: Path, place: str) -> list[Path]:
    """Models in a folder, or with ``*`` in the place's numbered folders, in the order of their
    numbers.
    """
    if "*" not in place:
        return [capture / place] if is_model(capture / place) else []
    before, after = place.split("*")
    folder = capture / before
    numbered = (
        [path for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    )
    models = (
        path / after.strip("/")
        for path in sorted(numbered, key=lambda path: (int(path.name[:9]), path.name))
    )
    return [model for model in models if is_model(model)]


def _image_count(folder: Path) -> int:
    """Images of a model; -1 for one that cannot be read."""
    try:
        if is_regular(_file(folder, "images", ".bin")):
            return _BinaryFile(_file(folder, "images", ".bin")).count("the number of images")
        return sum(1 for _ in _images_txt(_file(folder, "images", ".txt")))
    except InputError:
        return -1


def _other_models_note(model_folder: Path) -> tuple[str, ...]:
    """One line about the parts into which mapping fell besides the one that is read."""
    if not model_folder.name.isdecimal():
        return ()
    others = [
        model for model in _models_at(model_folder.parent, "*") if model.name != model_folder.name
    ]
    if not others:
        return ()
    counts = ", ".join(
        f"{model.parent.name}/{model.name} with {max(_image_count(model), 0)} images"
        for model in others
    )
    return (
        f"read {model_folder.parent.name}/{model_folder.name}; left out {counts} (give that folder "
        "as the capture to use it)",
    )


def _home(capture: Path, model_folder: Path) -> Path:
    """The folder whose photos a model describes: the capture's, or what holds the model when that
    is given as the capture.
    """
    where = model_folder.resolve()
    where = where.parent if where.name.isdecimal() else where
    if where.name != "sparse":
        return capture
    if model_folder == capture:
        return where.parent
    inner = model_folder.parent.parent if model_folder.name.isdecimal() else model_folder.parent
    return (
        inner
        if inner.relative_to(capture).parts[:1] == ("dense",) and (inner / "images").is_dir()
        else capture
    )


def is_model(folder: Path) -> bool:
    """Whether ``folder`` holds any part of a model; ``read_model`` tells what is missing."""
    return any(
        is_regular(_file(folder, name, suffix))
        for name in ("cameras", "images")
        for suffix in (".bin", ".txt")
    )


def load(capture: Path, model_folder: Path) -> Scene:
    """The scene of the COLMAP model in ``model_folder``, photos sorted by name.

    Photos keep the names that they have inside the capture (``images/0001.jpg``). Raises InputError
    for truncated or inconsistent files, lens models that ``Cameras`` doesn't know, unreadable
    photos and photos that don't fit their cameras.
    """
    model = read_model(model_folder)
    source = model_folder / "images"
    images = sorted(model.images, key=lambda image: image.name)
    listed = [image.name for image in images]
    home = _home(capture, model_folder)
    if capture == model_folder and home != capture:
        capture = home  # the model's own folder was given
    names = PhotoNames(capture)
    roots = [
        home / folder
        for folder in _PHOTO_FOLDERS
        if folder in ("images", ".") or (home / folder).is_dir()
    ]
    in_roots = [names.find_all(root, listed, source) for root in roots]
    counts = [sum(map(is_regular, paths)) for paths in in_roots]
    if not any(counts):
        example = f" (first: {images[0].name})" if images else ""
        raise InputError(
            f"{source}: none of the {len(images)} listed photos{example} is in {home / 'images'} "
            f"or {home}"
        )
    paths = in_roots[int(np.argmax(counts))]
    lost = tuple(_relative(capture, path) for path in paths if not is_regular(path))
    notes = left_out_note(lost, len(images), source, "do not exist")
    notes += _other_models_note(model_folder)
    notes += renamed_note(capture, listed, paths, source)
    notes += unlisted_note(capture, [path for path in paths if is_regular(path)], source)

    present = [(image, path) for image, path in zip(images, paths, strict=True) if path.is_file()]
    views = []
    for image, path in present:
        photo = open_photo(path, path.relative_to(capture).as_posix())
        views.append(
            fit_camera(photo, to_cameras(model.cameras[image.camera_id], image, source), source)
        )
    origin = camera_origin([view.camera for view in views])
    points = None
    if model.points is None:
        notes += (f"{model_folder} has no points3D file: no sparse points",)
    else:
        points = _sparse_points(model.points, [image for image, _ in present], views, origin)
        if not points.has_tracks:
            notes += (f"{model_folder}: no photo observes a sparse point",)
    photos: tuple[Photo, ...] = tuple(view.photo for view in views)
    cameras = tuple(to_local(view.camera, origin) for view in views)
    return Scene(
        capture.resolve().name,
        "colmap",
        photos,
        cameras,
        points,
        notes=notes,
        lost_photos=lost,
        origin=origin,
    )


def _relative(capture: Path, path: Path) -> str:
    """The name of a photo inside the capture; as it is for one that is listed elsewhere and not
    found.
    """
    return path.relative_to(capture).as_posix() if path.is_relative_to(capture) else path.as_posix()


def read_model(folder: Path) -> ColmapModel:
    """Reads and checks a model; binary files are preferred where both exist.

    Raises InputError for truncated files, trailing bytes, ids that don't exist or exist twice,
    values that aren't finite, rotations that aren't unit quaternions, and tracks that contradict
    the images.
    """
    suffix = next(
        (
            suffix
            for suffix in (".bin", ".txt")
            if all(_file(folder, n, suffix).is_file() for n in ("cameras", "images"))
        ),
        None,
    )
    if suffix is None:
        raise InputError(
            f"{folder}: an incomplete COLMAP model; expected cameras.bin and images.bin, or "
            "cameras.txt and images.txt"
        )
    read_cameras = _cameras_bin if suffix == ".bin" else _cameras_txt
    read_images = _images_bin if suffix == ".bin" else _images_txt
    read_points = _points_bin if suffix == ".bin" else _points_txt
    cameras = read_cameras(_file(folder, "cameras", suffix))
    images = tuple(read_images(_file(folder, "images", suffix)))
    points_file = _file(folder, "points3D", suffix)
    points = read_points(points_file) if is_regular(points_file) else None
    _check_images(_file(folder, "images", suffix), cameras, images)
    if points is not None:
        _check_points(points_file, images, points)
    return ColmapModel(folder, cameras, images, points)


def _file(folder: Path, name: str, suffix: str) -> Path:
    return folder / (name + suffix)


# Lens models --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lens:
    """How a COLMAP lens model reads: our model, and the names of its parameters (``f`` stands for
    ``fx`` and ``fy``).
    """

    model: LensModel | None
    parameters: tuple[str, ...]


_PINHOLE_ORDER = ("fx", "fy", "cx", "cy")
_SINGLE_ORDER = ("f", "cx", "cy")

#: Lens models in COLMAP's numbering. Those without one of our models must be undistorted first;
#: only their parameter counts matter.
_LENSES: dict[str, _Lens] = {
    "SIMPLE_PINHOLE": _Lens("pinhole", _SINGLE_ORDER),
    "PINHOLE": _Lens("pinhole", _PINHOLE_ORDER),
    "SIMPLE_RADIAL": _Lens("pinhole", (*_SINGLE_ORDER, "k1")),
    "RADIAL": _Lens("pinhole", (*_SINGLE_ORDER, "k1", "k2")),
    "OPENCV": _Lens("pinhole", (*_PINHOLE_ORDER, "k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": _Lens("fisheye", (*_PINHOLE_ORDER, "k1", "k2", "k3", "k4")),
    "FULL_OPENCV": _Lens(
        "pinhole", (*_PINHOLE_ORDER, "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    ),
    "FOV": _Lens(None, (*_PINHOLE_ORDER, "omega")),
    "SIMPLE_RADIAL_FISHEYE": _Lens("fisheye", (*_SINGLE_ORDER, "k1")),
    "RADIAL_FISHEYE": _Lens("fisheye", (*_SINGLE_ORDER, "k1", "k2")),
    "THIN_PRISM_FISHEYE": _Lens(
        None, (*_PINHOLE_ORDER, "k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1")
    ),
    "RAD_TAN_THIN_PRISM_FISHEYE": _Lens(
        None, (*_PINHOLE_ORDER, *(f"k{i}" for i in range(6)), "p0", "p1", "s0", "s1", "s2", "s3")
    ),
    "SIMPLE_DIVISION": _Lens(None, (*_SINGLE_ORDER, "k")),
    "DIVISION": _Lens(None, (*_PINHOLE_ORDER, "k")),
    "SIMPLE_FISHEYE": _Lens("fisheye", _SINGLE_ORDER),
    "FISHEYE": _Lens("fisheye", _PINHOLE_ORDER),
    "EUCM": _Lens(None, (*_PINHOLE_ORDER, "alpha", "beta")),
    "EQUIRECTANGULAR": _Lens(None, ("w", "h")),
}
_LENS_NAMES = tuple(_LENSES)


def to_cameras(camera: ColmapCamera, image: ColmapImage, source: Path) -> Cameras:
    """One image's camera as a batch of one, in float64.

    Raises InputError for lens models that can't be mapped; ``source`` is named in the message.
    """
    lens = _LENSES[camera.model]
    if lens.model is None:
        known = ", ".join(name for name, entry in _LENSES.items() if entry.model is not None)
        raise InputError(
            f"{source}: camera {image.camera_id} has the lens model {camera.model}, which cannot "
            f"be mapped; expected one of {known}. "
            "Undistort the photos first (colmap image_undistorter)"
        )
    value = dict(zip(lens.parameters, camera.parameters, strict=True))
    fx, fy = value.get("fx", value.get("f", 0.0)), value.get("fy", value.get("f", 0.0))
    viewmat = np.eye(4)
    viewmat[:3, :3] = _rotation(image.quaternion)
    viewmat[:3, 3] = image.translation
    K = np.array([[fx, 0, value["cx"]], [0, fy, value["cy"]], [0, 0, 1]])
    distortion = np.array([value.get(name, 0.0) for name in DISTORTION_NAMES])
    one_view = [
        torch.from_numpy(array[None].astype(np.float64)) for array in (viewmat, K, distortion)
    ]
    return Cameras(one_view[0], one_view[1], camera.width, camera.height, lens.model, one_view[2])


def _rotation(quaternion: Float[np.ndarray, " 4"]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a quaternion (wxyz), normalised first."""
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


# Points -------------------------------------------------------------------------------------------


def _sparse_points(
    points: ColmapPoints, images: Sequence[ColmapImage], views: Sequence[FittedView], origin: Origin
) -> SparsePoints:
    """Points relative to ``origin`` with the observations of ``images``, whose photos are the
    scene's views in this order.
    """
    by_id = np.argsort(points.ids, kind="stable")
    point_rows, view_rows, pixels = (
        [np.zeros(0, np.int64)],
        [np.zeros(0, np.int64)],
        [np.zeros((0, 2))],
    )
    for view, (image, fitted) in enumerate(zip(images, views, strict=True)):
        observing = image.point_ids >= 0
        point_rows.append(
            by_id[np.searchsorted(points.ids, image.point_ids[observing], sorter=by_id)]
        )
        view_rows.append(np.full(observing.sum(), view))
        pixels.append(
            image.keypoints[observing] @ fitted.pixel_map[:, :2].T + fitted.pixel_map[:, 2]
        )
    return SparsePoints(
        xyz=points_to_local(points.xyz, origin),
        rgb=torch.from_numpy(points.rgb),
        observed_point=torch.from_numpy(np.concatenate(point_rows)),
        observed_view=torch.from_numpy(np.concatenate(view_rows)),
        observed_pixel=torch.from_numpy(np.concatenate(pixels)).to(torch.float32),
    )


# Checks -------------------------------------------------------------------------------------------


def _check_camera(path: Path, camera_id: int, camera: ColmapCamera) -> None:
    if not (0 < camera.width <= LARGEST_SIZE and 0 < camera.height <= LARGEST_SIZE):
        raise InputError(
            f"{path}: camera {camera_id} has the size {camera.width}x{camera.height}; expected 1 "
            f"to {LARGEST_SIZE} pixels"
        )
    names = _LENSES[camera.model].parameters
    if len(camera.parameters) != len(names):
        raise InputError(
            f"{path}: camera {camera_id} has {len(camera.parameters)} parameters; {camera.model} "
            f"expects {len(names)} ({', '.join(names)})"
        )
    for name, value in zip(names, camera.parameters, strict=True):
        if not abs(value) <= LARGEST_INTRINSIC:  # NaN fails too
            raise InputError(
                f"{path}: camera {camera_id} has {name} = {value}; expected a number of at most "
                f"{LARGEST_INTRINSIC:g}"
            )
        if name in ("f", "fx", "fy") and value < SMALLEST_FOCAL_LENGTH:
            raise InputError(
                f"{path}: camera {camera_id} has the focal length {value}; expected at least "
                f"{SMALLEST_FOCAL_LENGTH:g} pixel"
            )


def _check_images(
    path: Path, cameras: dict[int, ColmapCamera], images: Sequence[ColmapImage]
) -> None:
    seen_ids: set[int] = set()
    seen_names: set[str] = set()
    for image in images:
        label = f"{path}: image {image.image_id} ({image.name})"
        if image.image_id in seen_ids or image.name in seen_names:
            raise InputError(f"{label} occurs twice; expected unique ids and names")
        seen_ids.add(image.image_id)
        seen_names.add(image.name)
        if image.camera_id not in cameras:
            raise InputError(
                f"{label} uses camera {image.camera_id}, which does not exist; expected one of the "
                f"{len(cameras)} listed"
            )
        # NaN fails too
        if (
            not (np.abs(image.quaternion) <= 2).all()
            or abs(np.linalg.norm(image.quaternion) - 1) > QUATERNION_TOLERANCE
        ):
            raise InputError(
                f"{label} has the rotation {image.quaternion.tolist()}; expected a unit quaternion"
            )
        if not _within(LARGEST_POSITION, image.translation):
            raise InputError(
                f"{label} has the translation {image.translation.tolist()}; expected numbers of at "
                f"most {LARGEST_POSITION:g}"
            )
        if not _within(LARGEST_INTRINSIC, image.keypoints):
            raise InputError(
                f"{label} has keypoints that are not numbers of at most {LARGEST_INTRINSIC:g}"
            )


def _check_points(path: Path, images: Sequence[ColmapImage], points: ColmapPoints) -> None:
    """Points are finite and unique, and tracks and keypoints tell the same story."""
    if not _within(LARGEST_POSITION, points.xyz):
        raise InputError(
            f"{path}: holds positions that are not numbers of at most {LARGEST_POSITION:g}"
        )
    ids = np.sort(points.ids)
    if (ids[1:] == ids[:-1]).any():
        raise InputError(
            f"{path}: point {ids[:-1][ids[1:] == ids[:-1]][0]} occurs twice; expected unique ids"
        )

    observed = np.concatenate([np.zeros(0, np.int64), *(image.point_ids for image in images)])
    unknown = ~np.isin(observed, ids) & (observed >= 0)
    if unknown.any():
        raise InputError(
            f"{path}: has no point {observed[unknown][0]}, which a keypoint in "
            f"{path.with_stem('images').name} observes"
        )
    if not (observed >= 0).any():
        return  # converters write points and poses without keypoints; the points are still good

    image_ids = np.array([image.image_id for image in images])
    counts = np.array([len(image.keypoints) for image in images])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    order = np.argsort(image_ids)
    slot = np.minimum(np.searchsorted(image_ids, points.track_image, sorter=order), len(images) - 1)
    row = order[slot]
    bad = (
        (image_ids[row] != points.track_image)
        | (points.track_keypoint < 0)
        | (points.track_keypoint >= counts[row])
    )
    keypoint = starts[row] + np.where(bad, 0, points.track_keypoint)
    bad |= observed[np.minimum(keypoint, len(observed) - 1)] != points.ids[points.track_row]
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"{path}: the track of point {points.ids[points.track_row[first]]} names keypoint "
            f"{points.track_keypoint[first]} "
            f"of image {points.track_image[first]}, which does not observe it; the files do not "
            "belong together"
        )
    if len(points.track_row) != (observed >= 0).sum():
        raise InputError(
            f"{path}: its tracks have {len(points.track_row)} observations, the images "
            f"{(observed >= 0).sum()}; "
            "the files do not belong together"
        )


def _within(limit: float, values: np.ndarray) -> bool:
    return bool((np.abs(values) <= limit).all())  # NaN fails too


# Binary files -------------------------------------------------------------------------------------

_KEYPOINT = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<u8")])
_POINT = np.dtype(
    [("id", "<u8"), ("xyz", "<f8", 3), ("rgb", "u1", 3), ("error", "<f8"), ("track", "<u8")]
)
_TRACK = np.dtype([("image", "<u4"), ("keypoint", "<u4")])
_CAMERA = np.dtype([("id", "<u4"), ("model", "<i4"), ("width", "<u8"), ("height", "<u8")])
_IMAGE = np.dtype(
    [("id", "<u4"), ("quaternion", "<f8", 4), ("translation", "<f8", 3), ("camera", "<u4")]
)
_NO_POINT = np.uint64(2**64 - 1)


class _BinaryFile:
    """A file read once from front to back; every read says what it was for when the file ends too
    early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = _mapped(path)
        self.offset = 0

    def array(self, dtype: np.dtype | str, count: int, what: str) -> np.ndarray:
        dtype = np.dtype(dtype)
        if count * dtype.itemsize > len(self.bytes) - self.offset:
            raise InputError(
                f"{self.path}: ends inside {what} at byte {len(self.bytes)}; the file is truncated "
                "or damaged"
            )
        values = np.frombuffer(self.bytes, dtype, count, self.offset)
        self.offset += count * dtype.itemsize
        return values

    def count(self, what: str) -> int:
        return int(self.array("<u8", 1, what)[0])

    def name(self, what: str) -> str:
        end = self.bytes.find(b"\0", self.offset)
        if end < 0:
            raise InputError(
                f"{self.path}: ends inside {what} at byte {len(self.bytes)}; the file is truncated "
                "or damaged"
            )
        raw = self.bytes[self.offset : end]
        self.offset = end + 1
        return _decoded(self.path, raw)

    def finish(self) -> None:
        if self.offset != len(self.bytes):
            raise InputError(
                f"{self.path}: {len(self.bytes) - self.offset} bytes follow the last entry; the "
                "file is damaged"
            )


def _cameras_bin(path: Path) -> dict[int, ColmapCamera]:
    file = _BinaryFile(path)
    count = file.count("the number of cameras")
    cameras: dict[int, ColmapCamera] = {}
    for number in range(count):
        what = f"camera {number + 1} of {count}"
        head = file.array(_CAMERA, 1, what)[0]
        if not 0 <= head["model"] < len(_LENS_NAMES):
            raise InputError(
                f"{path}: {what} has the lens model number {head['model']}; expected 0 to "
                f"{len(_LENS_NAMES) - 1}"
            )
        model = _LENS_NAMES[head["model"]]
        parameters = file.array("<f8", len(_LENSES[model].parameters), what)
        camera = ColmapCamera(
            model, int(head["width"]), int(head["height"]), tuple(parameters.tolist())
        )
        _add_camera(path, cameras, int(head["id"]), camera)
    file.finish()
    return cameras


def _images_bin(path: Path) -> Iterator[ColmapImage]:
    file = _BinaryFile(path)
    count = file.count("the number of images")
    for number in range(count):
        what = f"image {number + 1} of {count}"
        head = file.array(_IMAGE, 1, what)[0]
        name = file.name(what)
        keypoints = file.array(_KEYPOINT, file.count(what), f"the keypoints of {what}")
        yield ColmapImage(
            int(head["id"]),
            head["quaternion"].copy(),
            head["translation"].copy(),
            int(head["camera"]),
            name,
            np.stack([keypoints["x"], keypoints["y"]], axis=1),
            _signed_ids(path, keypoints["point"]),
        )
    file.finish()


def _points_bin(path: Path) -> ColmapPoints:
    """Records vary in length with their tracks: a first pass walks along the track lengths, then
    numpy gathers everything at once.
    """
    file = _BinaryFile(path)
    count = file.count("the number of points")
    content, end = file.bytes, len(file.bytes)
    starts, lengths = [], []
    offset = file.offset
    for number in range(count):
        length_at = offset + _POINT.itemsize - 8
        length = int.from_bytes(content[length_at : length_at + 8], "little")
        starts.append(offset)
        lengths.append(length)
        offset += _POINT.itemsize + length * _TRACK.itemsize
        if offset > end:
            raise InputError(
                f"{path}: ends inside point {number + 1} of {count} at byte {end}; the file is "
                "truncated or damaged"
            )
    file.offset = offset
    file.finish()

    track_counts = np.array(lengths, np.int64)
    raw = np.frombuffer(content, np.uint8)
    start = np.array(starts, np.int64)
    points = (
        raw[start[:, None] + np.arange(_POINT.itemsize)].view(_POINT)[:, 0]
        if count
        else np.zeros(0, _POINT)
    )
    track_row = np.repeat(np.arange(count), track_counts)
    within = np.arange(len(track_row)) - np.repeat(
        np.cumsum(track_counts) - track_counts, track_counts
    )
    track_start = start[track_row] + _POINT.itemsize + within * _TRACK.itemsize
    tracks = (
        raw[track_start[:, None] + np.arange(_TRACK.itemsize)].view(_TRACK)[:, 0]
        if len(track_row)
        else np.zeros(0, _TRACK)
    )
    return ColmapPoints(
        ids=_signed_ids(path, points["id"]),
        xyz=points["xyz"].copy(),
        rgb=points["rgb"].copy(),
        track_row=track_row,
        track_image=tracks["image"].astype(np.int64),
        track_keypoint=tracks["keypoint"].astype(np.int64),
    )


def _signed_ids(path: Path, ids: np.ndarray) -> Int[np.ndarray, " ids"]:
    """Point ids as int64, -1 for "no point"."""
    if ((ids >= np.uint64(2**63)) & (ids != _NO_POINT)).any():
        raise InputError(
            f"{path}: holds the point id {int(ids[(ids >= np.uint64(2**63)) & (ids != _NO_POINT)][0])}; the file is damaged"
        )
    return ids.astype(np.int64)


def _add_camera(
    path: Path, cameras: dict[int, ColmapCamera], camera_id: int, camera: ColmapCamera
) -> None:
    if camera_id in cameras:
        raise InputError(f"{path}: camera {camera_id} occurs twice; expected unique ids")
    _check_camera(path, camera_id, camera)
    cameras[camera_id] = camera


def _mapped(path: Path) -> bytes | mmap.mmap:
    """The file's bytes, of which only those that are looked at come into memory."""
    with open_regular(path, "a part of a COLMAP model") as file:
        is_empty = os.fstat(file.fileno()).st_size == 0
        return b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _decoded(path: Path, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: holds the name {raw[:40]!r}; expected UTF-8 text") from error


# Text files ---------------------------------------------------------------------------------------


def _cameras_txt(path: Path) -> dict[int, ColmapCamera]:
    cameras: dict[int, ColmapCamera] = {}
    for number, line in _entries(path):
        fields = line.split()
        if len(fields) < 4:
            raise InputError(
                f"{path}: line {number} has {len(fields)} fields; expected CAMERA_ID MODEL WIDTH "
                "HEIGHT PARAMS..."
            )
        lens = fields[1].upper()
        if lens not in _LENSES:
            raise InputError(
                f"{path}: line {number} has the lens model {fields[1][:40]!r}; expected one of "
                f"{', '.join(_LENSES)}"
            )
        ids = _numbers(path, number, [fields[0], *fields[2:4]], np.int64)
        parameters = _numbers(path, number, fields[4:], np.float64)
        _add_camera(
            path,
            cameras,
            int(ids[0]),
            ColmapCamera(lens, int(ids[1]), int(ids[2]), tuple(parameters.tolist())),
        )
    return cameras


def _images_txt(path: Path) -> Iterator[ColmapImage]:
    """Two lines per image; the second lists keypoints and may be empty."""
    lines = iter(_lines(path))
    for number, line in lines:
        if not line or line.startswith("#"):
            continue
        fields = line.split(maxsplit=9)
        if len(fields) < 10:
            raise InputError(
                f"{path}: line {number} has {len(fields)} fields; expected IMAGE_ID QW QX QY QZ TX "
                "TY TZ CAMERA_ID NAME"
            )
        ids = _numbers(path, number, [fields[0], fields[8]], np.int64)
        pose = _numbers(path, number, fields[1:8], np.float64)
        keypoint_number, keypoint_line = next(lines, (number + 1, ""))
        keypoint_fields = keypoint_line.split()
        if len(keypoint_fields) % 3:
            raise InputError(
                f"{path}: line {keypoint_number} has {len(keypoint_fields)} fields; expected X Y "
                "POINT3D_ID for each keypoint"
            )
        pixels = [keypoint_fields[0::3], keypoint_fields[1::3]]
        yield ColmapImage(
            int(ids[0]),
            pose[:4],
            pose[4:],
            int(ids[1]),
            fields[9],
            np.stack(
                [_numbers(path, keypoint_number, axis, np.float64) for axis in pixels], axis=1
            ),
            np.maximum(_numbers(path, keypoint_number, keypoint_fields[2::3], np.int64), -1),
        )


def _points_txt(path: Path) -> ColmapPoints:
    heads, colours, tracks, track_rows = [], [], [], []
    ids = []
    for number, line in _entries(path):
        fields = line.split()
        if len(fields) < 8 or len(fields) % 2:
            raise InputError(
                f"{path}: line {number} has {len(fields)} fields; expected POINT3D_ID X Y Z R G B "
                "ERROR (IMAGE_ID POINT2D_IDX)..."
            )
        whole = _numbers(path, number, [fields[0], *fields[4:7], *fields[8:]], np.int64)
        if not ((whole[1:4] >= 0) & (whole[1:4] <= 255)).all():
            raise InputError(
                f"{path}: line {number} has the colour {whole[1:4].tolist()}; expected 0 to 255"
            )
        if whole[0] < 0:
            raise InputError(
                f"{path}: line {number} has the point id {whole[0]}; expected 0 or more"
            )
        ids.append(whole[0])
        heads.append(_numbers(path, number, fields[1:4], np.float64))
        colours.append(whole[1:4])
        tracks.append(whole[4:].reshape(-1, 2))
        track_rows.append(np.full(len(tracks[-1]), len(ids) - 1))
    track = np.concatenate([np.zeros((0, 2), np.int64), *tracks])
    return ColmapPoints(
        ids=np.array(ids, np.int64),
        xyz=np.array(heads, np.float64).reshape(-1, 3),
        rgb=np.array(colours, np.uint8).reshape(-1, 3),
        track_row=np.concatenate([np.zeros(0, np.int64), *track_rows]),
        track_image=track[:, 0],
        track_keypoint=track[:, 1],
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without surrounding blanks."""
    text = _decoded(path, read_whole(path, "a text file of a COLMAP model", LARGEST_TEXT))
    return (
        (number, line.strip())
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1)
    )


def _entries(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are neither empty nor comments."""
    return ((number, line) for number, line in _lines(path) if line and not line.startswith("#"))


def _numbers(
    path: Path, line: int, fields: Sequence[str], dtype: type[np.int64] | type[np.float64]
) -> np.ndarray:
    try:
        return np.array(fields, dtype=dtype)
    except (ValueError, OverflowError) as error:
        kind = "whole numbers" if dtype is np.int64 else "numbers"
        raise InputError(f"{path}: line {line} should hold {kind} ({error})") from error
