"""Camera paths from files: our ``cameras.json``, or a ``transforms.json`` whose photos need not
exist.
"""

from __future__ import annotations

from pathlib import Path

from artifixer.geometry.camera_file import CameraFrame, is_camera_file, read_cameras
from artifixer.geometry.local_origin import WORLD, Origin
from artifixer.runtime.errors import InputError
from artifixer.scenes.transforms_json import read_path


def read_camera_path(path: Path, origin: Origin = WORLD) -> list[CameraFrame]:
    """The cameras of a file in its order, relative to ``origin``. Raises ``InputError`` for a
    missing, broken or empty file.
    """
    if not path.is_file():
        raise InputError(f"{path}: does not exist, expected a cameras.json or transforms.json")
    frames = read_cameras(path, origin) if is_camera_file(path) else read_path(path, origin)
    if not frames:
        raise InputError(f"{path}: lists no cameras; expected at least one")
    return frames
