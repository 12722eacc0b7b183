"""Camera paths from files: our ``cameras.json``, a ``transforms.json`` whose photos need not
exist, nerfstudio's ``camera_path.json``, or a 3DGS ``cameras.json``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from artifixer.geometry.camera_file import CameraFrame, is_camera_file, read_cameras, read_origin
from artifixer.geometry.local_origin import WORLD, Origin, camera_origin, to_local
from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import read_json
from artifixer.scenes.foreign_paths import (
    is_gaussian_cameras,
    is_nerfstudio_path,
    read_gaussian_cameras,
    read_nerfstudio_path,
)
from artifixer.scenes.transforms_json import read_path


def read_camera_path(path: Path, origin: Origin = WORLD) -> list[CameraFrame]:
    """The cameras of a file in its order, relative to ``origin``. Raises ``InputError`` for a
    missing, broken or empty file.
    """
    if not path.is_file():
        raise InputError(f"{path}: does not exist, expected a cameras.json or transforms.json")
    if is_camera_file(path):
        frames = read_cameras(path, origin)
    else:
        frames = [replace(frame, camera=to_local(frame.camera, origin)) for frame in _foreign(path)]
    if not frames:
        raise InputError(f"{path}: lists no cameras; expected at least one")
    return frames


def path_origin(path: Path) -> Origin:
    """What the cameras of a file are best read relative to. Raises ``InputError`` as
    ``read_camera_path`` does.
    """
    if not path.is_file() or is_camera_file(path):
        return read_origin(path)
    return camera_origin([frame.camera for frame in _foreign(path)])


def _foreign(path: Path) -> list[CameraFrame]:
    """Cameras of the world, in float64, of a file of another tool."""
    content = read_json(path)
    if is_nerfstudio_path(content):
        return read_nerfstudio_path(path, content)
    if is_gaussian_cameras(content):
        return read_gaussian_cameras(path, content)
    return read_path(path)
