"""Camera paths from files: our ``cameras.json``, a ``transforms.json`` whose photos need not
exist, nerfstudio's ``camera_path.json``, or a 3DGS ``cameras.json``.
"""

from __future__ import annotations

from pathlib import Path

from artifixer.geometry.camera_file import CameraFrame, is_camera_file, read_cameras
from artifixer.runtime.errors import InputError
from artifixer.runtime.run_folder import read_json
from artifixer.scenes.foreign_paths import (
    is_gaussian_cameras,
    is_nerfstudio_path,
    read_gaussian_cameras,
    read_nerfstudio_path,
)
from artifixer.scenes.transforms_json import read_path


def read_camera_path(path: Path) -> list[CameraFrame]:
    """The cameras of a file in its order. Raises ``InputError`` for a missing, broken or empty
    file.
    """
    if not path.is_file():
        raise InputError(f"{path}: does not exist, expected a cameras.json or transforms.json")
    if is_camera_file(path):
        frames = read_cameras(path)
    else:
        content = read_json(path)
        if is_nerfstudio_path(content):
            frames = read_nerfstudio_path(path, content)
        elif is_gaussian_cameras(content):
            frames = read_gaussian_cameras(path, content)
        else:
            frames = read_path(path)
    if not frames:
        raise InputError(f"{path}: lists no cameras; expected at least one")
    return frames
