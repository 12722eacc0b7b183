"""Camera paths from files: our ``cameras.json``, 3DGS's ``cameras.json``, nerfstudio's
``camera_path.json``, a ``transforms.json`` whose photos need not exist, or the folder of a COLMAP
model.

3DGS stores camera_to_world rotations and positions in OpenCV axes; nerfstudio stores
camera_to_world in OpenGL axes and vertical fields of view in degrees. nerfstudio's viewer moves and
scales the world: where ``dataparser_transforms.json`` lies beside the path, that is undone.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from artifixer.geometry.camera_file import CameraFrame, is_camera_file, read_cameras, read_origin
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import WORLD, Origin, camera_origin, to_local
from artifixer.geometry.transforms import OPENCV_FROM_OPENGL
from artifixer.runtime.errors import InputError
from artifixer.runtime.files import is_regular
from artifixer.runtime.image_files import MAX_PIXELS
from artifixer.runtime.json_io import is_number, read_json, shown
from artifixer.scenes.colmap import to_cameras
from artifixer.scenes.colmap_files import read_model
from artifixer.scenes.colmap_folders import find_model, find_nerfstudio_model
from artifixer.scenes.photo_files import (
    LARGEST_INTRINSIC,
    LARGEST_POSITION,
    LARGEST_SIZE,
    SMALLEST_FOCAL_LENGTH,
    open_photo,
    stored_size,
)
from artifixer.scenes.photo_names import PhotoNames
from artifixer.scenes.transforms_frames import (
    RIGID_TOLERANCE,
    TransformsEntry,
    either,
    frame_camera,
    json_object,
    read_transforms,
)

#: File with the transform that nerfstudio applied to the world.
NERFSTUDIO_WORLD = "dataparser_transforms.json"

_EXPECTED = (
    "a cameras.json, transforms.json, nerfstudio camera_path.json or the folder of a COLMAP model"
)


def read_camera_path(
    path: Path, origin: Origin = WORLD, size: tuple[int, int] | None = None
) -> list[CameraFrame]:
    """The cameras of a file in its order, of a COLMAP model in the order of its photos' names;
    relative to ``origin``.

    size: (width, height) in pixels of cameras in a ``transforms.json`` that tells none. Raises
    ``InputError`` for a missing, broken or empty file or folder.
    """
    if _is_own(path):
        frames = read_cameras(path, origin)
    else:
        found = _world_path(path, size)
        frames = [replace(frame, camera=to_local(frame.camera, origin)) for frame in found]
    if not frames:
        raise InputError(f"{path}: lists no cameras; expected at least one")
    return frames


def path_origin(path: Path) -> Origin:
    """The origin near the cameras of a file. Raises ``InputError`` as ``read_camera_path`` does."""
    if _is_own(path):
        return read_origin(path)
    # the size does not affect the centres
    return camera_origin([frame.camera for frame in _world_path(path, (1, 1))])


def _is_own(path: Path) -> bool:
    """Whether a file says that it is of our own format. Raises ``InputError`` where none is."""
    if path.is_dir():
        return False
    if not path.exists():
        raise InputError(f"{path}: does not exist, expected {_EXPECTED}")
    return is_camera_file(path)


def _world_path(path: Path, size: tuple[int, int] | None) -> list[CameraFrame]:
    """The cameras of another tool's file in its world, in float64."""
    if path.is_dir():
        return _colmap_path(path)
    content = read_json(path)
    if isinstance(content, list):
        return [_gaussian_splatting_frame(path, n, entry) for n, entry in enumerate(content)]
    if isinstance(content, dict) and "camera_path" in content:
        return _nerfstudio_path(path, content)
    return _transforms_path(path, size)


def _colmap_path(folder: Path) -> list[CameraFrame]:
    found = find_model(folder) or find_nerfstudio_model(folder)
    if found is None:
        raise InputError(f"{folder}: is a folder without a COLMAP model; expected {_EXPECTED}")
    model = read_model(found)
    if not model.images:
        faults = next(iter(model.broken.values()), "lists no cameras; expected at least one")
        raise InputError(f"{model.images_file}: {faults.removeprefix(f'{model.images_file}: ')}")
    return [
        CameraFrame(
            to_cameras(model.cameras[image.camera_id], image, model.images_file), image.name
        )
        for image in sorted(model.images, key=lambda image: image.name)
    ]


def _transforms_path(path: Path, size: tuple[int, int] | None) -> list[CameraFrame]:
    """The cameras of a transforms file as a path, in the file's order and world, in float64;
    photos need not exist.

    A size that the file does not tell is that of the frame's photo, else of any photo that it
    lists, else twice the principal point, else ``size``. Raises InputError as ``load`` does, and
    for sizes that nothing tells.
    """
    whole, frames = read_transforms(path)
    path_frames: list[CameraFrame] = []
    photo_size: tuple[int, int] | None = None
    for number, frame in enumerate(frames):
        entry = TransformsEntry(
            path, f"frame {number}", json_object(path, f"frame {number}", frame)
        )
        stand_in = _path_size(path, entry, whole, photo_size, size)
        photo_size = stand_in
        file_path = entry.values.get("file_path")
        camera = frame_camera(entry, whole, stand_in)
        path_frames.append(CameraFrame(camera, file_path if isinstance(file_path, str) else None))
    return path_frames


def _path_size(
    path: Path,
    entry: TransformsEntry,
    whole: TransformsEntry,
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
    centre = [either(entry, whole, key, 0.0) for key in ("cx", "cy")]
    if all(1 <= value <= LARGEST_SIZE / 2 for value in centre):
        return round(2 * centre[0]), round(2 * centre[1])
    if default is not None:
        return default
    raise entry.error(
        "w", "a number of pixels here or in the file, or a photo that tells it (w and h)"
    )


def _gaussian_splatting_frame(path: Path, number: int, entry: object) -> CameraFrame:
    """An entry of the ``cameras.json`` that 3DGS writes beside its point clouds."""
    label = f"camera {number}"
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {label} is {shown(entry)}; expected an object")
    width, height = (_side(path, label, entry, key) for key in ("width", "height"))
    focal = [_focal(path, label, entry, key) for key in ("fx", "fy")]
    rotation = _numbers(path, label, entry, "rotation", (3, 3))
    center = _numbers(path, label, entry, "position", (3,))
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, center
    name = entry.get("img_name")
    return CameraFrame(
        _camera(path, label, "rotation", pose, width, height, *focal),
        name if isinstance(name, str) else None,
    )


def _nerfstudio_path(path: Path, content: dict[str, Any]) -> list[CameraFrame]:
    """The frames of a path that nerfstudio's viewer wrote."""
    kind = content.get("camera_type", "perspective")
    if kind != "perspective":
        raise InputError(
            f'{path}: "camera_type" is {shown(kind)}; expected "perspective" (render a path of '
            "perspective cameras)"
        )
    entries = content["camera_path"]
    if not isinstance(entries, list):
        raise InputError(f'{path}: "camera_path" is {shown(entries)}; expected a list of cameras')
    width = _side(path, "the file", content, "render_width")
    height = _side(path, "the file", content, "render_height")
    transform, scale = _nerfstudio_world(path.parent / NERFSTUDIO_WORLD)
    frames = []
    for number, entry in enumerate(entries):
        label = f"camera {number}"
        if not isinstance(entry, dict):
            raise InputError(f"{path}: {label} is {shown(entry)}; expected an object")
        angle = entry.get("fov")
        if not is_number(angle, 179) or angle <= 1:
            raise InputError(
                f'{path}: {label} has "fov" = {shown(angle)}; expected 1 to 179 degrees'
            )
        focal = height / 2 / math.tan(math.radians(angle) / 2)
        pose = _numbers(path, label, entry, "camera_to_world", (4, 4)) @ OPENCV_FROM_OPENGL
        pose[:3, 3] /= scale
        pose = np.linalg.inv(transform) @ pose
        frames.append(
            CameraFrame(_camera(path, label, "camera_to_world", pose, width, height, focal, focal))
        )
    return frames


def _nerfstudio_world(path: Path) -> tuple[Float[np.ndarray, "4 4"], float]:
    """The rigid motion and then the scale that led from the capture's world to nerfstudio's; none
    where the file is missing.
    """
    if not is_regular(path):
        return np.eye(4), 1.0
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: is {shown(content)}; expected an object")
    transform = np.eye(4)
    transform[:3] = _numbers(path, "the file", content, "transform", (3, 4))
    scale = content.get("scale")
    if not is_number(scale, 1e9) or scale < 1e-9:
        raise InputError(f'{path}: "scale" is {shown(scale)}; expected a positive number')
    _check_rigid(path, "the file", "transform", transform)
    return transform, float(scale)


def _camera(
    path: Path,
    label: str,
    key: str,
    pose: Float[np.ndarray, "4 4"],
    width: int,
    height: int,
    focal_x: float,
    focal_y: float,
) -> Cameras:
    """A camera without distortion whose axis goes through the middle of its image, from its pose
    (camera_to_world, OpenCV axes).
    """
    _check_rigid(path, label, key, pose)
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{path}: {label} has {width}x{height} pixels; expected at most {MAX_PIXELS:,}"
        )
    K = [[focal_x, 0, width / 2], [0, focal_y, height / 2], [0, 0, 1]]
    return Cameras(
        torch.from_numpy(np.linalg.inv(pose)[None]),
        torch.tensor([K], dtype=torch.float64),
        width,
        height,
        "pinhole",
        torch.zeros(1, 8, dtype=torch.float64),
    )


def _check_rigid(path: Path, label: str, key: str, pose: Float[np.ndarray, "4 4"]) -> None:
    rotation = pose[:3, :3]
    if (
        not (np.abs(rotation @ rotation.T - np.eye(3)) <= RIGID_TOLERANCE).all()
        or np.linalg.det(rotation) < 0
        or not (np.abs(pose[3] - [0, 0, 0, 1]) <= RIGID_TOLERANCE).all()
        or not (np.abs(pose[:3, 3]) <= LARGEST_POSITION).all()
    ):
        raise InputError(
            f'{path}: {label} has a "{key}" that is not rigid; expected a rotation and a position'
        )
    pose[3] = 0, 0, 0, 1


def _numbers(
    path: Path, label: str, entry: dict[str, Any], key: str, shape: tuple[int, ...]
) -> Float[np.ndarray, "*shape"]:
    """An array of finite numbers, in nested lists or in one."""
    found = entry.get(key)
    rows = found if isinstance(found, list) else []
    values = [v for row in rows for v in (row if isinstance(row, list) else [row])]
    if len(values) != math.prod(shape) or not all(is_number(v, LARGEST_POSITION) for v in values):
        size = "x".join(map(str, shape))
        raise InputError(f'{path}: {label} has "{key}" = {shown(found)}; expected {size} numbers')
    return np.array(values, np.float64).reshape(shape)


def _side(path: Path, label: str, entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if not is_number(value, LARGEST_SIZE) or value != int(value) or value < 1:
        raise InputError(
            f'{path}: {label} has "{key}" = {shown(value)}; expected a whole number of pixels from '
            f"1 to {LARGEST_SIZE}"
        )
    return int(value)


def _focal(path: Path, label: str, entry: dict[str, Any], key: str) -> float:
    value = entry.get(key)
    if not is_number(value, LARGEST_INTRINSIC) or value < SMALLEST_FOCAL_LENGTH:
        raise InputError(
            f'{path}: {label} has "{key}" = {shown(value)}; expected a focal length in pixels'
        )
    return float(value)
