"""``transforms.json`` of nerfstudio and instant-ngp -> ``Scene``.

Poses are camera_to_world in OpenGL axes (+y up, -z forward) and become world_to_camera in OpenCV
axes; the world stays the file's. Intrinsics stand in the file, in the frame, or in both (the frame
wins); a field of view stands in for a missing focal length. ``ply_file_path``, or ``sparse_pc.ply``
beside the file, gives points without tracks.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras, LensModel
from artifixer.geometry.local_origin import Origin, camera_origin, to_local
from artifixer.geometry.radial_polynomial import rational_coefficients
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.media import MOST_PIXELS, read_image
from artifixer.runtime.run_folder import read_json
from artifixer.scenes.panoramas import DEFAULT_FACES, panorama_splits, panorama_views
from artifixer.scenes.photo_files import (
    LARGEST_INTRINSIC,
    LARGEST_POSITION,
    LARGEST_SIZE,
    SMALLEST_FOCAL_LENGTH,
    FittedView,
    fit_camera,
    left_out_note,
    open_photo,
    path_inside,
    stored_size,
)
from artifixer.scenes.photo_names import PhotoNames, renamed_note
from artifixer.scenes.point_cloud import read_points
from artifixer.scenes.scene import Photo, Scene, SparsePoints, Split

FILE_NAME = "transforms.json"

#: Numbers beyond this do not fit float32.
LARGEST_NUMBER = float(np.finfo(np.float32).max)

#: Rotations are written with six digits or more; the product with their transpose differs from one
#: by no more than this.
RIGID_TOLERANCE = 1e-3

#: Fields of view (radians) closer than this to 0 or pi are mistakes.
SMALLEST_ANGLE = 1e-2

#: Values of ``camera_model`` and the lens they mean. Perspective models differ only in which
#: coefficients are present.
_LENSES: dict[str, LensModel] = {
    "SIMPLE_PINHOLE": "pinhole",
    "PINHOLE": "pinhole",
    "SIMPLE_RADIAL": "pinhole",
    "RADIAL": "pinhole",
    "OPENCV": "pinhole",
    "FULL_OPENCV": "pinhole",
    "OPENCV_FISHEYE": "fisheye",
    "SIMPLE_RADIAL_FISHEYE": "fisheye",
    "RADIAL_FISHEYE": "fisheye",
    "SIMPLE_FISHEYE": "fisheye",
    "FISHEYE": "fisheye",
}

#: ``camera_model`` of photos that show all directions; they have no other intrinsics.
EQUIRECTANGULAR = "EQUIRECTANGULAR"

#: OpenGL camera axes in OpenCV camera axes: y and z change sign.
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])

#: nerfstudio's own lists of photos; the split made from them is called after the file.
_SPLIT_LISTS = ("train_filenames", "val_filenames", "test_filenames")


def find_transforms(capture: Path) -> Path | None:
    """The ``transforms.json`` of a capture's folder, or None."""
    path = capture / FILE_NAME
    return path if is_regular(path) else None


def is_transforms(path: Path) -> bool:
    """Whether ``path`` is a file called like a transforms file, under any name."""
    return path.suffix.lower() == ".json" and is_regular(path)


def load(capture: Path, path: Path, faces: int | None = None) -> Scene:
    """The scene of the transforms file ``path``, photos sorted by name; listed photos that don't
    exist are counted in one note.

    faces: perspective views of each equirectangular photo (``camera_model`` EQUIRECTANGULAR); None
    for the default. Raises InputError for broken JSON, values of a wrong type or not finite, poses
    that aren't rigid, paths that leave ``capture``, lens models that can't be mapped, unreadable
    photos, photos that don't fit their cameras, and when fewer than two photos exist.
    """
    whole, frames = _read(path)
    names = PhotoNames(capture)
    entries = [
        _Entry(path, f"frame {number}", _mapping(path, f"frame {number}", frame))
        for number, frame in enumerate(frames)
    ]
    paths = names.find_all(capture, [_file_path(entry) for entry in entries], path)
    listed = [
        _Listed(found, found.relative_to(capture).as_posix(), entry)
        for found, entry in zip(paths, entries, strict=True)
    ]
    listed.sort(key=lambda entry: entry.name)
    for first, second in itertools.pairwise(listed):
        if first.name == second.name:
            raise InputError(
                f"{path}: the photo {first.name} is listed twice; expected one frame per photo"
            )

    lost = tuple(entry.name for entry in listed if not entry.path.is_file())
    notes = left_out_note(lost, len(listed), path, "do not exist")
    notes += renamed_note(
        capture,
        [_file_path(entry.frame) for entry in listed],
        [entry.path for entry in listed],
        path,
    )
    recent = functools.lru_cache(maxsize=2)(read_image)  # panoramas, for their faces
    existing = [entry for entry in listed if entry.path.is_file()]
    views = [
        view for entry in existing for view in _views(entry, whole, faces or DEFAULT_FACES, recent)
    ]
    photos = tuple(view.photo for view in views)
    origin = camera_origin([view.camera for view in views])
    return Scene(
        name=capture.resolve().name,
        format="transforms_json",
        photos=photos,
        cameras=tuple(to_local(view.camera, origin) for view in views),
        points=_points(capture, whole, origin),
        splits=_panorama_splits(listed, whole, photos) or _splits(capture, whole, photos),
        applied_transform=_applied_transform(whole),
        notes=notes,
        lost_photos=lost,
        origin=origin,
    )


def read_path(path: Path) -> list[CameraFrame]:
    """The cameras of a transforms file as a path, in the file's order and world, in float64; photos
    are not looked for, so sizes must stand in the file.

    Raises InputError as ``load`` does, for sizes that are missing too.
    """
    whole, frames = _read(path)
    path_frames = []
    for number, frame in enumerate(frames):
        entry = _Entry(path, f"frame {number}", _mapping(path, f"frame {number}", frame))
        for key in ("w", "h"):
            if not entry.has(key) and not whole.has(key):
                raise entry.error(key, "a number of pixels here or in the file")
        file_path = entry.values.get("file_path")
        camera = _camera(entry, whole, (0, 0))
        path_frames.append(CameraFrame(camera, file_path if isinstance(file_path, str) else None))
    return path_frames


def _read(path: Path) -> tuple[_Entry, list[Any]]:
    """The whole file, and its frames as they stand there."""
    whole = _Entry(path, "the file", _mapping(path, "the file", read_json(path)))
    frames = whole.values.get("frames")
    if not isinstance(frames, list) or not frames:
        raise InputError(f'{path}: "frames" is {_short(frames)}; expected a list of frames')
    return whole, frames


# Frames -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    """A frame with the file it names: ``name`` is the path inside the capture."""

    path: Path
    name: str
    frame: _Entry


def _file_path(frame: _Entry) -> str:
    file_path = frame.values.get("file_path")
    if not isinstance(file_path, str):
        raise InputError(
            f'{frame.source}: {frame.label} has "file_path" = {_short(file_path)}; expected the '
            "path of a photo"
        )
    return file_path


def _views(
    listed: _Listed, whole: _Entry, faces: int, read: Callable[[Path], np.ndarray]
) -> list[FittedView]:
    """The view of a photo, or those of an equirectangular one's faces."""
    photo = open_photo(listed.path, listed.name)
    if _is_equirectangular(listed.frame, whole):
        photo = replace(photo, read=functools.partial(read, listed.path))
        return panorama_views(photo, torch.from_numpy(_viewmat(listed.frame)), faces)
    return [_view(listed, whole, photo)]


def _is_equirectangular(frame: _Entry, whole: _Entry) -> bool:
    return (frame if frame.has("camera_model") else whole).values.get(
        "camera_model"
    ) == EQUIRECTANGULAR


def _view(listed: _Listed, whole: _Entry, photo: Photo) -> FittedView:
    return fit_camera(photo, _camera(listed.frame, whole, stored_size(photo)), whole.source)


def _camera(frame: _Entry, whole: _Entry, photo_size: tuple[int, int]) -> Cameras:
    """One view in float64; ``photo_size`` stands in for a size that the file does not tell."""
    intrinsics = _Intrinsics.read(frame, whole, photo_size)
    viewmat = _viewmat(frame)
    return Cameras(
        viewmats=torch.from_numpy(viewmat[None]),
        Ks=torch.tensor(
            [[[intrinsics.fx, 0, intrinsics.cx], [0, intrinsics.fy, intrinsics.cy], [0, 0, 1]]],
            dtype=torch.float64,
        ),
        width=intrinsics.width,
        height=intrinsics.height,
        model=intrinsics.model,
        distortion=torch.tensor([intrinsics.distortion], dtype=torch.float64),
    )


def _viewmat(frame: _Entry) -> Float[np.ndarray, "4 4"]:
    """The frame's world_to_camera in OpenCV axes."""
    viewmat = np.linalg.inv(_camera_to_world(frame) @ _OPENCV_FROM_OPENGL)
    if not (np.abs(viewmat) <= LARGEST_POSITION).all():
        raise frame.error("transform_matrix", f"positions of at most {LARGEST_POSITION:g} units")
    return viewmat


def _camera_to_world(frame: _Entry) -> Float[np.ndarray, "4 4"]:
    """The frame's pose in OpenGL camera axes. Its rotation is replaced by the nearest exact one."""
    pose = frame.matrix("transform_matrix", [(4, 4), (3, 4)])
    pose = (
        np.concatenate([pose[:3], [[0, 0, 0, 1]]])
        if np.allclose(pose[3:], [0, 0, 0, 1])
        else np.full((4, 4), np.nan)
    )
    u, _, vt = np.linalg.svd(np.nan_to_num(pose[:3, :3]).clip(-2, 2))
    rotation = u @ vt
    if (
        not (np.abs(pose[:3, :3] - rotation) <= RIGID_TOLERANCE).all()
        or np.linalg.det(rotation) < 0
    ):
        raise frame.error(
            "transform_matrix",
            "a rigid camera_to_world matrix (rotation and translation without scale or mirroring)",
        )
    pose[:3, :3] = rotation
    return pose


@dataclass(frozen=True)
class _Intrinsics:
    """Intrinsics of one frame in pixels of ``width`` x ``height``."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: LensModel
    distortion: tuple[float, ...]

    @staticmethod
    def read(frame: _Entry, whole: _Entry, photo_size: tuple[int, int]) -> _Intrinsics:
        """The frame's own values, else the file's, else what follows from the photo's size."""
        width, height = (
            _image_side(frame, whole, "w", photo_size[0]),
            _image_side(frame, whole, "h", photo_size[1]),
        )
        if width * height > MOST_PIXELS:
            raise InputError(
                f"{frame.source}: {frame.label} has {width}x{height} pixels; expected at most "
                f"{MOST_PIXELS:,}"
            )
        scope = next(
            (entry for entry in (frame, whole) if entry.has("fl_x") or entry.has("camera_angle_x")),
            None,
        )
        if scope is None:
            raise frame.error(
                "fl_x",
                "a focal length in pixels here or in the file (or camera_angle_x in radians)",
            )
        if scope.has("fl_x"):
            fx = _focal_length(scope, "fl_x")
            fy = _focal_length(scope, "fl_y") if scope.has("fl_y") else fx
        else:
            fx = _focal_length_of_angle(scope, "camera_angle_x", width)
            fy = (
                _focal_length_of_angle(scope, "camera_angle_y", height)
                if scope.has("camera_angle_y")
                else fx
            )
        model = _lens(frame if frame.has("camera_model") or frame.has("is_fisheye") else whole)
        used = DISTORTION_NAMES[:4] if model == "fisheye" else DISTORTION_NAMES
        coefficients = {name: _coefficient(frame, whole, name) for name in used}
        intrinsics = _Intrinsics(
            width,
            height,
            fx,
            fy,
            _principal_point(frame, whole, "cx", width),
            _principal_point(frame, whole, "cy", height),
            model,
            tuple(coefficients.get(name, 0.0) for name in DISTORTION_NAMES),
        )
        lens = frame if frame.has("camera_model") else whole
        rational = str(lens.values.get("camera_model")).upper() == "FULL_OPENCV"
        if model == "fisheye" or rational or not coefficients["k4"]:
            return intrinsics
        return intrinsics.with_eighth_power(frame if frame.has("k4") else whole)

    def with_eighth_power(self, scope: _Entry) -> _Intrinsics:
        """The lens whose k4 is nerfstudio's factor of r^8, where OpenCV's divides by 1 + k4 r^2.

        k5 and k6 are OpenCV's alone: with them k4 is too.
        """
        k1, k2, k3, k4, k5, k6, p1, p2 = self.distortion
        if k5 or k6:
            return self
        corners = [
            math.hypot((x - self.cx) / self.fx, (y - self.cy) / self.fy)
            for x in (0, self.width)
            for y in (0, self.height)
        ]
        radial = rational_coefficients((k1, k2, k3, k4), max(corners), max(self.fx, self.fy))
        if radial is None:
            raise scope.error(
                "k4",
                "a factor of r^8 (nerfstudio's OPENCV) of a lens that does not fold over in the "
                "photo and is no wider than about 110 degrees; undistort the photos first, or "
                "name the lens FULL_OPENCV if k4 divides as in OpenCV",
            )
        return replace(self, distortion=(*radial, p1, p2))


def _either(frame: _Entry, whole: _Entry, key: str, default: float) -> float:
    scope = frame if frame.has(key) else whole
    return scope.number(key) if scope.has(key) else default


def _image_side(frame: _Entry, whole: _Entry, key: str, default: int) -> int:
    value = _either(frame, whole, key, default)
    if value != int(value) or not 0 < value <= LARGEST_SIZE:
        raise (frame if frame.has(key) else whole).error(
            key, f"a whole number of pixels from 1 to {LARGEST_SIZE}"
        )
    return int(value)


def _principal_point(frame: _Entry, whole: _Entry, key: str, side: int) -> float:
    value = _either(frame, whole, key, side / 2)
    if abs(value) > LARGEST_INTRINSIC:
        raise (frame if frame.has(key) else whole).error(
            key, f"a principal point of at most {LARGEST_INTRINSIC:g} pixels"
        )
    return value


def _coefficient(frame: _Entry, whole: _Entry, key: str) -> float:
    value = _either(frame, whole, key, 0.0)
    if abs(value) > LARGEST_INTRINSIC:
        raise (frame if frame.has(key) else whole).error(
            key, f"a distortion coefficient of at most {LARGEST_INTRINSIC:g}"
        )
    return value


def _focal_length(scope: _Entry, key: str) -> float:
    focal = scope.number(key)
    if not SMALLEST_FOCAL_LENGTH <= focal <= LARGEST_INTRINSIC:
        raise scope.error(
            key, f"a focal length of {SMALLEST_FOCAL_LENGTH:g} to {LARGEST_INTRINSIC:g} pixels"
        )
    return focal


def _focal_length_of_angle(scope: _Entry, key: str, side: int) -> float:
    angle = scope.number(key)
    if not SMALLEST_ANGLE <= angle <= math.pi - SMALLEST_ANGLE:
        raise scope.error(key, "a field of view in radians, between 0 and pi")
    return max(side / 2 / math.tan(angle / 2), SMALLEST_FOCAL_LENGTH)


def _lens(scope: _Entry) -> LensModel:
    if scope.has("camera_model"):
        name = scope.values["camera_model"]
        if not isinstance(name, str) or name.upper() not in _LENSES:
            raise scope.error(
                "camera_model",
                f"one of {', '.join(_LENSES)}, {EQUIRECTANGULAR}; undistort the photos first",
            )
        return _LENSES[name.upper()]
    fisheye = scope.values.get("is_fisheye", False)
    if not isinstance(fisheye, bool):
        raise scope.error("is_fisheye", "true or false")
    return "fisheye" if fisheye else "pinhole"


# What stands beside the frames --------------------------------------------------------------------


def _points(capture: Path, whole: _Entry, origin: Origin) -> SparsePoints | None:
    listed = whole.values.get("ply_file_path")
    if listed is None:
        path = capture / "sparse_pc.ply"
        return SparsePoints.without_tracks(*read_points(path, origin)) if is_regular(path) else None
    if not isinstance(listed, str):
        raise whole.error("ply_file_path", "the path of a PLY file")
    return SparsePoints.without_tracks(
        *read_points(path_inside(capture, listed, whole.source), origin)
    )


def _applied_transform(whole: _Entry) -> Float[Tensor, "3 4"] | None:
    """``applied_transform`` times ``applied_scale``: what led from the original world to the
    file's.
    """
    if not whole.has("applied_transform") and not whole.has("applied_scale"):
        return None
    transform = (
        whole.matrix("applied_transform", [(3, 4), (4, 4)])[:3]
        if whole.has("applied_transform")
        else np.eye(3, 4)
    )
    scale = whole.number("applied_scale") if whole.has("applied_scale") else 1.0
    return torch.from_numpy(scale * transform).to(torch.float32)


def _panorama_splits(
    listed: Sequence[_Listed], whole: _Entry, photos: tuple[Photo, ...]
) -> dict[str, Split]:
    """Splits of whole panoramas, where all photos are faces; the file's own lists name panoramas,
    and are not taken over.
    """
    all_round = all(_is_equirectangular(entry.frame, whole) for entry in listed)
    return panorama_splits([photo.name for photo in photos]) if all_round else {}


def _splits(capture: Path, whole: _Entry, photos: tuple[Photo, ...]) -> dict[str, Split]:
    """nerfstudio's train, validation and test lists as one split, if the file has them; photos that
    don't exist are left out.
    """
    if not whole.has("train_filenames"):
        return {}
    existing = {photo.name for photo in photos}
    names: dict[str, list[str]] = {key: [] for key in _SPLIT_LISTS}
    on_disk = PhotoNames(capture)
    for key in _SPLIT_LISTS:
        listed = whole.values.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise whole.error(key, "a list of photos")
        paths = (on_disk.find(capture, name, whole.source) for name in listed)
        names[key] = [
            name for path in paths if (name := path.relative_to(capture).as_posix()) in existing
        ]
    train = tuple(dict.fromkeys(names["train_filenames"]))
    heldout = tuple(
        name
        for name in dict.fromkeys(names["test_filenames"] or names["val_filenames"])
        if name not in train
    )
    return {"transforms": Split("transforms", train, heldout)}


# Values of a JSON object --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A JSON object with the words for messages about it: ``source`` is the file, ``label`` the
    place in it.
    """

    source: Path
    label: str
    values: Mapping[str, Any]

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def number(self, key: str) -> float:
        value = self.values[key]
        if not _is_finite(value):
            raise self.error(key, "a finite number")
        return float(value)

    def matrix(self, key: str, shapes: list[tuple[int, int]]) -> Float[np.ndarray, "rows columns"]:
        """A matrix of one of the shapes, finite."""
        rows = self.values.get(key)
        expected = f"a matrix of {' or '.join(f'{height}x{width}' for height, width in shapes)} finite numbers"
        is_matrix = isinstance(rows, list) and all(
            isinstance(row, list) and len(row) == len(rows[0]) for row in rows
        )
        if not is_matrix or not rows or (len(rows), len(rows[0])) not in shapes:
            raise self.error(key, expected)
        for value in (value for row in rows for value in row):
            if not _is_finite(value):
                raise self.error(key, expected)
        return np.array(rows, np.float64)

    def error(self, key: str, expected: str) -> InputError:
        return InputError(
            f'{self.source}: {self.label} has "{key}" = {_short(self.values.get(key))}; expected '
            f"{expected}"
        )


def _is_finite(value: object) -> bool:
    """Whether a JSON value is a number that float32 can hold; JSON as Python reads it has NaN,
    infinity and integers of any length.
    """
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= LARGEST_NUMBER
    )


def _mapping(source: Path, label: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{source}: {label} is {_short(value)}; expected a JSON object")
    return value


def _short(value: object) -> str:
    """A value for a message, cut to a readable length."""
    if value is None:
        return "missing"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 80 else text[:77] + "..."
