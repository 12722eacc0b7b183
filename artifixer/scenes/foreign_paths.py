"""Camera paths of other tools: nerfstudio's ``camera_path.json`` and 3DGS' ``cameras.json``.

In: parsed JSON. Out: camera frames of the world in float64, and back. Both tools' worlds are taken to be the capture's.
nerfstudio (viewer): per camera ``camera_to_world`` as 16 numbers row by row in OpenGL axes, the
vertical ``fov`` in degrees and ``aspect``; one ``render_width`` and ``render_height``. 3DGS: a list
with ``position`` and ``rotation`` (camera to world, OpenCV axes), ``fx``, ``fy`` in pixels of
``width`` x ``height``, principal point in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from artifixer.geometry.camera_file import (
    LARGEST_INTRINSIC,
    LARGEST_POSITION,
    LARGEST_SIDE,
    RIGID_TOLERANCE,
    SMALLEST_FOCAL_LENGTH,
    CameraFrame,
)
from artifixer.geometry.cameras import Cameras
from artifixer.geometry.local_origin import WORLD, Origin, to_world
from artifixer.geometry.transforms import invert_rigid
from artifixer.runtime.errors import InputError
from artifixer.runtime.json_io import is_number, is_whole, shown

#: OpenCV camera axes in OpenGL's: y and z turned round.
_FLIP = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


def is_nerfstudio_path(content: object) -> bool:
    """Whether parsed JSON is nerfstudio's camera path."""
    return isinstance(content, dict) and "camera_path" in content


def is_gaussian_cameras(content: object) -> bool:
    """Whether parsed JSON is a 3DGS ``cameras.json``."""
    return (
        isinstance(content, list)
        and bool(content)
        and isinstance(content[0], dict)
        and {"position", "rotation"} <= content[0].keys()
    )


def read_nerfstudio_path(path: Path, content: dict[str, Any]) -> list[CameraFrame]:
    """The frames of a nerfstudio camera path. Raises ``InputError`` naming frame and value."""
    width, height = (
        _side(path, "the file", content, f"render_{key}") for key in ("width", "height")
    )
    entries = content["camera_path"]
    if not isinstance(entries, list):
        raise InputError(f'{path}: "camera_path" is {shown(entries)}; expected a list of cameras')
    kind = content.get("camera_type", "perspective")
    if kind != "perspective":
        raise InputError(f'{path}: "camera_type" is {shown(kind)}; expected perspective')
    frames = []
    for number, entry in enumerate(entries):
        label = f"camera {number}"
        entry = _object(path, label, entry)
        matrix = _numbers(path, label, entry, "camera_to_world", 16, LARGEST_POSITION)
        fov = _numbers(path, label, {"fov": [entry.get("fov")]}, "fov", 1, 179.0)[0]
        if fov <= 0:
            raise InputError(f'{path}: {label} has "fov" = {fov:g}; expected degrees above 0')
        focal = 0.5 * height / math.tan(math.radians(float(fov)) / 2)
        pose = matrix.view(4, 4) @ _FLIP
        frames.append(_frame(path, label, pose, (focal, focal), width, height, None))
    return frames


def read_gaussian_cameras(path: Path, content: list[Any]) -> list[CameraFrame]:
    """The frames of a 3DGS ``cameras.json``. Raises ``InputError`` naming frame and value."""
    frames = []
    for number, entry in enumerate(content):
        label = f"camera {number}"
        entry = _object(path, label, entry)
        width, height = (_side(path, label, entry, key) for key in ("width", "height"))
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, 3] = _numbers(path, label, entry, "position", 3, LARGEST_POSITION)
        rows = entry.get("rotation")
        is_nested = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
        flat = [value for row in rows or () for value in row] if is_nested else rows
        pose[:3, :3] = _numbers(path, label, {"rotation": flat}, "rotation", 9, 2.0).view(3, 3)
        focal = {"focal lengths": [entry.get("fx"), entry.get("fy")]}
        fx, fy = _numbers(path, label, focal, "focal lengths", 2, LARGEST_INTRINSIC).tolist()
        name = entry.get("img_name")
        photo = name if isinstance(name, str) else None
        frames.append(_frame(path, label, pose, (fx, fy), width, height, photo))
    return frames


def nerfstudio_path(
    frames: Sequence[CameraFrame], fps: float, origin: Origin = WORLD
) -> dict[str, Any]:
    """A path for nerfstudio's renderer; distortion and principal points are left out. origin: what
    the frames' cameras are relative to.
    """
    first = frames[0].camera
    entries = []
    for frame in frames:
        camera = to_world(frame.camera, origin)
        pose = camera.camera_to_world[0] @ _FLIP
        fov = 2 * math.atan(0.5 * camera.height / float(camera.Ks[0, 1, 1]))
        entries.append(
            {
                "camera_to_world": pose.flatten().tolist(),
                "fov": math.degrees(fov),
                "aspect": camera.width / camera.height,
            }
        )
    return {
        "camera_type": "perspective",
        "render_width": first.width,
        "render_height": first.height,
        "fps": fps,
        "seconds": len(frames) / fps,
        "camera_path": entries,
    }


def gaussian_cameras(frames: Sequence[CameraFrame], origin: Origin = WORLD) -> list[dict[str, Any]]:
    """A 3DGS ``cameras.json``; distortion and principal points are left out. origin: what the
    frames' cameras are relative to.
    """
    entries = []
    for number, frame in enumerate(frames):
        camera = to_world(frame.camera, origin)
        pose = camera.camera_to_world[0]
        entries.append(
            {
                "id": number,
                "img_name": frame.photo or f"{number:05d}",
                "width": camera.width,
                "height": camera.height,
                "position": pose[:3, 3].tolist(),
                "rotation": pose[:3, :3].tolist(),
                "fy": float(camera.Ks[0, 1, 1]),
                "fx": float(camera.Ks[0, 0, 0]),
            }
        )
    return entries


def _frame(
    path: Path,
    label: str,
    pose: torch.Tensor,
    focal: tuple[float, float],
    width: int,
    height: int,
    photo: str | None,
) -> CameraFrame:
    rotation = pose[:3, :3]
    error = (rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max()
    if error > RIGID_TOLERANCE or torch.linalg.det(rotation) < 0:
        raise InputError(f"{path}: {label} has a pose that is not rigid; expected a rotation")
    if min(focal) < SMALLEST_FOCAL_LENGTH:
        raise InputError(f"{path}: {label} has focal lengths {focal}; expected positive ones")
    rows = [[focal[0], 0, width / 2], [0, focal[1], height / 2], [0, 0, 1]]
    K = torch.tensor(rows, dtype=torch.float64)
    return CameraFrame(Cameras.pinhole(invert_rigid(pose)[None], K[None], width, height), photo)


def _object(path: Path, label: str, entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(f"{path}: {label} is {shown(entry)}; expected an object")
    return entry


def _side(path: Path, label: str, entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if not is_whole(value, 1, LARGEST_SIDE):
        raise InputError(
            f'{path}: {label} has "{key}" = {shown(value)}; expected 1 to {LARGEST_SIDE} pixels'
        )
    return value


def _numbers(
    path: Path, label: str, entry: dict[str, Any], key: str, count: int, most: float
) -> torch.Tensor:
    values = entry.get(key)
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(is_number(value, most) for value in values)
    ):
        raise InputError(
            f'{path}: {label} has "{key}" = {shown(values)}; expected {count} finite numbers'
        )
    return torch.tensor(values, dtype=torch.float64)
