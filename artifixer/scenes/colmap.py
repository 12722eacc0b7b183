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
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras, LensModel
from artifixer.geometry.local_origin import Origin, camera_origin, points_to_local, to_local
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import LARGEST_TEXT, is_regular, open_regular, read_whole
from artifixer.scenes.mask_files import MaskFiles
from artifixer.scenes.photo_files import (
    LARGEST_INTRINSIC,
    LARGEST_POSITION,
    LARGEST_SIZE,
    SMALLEST_FOCAL_LENGTH,
    FittedView,
    cameras_are_upright,
    check_broken,
    check_may_read,
    fit_camera,
    left_out_note,
    open_photo,
    shorter,
)
from artifixer.scenes.photo_names import PhotoNames, renamed_note, unlisted_note
from artifixer.scenes.point_cloud import read_points, usable_points
from artifixer.scenes.scene import Photo, Scene, SparsePoints, exact_viewmats_of

#: Points and images belong together when the images confirm this share of the points' tracks.
LEAST_AGREEING_TRACKS = 0.5

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
        return _file(self.folder, "images", self.suffix)


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


def numbered_model(capture: Path, model_folder: Path, number: int) -> Path:
    """The model with a number among those beside ``model_folder``, which is read by default.

    Raises InputError, naming those there are, for another number.
    """
    models = _numbered_siblings(model_folder)
    chosen = next((model for label, model in models if int(label[:9]) == number), None)
    if chosen is None:
        known = ", ".join(
            f"{label} with {max(_image_count(model), 0)} images" for label, model in models
        )
        raise InputError(
            f"--sparse-model {number}: {capture} has no COLMAP model of that number; expected "
            + (f"one of {known}" if models else f"none: {model_folder} is the only model")
        )
    return chosen


def _numbered_siblings(model_folder: Path) -> list[tuple[str, Path]]:
    """Number and folder of every model where ``model_folder`` is one of several numbered ones."""
    above = model_folder.parent
    if model_folder.name.isdecimal():  # sparse/0
        return [(model.name, model) for model in _models_at(above, "*")]
    if above.name.isdecimal():  # dense/0/sparse
        place = f"*/{model_folder.name}"
        return [(model.parent.name, model) for model in _models_at(above.parent, place)]
    return []


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


def _other_models_note(capture: Path, model_folder: Path) -> tuple[str, ...]:
    """One line about the parts into which mapping fell besides the one that is read."""
    others = [model for _, model in _numbered_siblings(model_folder) if model != model_folder]
    if not others:
        return ()
    counts = ", ".join(
        f"{_place(capture, model)} with {max(_image_count(model), 0)} images" for model in others
    )
    return (
        f"read {_place(capture, model_folder)}; left out {counts} (--sparse-model N chooses "
        "another)",
    )


def _place(capture: Path, model_folder: Path) -> str:
    """A model's folder as notes name it."""
    inside = model_folder.is_relative_to(capture) and model_folder != capture
    return model_folder.relative_to(capture).as_posix() if inside else model_folder.name


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


def load(capture: Path, model_folder: Path, upright: Collection[Path] | None = None) -> Scene:
    """The scene of the COLMAP model in ``model_folder``, photos sorted by name.

    Photos keep the names that they have inside the capture (``images/0001.jpg``). upright: photos
    whose cameras are of the pixels as EXIF turns them, where the caller knows. Raises InputError
    for truncated or inconsistent files, lens models that ``Cameras`` doesn't know, unreadable
    photos and photos that don't fit their cameras.
    """
    model = read_model(model_folder)
    source = model.images_file
    images = sorted(model.images, key=lambda image: image.name)
    listed = [image.name for image in images]
    broken = dict(model.broken)
    check_broken(broken, len(images) + len(broken), source)
    home = _home(capture, model_folder)
    top = capture
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
    notes += _other_models_note(top, model_folder)
    notes += renamed_note(capture, listed, paths, source)

    masks = MaskFiles(capture)
    views: list[FittedView] = []
    used: list[ColmapImage] = []
    opened: list[tuple[ColmapImage, Photo, Cameras]] = []
    for image, path in zip(images, paths, strict=True):
        if not path.is_file():
            continue
        check_may_read(path)
        try:
            photo = open_photo(path, path.relative_to(capture).as_posix(), masks.find(path))
            camera = to_cameras(model.cameras[image.camera_id], image, source)
            opened.append((image, photo, camera))
        except InputError as error:
            broken[image.name] = str(error)
    are_upright = upright is None and cameras_are_upright(
        ((photo, camera, *_observed(model, image)) for image, photo, camera in opened), source
    )
    for image, photo, camera in opened:
        try:
            views.append(
                fit_camera(photo, camera, source, are_upright or photo.path in (upright or ()))
            )
            used.append(image)
        except InputError as error:
            broken[image.name] = str(error)
    notes += check_broken(broken, len(images) + len(model.broken), source) + model.notes
    if are_upright:
        notes += (f"{source.name}: EXIF turns photos, and their cameras are of the turned photos",)
    out = names.find_all(roots[int(np.argmax(counts))], [*model.broken], source)
    found = [path for path in (*paths, *out) if is_regular(path)]
    notes += unlisted_note(capture, found, source)
    place = dict(zip((*listed, *model.broken), (*paths, *out), strict=True))
    lost += tuple(_relative(capture, place[name]) for name in broken)
    origin = camera_origin([view.camera for view in views])
    points, remarks = _points(model, used, views, origin)
    photos: tuple[Photo, ...] = tuple(view.photo for view in views)
    cameras = tuple(to_local(view.camera, origin) for view in views)
    return Scene(
        capture.resolve().name,
        "colmap",
        photos,
        cameras,
        points,
        notes=notes + remarks,
        lost_photos=lost,
        origin=origin,
        exact_viewmats=exact_viewmats_of([view.camera for view in views], origin),
    )


def _observed(
    model: ColmapModel, image: ColmapImage
) -> tuple[Float[np.ndarray, "points 3"], UInt8[np.ndarray, "points 3"]]:
    """Positions and colours of the points that an image observes."""
    ids = image.point_ids[image.point_ids >= 0]
    if model.points is None:
        return np.zeros((0, 3)), np.zeros((0, 3), np.uint8)
    rows = np.flatnonzero(np.isin(model.points.ids, ids))
    return model.points.xyz[rows], model.points.rgb[rows]


def _points(
    model: ColmapModel, images: Sequence[ColmapImage], views: Sequence[FittedView], origin: Origin
) -> tuple[SparsePoints | None, tuple[str, ...]]:
    """The model's points, else those of ``points3D.ply`` beside it, relative to
    ``origin``; and remarks on them."""
    beside = model.folder / "points3D.ply"
    if (model.points is None or not len(model.points.ids)) and is_regular(beside):
        cloud = read_points(beside, origin)
        points = SparsePoints.without_tracks(cloud.xyz, cloud.rgb)
        remark = f"{len(points):,} points of {beside.name}, which tells no observations"
        return points, (remark, *cloud.notes)
    if model.points is None:
        return None, (f"{model.folder} has no points3D file: no sparse points",)
    points = _sparse_points(model.points, images, views, origin)
    if points.has_tracks:
        return points, ()
    return points, (f"{model.folder}: no photo observes a sparse point",)


def _relative(capture: Path, path: Path) -> str:
    """The name of a photo inside the capture; as it is for one that is listed elsewhere and not
    found.
    """
    return path.relative_to(capture).as_posix() if path.is_relative_to(capture) else path.as_posix()


def read_model(folder: Path) -> ColmapModel:
    """Reads and checks a model; binary files are preferred where both exist.

    Single images whose values or camera make no sense are ``broken``; points and observations that
    make none are left out. Raises InputError for truncated files, trailing bytes, and ids that
    exist twice.
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
    cameras_file = _file(folder, "cameras", suffix)
    cameras = read_cameras(cameras_file)
    images = tuple(read_images(_file(folder, "images", suffix)))
    points_file = _file(folder, "points3D", suffix)
    points = read_points(points_file) if is_regular(points_file) else None
    images_file = _file(folder, "images", suffix)
    bad_cameras = {
        camera_id: text
        for camera_id, camera in cameras.items()
        if (text := _camera_fault(cameras_file, camera_id, camera)) is not None
    }
    notes = _unused_cameras_note(bad_cameras, images, cameras_file)
    images, broken = _good_images(images_file, cameras, bad_cameras, images)
    if points is not None:
        images, points, remarks = _agreeing(points_file, images, points)
        notes += remarks
    return ColmapModel(folder, cameras, images, points, broken, notes, suffix)


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


def _camera_fault(path: Path, camera_id: int, camera: ColmapCamera) -> str | None:
    """What makes a camera unusable, in one line."""
    label = f"{path}: camera {camera_id}"
    if not (0 < camera.width <= LARGEST_SIZE and 0 < camera.height <= LARGEST_SIZE):
        return (
            f"{label} has the size {camera.width}x{camera.height}; expected 1 to {LARGEST_SIZE} "
            "pixels"
        )
    for name, value in zip(_LENSES[camera.model].parameters, camera.parameters, strict=True):
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


def _good_images(
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


def _unused_cameras_note(
    bad_cameras: Mapping[int, str], images: Sequence[ColmapImage], path: Path
) -> tuple[str, ...]:
    """One line about broken cameras that no image uses."""
    used = {image.camera_id for image in images}
    unused = [text for camera_id, text in bad_cameras.items() if camera_id not in used]
    if not unused:
        return ()
    count = f"{len(unused)} broken camera{'s' if len(unused) > 1 else ''}"
    return (f"{path.name}: {count} that no photo uses left out ({shorter(unused[0], path)})",)


def _agreeing(
    path: Path, images: Sequence[ColmapImage], points: ColmapPoints
) -> tuple[tuple[ColmapImage, ...], ColmapPoints, tuple[str, ...]]:
    """Points with usable positions, and images with the observations on which points and images
    agree; and remarks on what is left out.

    Points are cleaned, thinned or replaced by other tools, which leave the images as they were. An
    observation counts when the image's keypoint names the point and the point's track names the
    keypoint. Where fewer than ``LEAST_AGREEING_TRACKS`` of the tracks are so confirmed, the points
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
    if count == 0 or count < LEAST_AGREEING_TRACKS * in_model.sum():
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
    outside = ids[(ids >= np.uint64(2**63)) & (ids != _NO_POINT)]
    if len(outside):
        raise InputError(f"{path}: holds the point id {int(outside[0])}; the file is damaged")
    return ids.astype(np.int64)


def _add_camera(
    path: Path, cameras: dict[int, ColmapCamera], camera_id: int, camera: ColmapCamera
) -> None:
    if camera_id in cameras:
        raise InputError(f"{path}: camera {camera_id} occurs twice; expected unique ids")
    names = _LENSES[camera.model].parameters
    if len(camera.parameters) != len(names):
        raise InputError(
            f"{path}: camera {camera_id} has {len(camera.parameters)} parameters; {camera.model} "
            f"expects {len(names)} ({', '.join(names)})"
        )
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


#: How Microsoft's runtime writes what is not a number.
_MSVC_NAN = re.compile(r"[+-]?(nan\(\w*\)|1\.#\w+)", re.IGNORECASE)


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
        if dtype is np.float64:
            fields = ["nan" if _MSVC_NAN.fullmatch(word) else word for word in fields]
        return np.array(fields, dtype=dtype)
    except (ValueError, OverflowError) as error:
        kind = "whole numbers" if dtype is np.int64 else "numbers"
        raise InputError(f"{path}: line {line} should hold {kind} ({error})") from error
