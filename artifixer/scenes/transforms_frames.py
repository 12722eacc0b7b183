"""A frame of a ``transforms.json`` -> its camera: lens, size and pose.

Intrinsics stand in the frame, in the file, or in both (the frame wins); a field of view stands in
for a missing focal length. Poses are camera_to_world in OpenGL axes (+y up, -z forward) and become
world_to_camera in OpenCV axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras, LensModel
from artifixer.geometry.radial_polynomial import rational_coefficients
from artifixer.geometry.transforms import OPENCV_FROM_OPENGL
from artifixer.runtime.errors import InputError
from artifixer.runtime.image_files import MAX_PIXELS
from artifixer.runtime.json_io import read_json
from artifixer.scenes.photo_files import (
    LARGEST_INTRINSIC,
    LARGEST_POSITION,
    LARGEST_SIZE,
    SMALLEST_FOCAL_LENGTH,
)

#: Numbers beyond this do not fit float32.
LARGEST_NUMBER = float(np.finfo(np.float32).max)

#: Tolerance on the entries of rotations, which are written with six digits or more.
RIGID_TOLERANCE = 1e-3

#: Fields of view (radians) closer than this to 0 or pi are mistakes.
SMALLEST_ANGLE = 1e-2

#: Pixels of photos are square; two fields of view that give pixels more oblong than this belong to
#: different picture formats.
LARGEST_PIXEL_ASPECT = 1.1

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


def frame_camera(
    frame: TransformsEntry, whole: TransformsEntry, photo_size: tuple[int, int]
) -> Cameras:
    """One view in float64; ``photo_size`` stands in for a size that the file does not tell."""
    intrinsics = _Intrinsics.read(frame, whole, photo_size)
    viewmat = frame_viewmat(frame)
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


def frame_viewmat(frame: TransformsEntry) -> Float[np.ndarray, "4 4"]:
    """The frame's world_to_camera in OpenCV axes."""
    viewmat = np.linalg.inv(_camera_to_world(frame) @ OPENCV_FROM_OPENGL)
    if not (np.abs(viewmat) <= LARGEST_POSITION).all():
        raise frame.error("transform_matrix", f"positions of at most {LARGEST_POSITION:g} units")
    return viewmat


def _camera_to_world(frame: TransformsEntry) -> Float[np.ndarray, "4 4"]:
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


def is_equirectangular(frame: TransformsEntry, whole: TransformsEntry) -> bool:
    return (frame if frame.has("camera_model") else whole).values.get(
        "camera_model"
    ) == EQUIRECTANGULAR


def is_ideal_fisheye(frame: TransformsEntry, whole: TransformsEntry) -> bool:
    if is_equirectangular(frame, whole):
        return False
    return _lens(_lens_scope(frame, whole)) == "fisheye" and not any(
        _coefficient(frame, whole, name) for name in DISTORTION_NAMES[:4]
    )


# Intrinsics ---------------------------------------------------------------------------------------


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
    def read(
        frame: TransformsEntry, whole: TransformsEntry, photo_size: tuple[int, int]
    ) -> _Intrinsics:
        """The frame's own values, else the file's, else what follows from the photo's size."""
        width, height = (
            _image_side(frame, whole, "w", photo_size[0]),
            _image_side(frame, whole, "h", photo_size[1]),
        )
        if width * height > MAX_PIXELS:
            raise InputError(
                f"{frame.source}: {frame.label} has {width}x{height} pixels; expected at most "
                f"{MAX_PIXELS:,}"
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
            fy = fx
            if scope.has("camera_angle_y"):
                fy = _focal_length_of_angle(scope, "camera_angle_y", height)
                _check_square_pixels(scope, fx, fy)
        model = _lens(_lens_scope(frame, whole))
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

    def with_eighth_power(self, scope: TransformsEntry) -> _Intrinsics:
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


def either(frame: TransformsEntry, whole: TransformsEntry, key: str, default: float) -> float:
    scope = frame if frame.has(key) else whole
    return scope.number(key) if scope.has(key) else default


def _image_side(frame: TransformsEntry, whole: TransformsEntry, key: str, default: int) -> int:
    value = either(frame, whole, key, default)
    if value != int(value) or not 0 < value <= LARGEST_SIZE:
        raise (frame if frame.has(key) else whole).error(
            key, f"a whole number of pixels from 1 to {LARGEST_SIZE}"
        )
    return int(value)


def _principal_point(frame: TransformsEntry, whole: TransformsEntry, key: str, side: int) -> float:
    value = either(frame, whole, key, side / 2)
    if abs(value) > LARGEST_INTRINSIC:
        raise (frame if frame.has(key) else whole).error(
            key, f"a principal point of at most {LARGEST_INTRINSIC:g} pixels"
        )
    return value


def _coefficient(frame: TransformsEntry, whole: TransformsEntry, key: str) -> float:
    value = either(frame, whole, key, 0.0)
    if abs(value) > LARGEST_INTRINSIC:
        raise (frame if frame.has(key) else whole).error(
            key, f"a distortion coefficient of at most {LARGEST_INTRINSIC:g}"
        )
    return value


def _focal_length(scope: TransformsEntry, key: str) -> float:
    focal = scope.number(key)
    if not SMALLEST_FOCAL_LENGTH <= focal <= LARGEST_INTRINSIC:
        raise scope.error(
            key, f"a focal length of {SMALLEST_FOCAL_LENGTH:g} to {LARGEST_INTRINSIC:g} pixels"
        )
    return focal


def _focal_length_of_angle(scope: TransformsEntry, key: str, side: int) -> float:
    angle = scope.number(key)
    if not SMALLEST_ANGLE <= angle <= math.pi - SMALLEST_ANGLE:
        raise scope.error(key, "a field of view in radians, between 0 and pi")
    return max(side / 2 / math.tan(angle / 2), SMALLEST_FOCAL_LENGTH)


def _check_square_pixels(scope: TransformsEntry, fx: float, fy: float) -> None:
    """Raises InputError for fields of view along x and y that do not fit the photo's sides."""
    aspect = max(fx / fy, fy / fx)
    if aspect > LARGEST_PIXEL_ASPECT:
        shape = ("high", "wide") if fx > fy else ("wide", "high")
        raise scope.error(
            "camera_angle_y",
            f"one that fits camera_angle_x: the two give pixels {aspect:.3g} times as {shape[0]} "
            f"as {shape[1]} (focal lengths {fx:.5g} and {fy:.5g} pixels); leave camera_angle_y out "
            "if the pixels are square, or write fl_x and fl_y if they are not",
        )


def _lens_scope(frame: TransformsEntry, whole: TransformsEntry) -> TransformsEntry:
    """Where the lens is named: in the frame or for the whole file."""
    return frame if frame.has("camera_model") or frame.has("is_fisheye") else whole


def _lens(scope: TransformsEntry) -> LensModel:
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


# Values of a JSON object --------------------------------------------------------------------------


@dataclass(frozen=True)
class TransformsEntry:
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
            f'{self.source}: {self.label} has "{key}" = {shortened(self.values.get(key))}; '
            f"expected {expected}"
        )


def read_transforms(path: Path) -> tuple[TransformsEntry, list[Any]]:
    """The whole file, and its list of frames, unchecked."""
    whole = TransformsEntry(path, "the file", json_object(path, "the file", read_json(path)))
    frames = whole.values.get("frames")
    if not isinstance(frames, list) or not frames:
        expected = "a list of frames that is not empty"
        raise InputError(f'{path}: "frames" is {shortened(frames)}; expected {expected}')
    return whole, frames


def _is_finite(value: object) -> bool:
    """Whether a JSON value is a number that float32 can hold; JSON as Python reads it has NaN,
    infinity and integers of any length.
    """
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) <= LARGEST_NUMBER
    )


def json_object(source: Path, label: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{source}: {label} is {shortened(value)}; expected a JSON object")
    return value


def shortened(value: object) -> str:
    """A value for a message, cut to a readable length."""
    if value is None:
        return "missing"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= 80 else text[:77] + "..."
