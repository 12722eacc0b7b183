"""``transforms.json`` of nerfstudio and instant-ngp -> ``Scene``.

Poses are camera_to_world in OpenGL axes (+y up, -z forward) and become world_to_camera in OpenCV
axes; the world stays the file's. Intrinsics stand in the file, in the frame, or in both (the frame
wins); a field of view stands in for a missing focal length. ``ply_file_path``, or ``sparse_pc.ply``
beside the file, gives points without tracks.
"""

from __future__ import annotations

import functools
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
from artifixer.runtime.image_files import MOST_PIXELS, exif_orientation, read_image
from artifixer.runtime.json_io import read_json
from artifixer.scenes.mask_files import MaskFiles
from artifixer.scenes.panoramas import DEFAULT_FACES, panorama_splits, panorama_views
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
    path_inside,
    stored_size,
)
from artifixer.scenes.photo_names import PhotoNames, renamed_note
from artifixer.scenes.point_cloud import read_points
from artifixer.scenes.scene import Photo, Scene, SparsePoints, Split

FILE_NAME = "transforms.json"

#: The files of NeRF-synthetic scenes: training photos first, then held-out ones in the order in
#: which they are preferred.
SYNTHETIC_NAMES = ("transforms_train.json", "transforms_test.json", "transforms_val.json")

#: Points whose colours are compared with photos, to tell which way up cameras are.
POINTS_COMPARED = 2000

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
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])

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
    return _scene(capture, [path], faces)


def load_synthetic(capture: Path, path: Path, faces: int | None = None) -> Scene:
    """The scene of a folder with ``transforms_train.json`` (``path``) and, if there, ``_test`` and
    ``_val`` beside it: NeRF-synthetic and what Blender add-ons write.

    The split ``transforms`` trains on the first and holds out the test photos, or the validation
    photos where there are none; validation photos beside test ones are left out. Photos with alpha
    are of objects over nothing: alpha is the opacity of what they show (``Photo.opacity``).
    Raises InputError as ``load`` does.
    """
    heldout = [found for name in SYNTHETIC_NAMES[1:] if is_regular(found := capture / name)]
    scene = _scene(capture, [path, *heldout[:1]], faces)
    notes = scene.notes
    for other in heldout[1:]:
        count = len(_read(other)[1])
        notes += (f"{other.name} is left out ({count} photos): {heldout[0].name} is held out",)
    splits = scene.splits
    if heldout:
        names = [_photo_names(capture, file) for file in (path, heldout[0])]
        train = tuple(photo.name for photo in scene.photos if photo.name in names[0])
        rest = tuple(p.name for p in scene.photos if p.name in names[1] - names[0])
        splits = {**splits, "transforms": Split("transforms", train, rest)}
    return replace(scene, format="nerf_synthetic", notes=notes, splits=splits)


def _photo_names(capture: Path, path: Path) -> set[str]:
    """Names inside the capture of the photos that a transforms file lists, as far as they are
    usable.
    """
    frames = [frame for frame in _read(path)[1] if isinstance(frame, dict)]
    listed = [name for frame in frames if isinstance(name := frame.get("file_path"), str)]
    found = PhotoNames(capture).find_all(capture, listed, path)
    return {file.relative_to(capture).as_posix() for file in found}


def find_synthetic(capture: Path) -> Path | None:
    """The ``transforms_train.json`` of a capture's folder, or None."""
    path = capture / SYNTHETIC_NAMES[0]
    return path if is_regular(path) else None


def _scene(capture: Path, files: Sequence[Path], faces: int | None) -> Scene:
    """The scene of the frames of one file, or of those of a training and a held-out one."""
    path = files[0]
    names, masks = PhotoNames(capture), MaskFiles(capture)
    broken: dict[str, str] = {}
    listed: list[_Listed] = []
    count = 0
    for file in files:
        whole, frames = _read(file)
        count += len(frames)
        entries = []
        for number, frame in enumerate(frames):
            try:
                entries.append(_checked_frame(file, f"frame {number}", frame))
            except InputError as error:
                broken[f"{file.name} frame {number}"] = str(error)
        paths = names.find_all(capture, [_file_path(entry) for entry in entries], file)
        listed += [
            _Listed(
                found,
                found.relative_to(capture).as_posix(),
                entry,
                whole,
                _mask(names, capture, entry) or masks.find(found),
            )
            for found, entry in zip(paths, entries, strict=True)
        ]
    listed, doubled = _without_doubles(listed)
    broken |= doubled
    check_broken(broken, count, path)

    lost = tuple(entry.name for entry in listed if not entry.path.is_file())
    notes = left_out_note(lost, len(listed), path, "do not exist")
    notes += renamed_note(
        capture,
        [_file_path(entry.frame) for entry in listed],
        [entry.path for entry in listed],
        path,
    )
    recent = functools.lru_cache(maxsize=2)(read_image)  # panoramas, for their faces
    are_upright = _cameras_are_upright(capture, listed, path)
    views: list[FittedView] = []
    for entry in listed:
        if not entry.path.is_file():
            continue
        check_may_read(entry.path)
        try:
            views += _views(entry, are_upright, faces or DEFAULT_FACES, recent)
        except InputError as error:
            broken[entry.name] = str(error)
    notes += check_broken(broken, count, path)
    photos = tuple(view.photo for view in views)
    whole = _read(path)[0]
    origin = camera_origin([view.camera for view in views])
    return Scene(
        name=capture.resolve().name,
        format="transforms_json",
        photos=photos,
        cameras=tuple(to_local(view.camera, origin) for view in views),
        points=_points(capture, whole, origin),
        splits=_panorama_splits(listed, photos) or _splits(capture, whole, photos),
        applied_transform=_applied_transform(whole),
        notes=notes,
        lost_photos=(*lost, *broken),
        origin=origin,
    )


def _mask(names: PhotoNames, capture: Path, frame: _Entry) -> Path | None:
    """The mask that a frame names (``mask_path``), or None. Raises InputError if it is absent."""
    if not frame.has("mask_path"):
        return None
    listed = frame.values["mask_path"]
    if not isinstance(listed, str):
        raise frame.error("mask_path", "the path of a mask")
    found = names.find(capture, listed, frame.source)
    if not is_regular(found):
        raise InputError(
            f"{frame.source}: {frame.label} has the mask {listed[:80]}, which does not exist; "
            "expected a picture inside the capture's folder"
        )
    return found


def _without_doubles(listed: Sequence[_Listed]) -> tuple[list[_Listed], dict[str, str]]:
    """The frames sorted by photo, and what is wrong with others, by photo: of frames of one photo
    that say the same the first counts, of those that differ none.
    """
    first: dict[str, _Listed] = {}
    broken: dict[str, str] = {}
    for entry in listed:
        if first.setdefault(entry.name, entry).frame.values != entry.frame.values:
            where = f"{entry.frame.source}: {entry.frame.label}"
            broken[entry.name] = (
                f"{where}: the photo {entry.name} is listed twice, with other values; expected one "
                "frame per photo"
            )
    good = [entry for name, entry in first.items() if name not in broken]
    return sorted(good, key=lambda entry: entry.name), broken


def _checked_frame(path: Path, label: str, frame: object) -> _Entry:
    """A frame that is an object and names a photo."""
    entry = _Entry(path, label, _mapping(path, label, frame))
    _file_path(entry)
    return entry


def read_path(path: Path, size: tuple[int, int] | None = None) -> list[CameraFrame]:
    """The cameras of a transforms file as a path, in the file's order and world, in float64;
    photos need not exist.

    A size that the file does not tell is that of the frame's photo, else of any photo that it
    lists, else twice the principal point, else ``size``. Raises InputError as ``load`` does, and
    for sizes that nothing tells.
    """
    whole, frames = _read(path)
    path_frames: list[CameraFrame] = []
    photo_size: tuple[int, int] | None = None
    for number, frame in enumerate(frames):
        entry = _Entry(path, f"frame {number}", _mapping(path, f"frame {number}", frame))
        stand_in = _path_size(path, entry, whole, photo_size, size)
        photo_size = stand_in
        file_path = entry.values.get("file_path")
        camera = _camera(entry, whole, stand_in)
        path_frames.append(CameraFrame(camera, file_path if isinstance(file_path, str) else None))
    return path_frames


def _path_size(
    path: Path,
    entry: _Entry,
    whole: _Entry,
    other: tuple[int, int] | None,
    default: tuple[int, int] | None,
) -> tuple[int, int]:
    """What stands in for a size that the file does not tell. other: of an earlier frame."""
    if all(entry.has(key) or whole.has(key) for key in ("w", "h")):
        return 0, 0
    if other is not None and other != (0, 0):
        return other
    for frame in (entry.values, *(f for f in whole.values["frames"] if isinstance(f, dict))):
        listed = frame.get("file_path")
        if isinstance(listed, str):
            try:
                photo = PhotoNames(path.parent).find(path.parent, listed, path)
                if is_regular(photo):
                    return stored_size(open_photo(photo, listed))
            except InputError:  # a path needs no photos
                continue
    centre = [_either(entry, whole, key, 0.0) for key in ("cx", "cy")]
    if all(1 <= value <= LARGEST_SIZE / 2 for value in centre):
        return round(2 * centre[0]), round(2 * centre[1])
    if default is not None:
        return default
    raise entry.error(
        "w", "a number of pixels here or in the file, or a photo that tells it (w and h)"
    )


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
    """A frame with the file it names: ``name`` is the path inside the capture; ``whole`` is the
    file that lists it, ``mask`` the photo's mask.
    """

    path: Path
    name: str
    frame: _Entry
    whole: _Entry
    mask: Path | None = None


def _file_path(frame: _Entry) -> str:
    file_path = frame.values.get("file_path")
    if not isinstance(file_path, str):
        raise InputError(
            f'{frame.source}: {frame.label} has "file_path" = {_short(file_path)}; expected the '
            "path of a photo"
        )
    return file_path


def _cameras_are_upright(capture: Path, listed: Sequence[_Listed], path: Path) -> bool:
    """Whether the cameras of photos that EXIF turns are of the turned photos; False without points
    that could tell.
    """
    turned: list[tuple[Photo, Cameras]] = []
    for entry in listed:
        try:
            if entry.path.is_file() and exif_orientation(entry.path) != 1:
                photo = open_photo(entry.path, entry.name)
                turned.append((photo, _camera(entry.frame, entry.whole, stored_size(photo))))
        except InputError:  # told when the frame itself is read
            continue
    if not turned:
        return False
    origin = camera_origin([camera for _, camera in turned])
    points = _points(capture, _read(path)[0], origin)
    if points is None or not len(points):
        return False
    chosen = np.linspace(0, len(points) - 1, min(len(points), POINTS_COMPARED)).astype(int)
    xyz, rgb = points.xyz.numpy()[chosen] + np.array(origin), points.rgb.numpy()[chosen]
    return cameras_are_upright(((photo, camera, xyz, rgb) for photo, camera in turned), path)


def _views(
    listed: _Listed, are_upright: bool, faces: int, read: Callable[[Path], np.ndarray]
) -> list[FittedView]:
    """The view of a photo, or those of an equirectangular one's faces."""
    whole = listed.whole
    photo = open_photo(
        listed.path,
        listed.name,
        listed.mask,
        alpha="opacity" if whole.source.name in SYNTHETIC_NAMES else "mask",
    )
    if _is_equirectangular(listed.frame, whole):
        photo = replace(photo, read=functools.partial(read, listed.path))
        return panorama_views(photo, torch.from_numpy(_viewmat(listed.frame)), faces)
    return [_view(listed, photo, are_upright)]


def _is_equirectangular(frame: _Entry, whole: _Entry) -> bool:
    return (frame if frame.has("camera_model") else whole).values.get(
        "camera_model"
    ) == EQUIRECTANGULAR


def _view(listed: _Listed, photo: Photo, are_upright: bool) -> FittedView:
    size = (photo.width, photo.height) if are_upright else stored_size(photo)
    camera = _camera(listed.frame, listed.whole, size)
    return fit_camera(photo, camera, listed.whole.source, are_upright)


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
    viewmat = np.linalg.inv(_camera_to_world(frame) @ OPENCV_FROM_OPENGL)
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


def _panorama_splits(listed: Sequence[_Listed], photos: tuple[Photo, ...]) -> dict[str, Split]:
    """Splits of whole panoramas, where all photos are faces; the file's own lists name panoramas,
    and are not taken over.
    """
    all_round = all(_is_equirectangular(entry.frame, entry.whole) for entry in listed)
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
        sizes = " or ".join(f"{height}x{width}" for height, width in shapes)
        expected = f"a matrix of {sizes} finite numbers"
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
