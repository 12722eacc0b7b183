"""Camera paths from files: our ``cameras.json``, or a ``transforms.json`` whose photos need not
exist.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from artifixer.geometry.camera_file import CameraFrame, is_camera_file, read_cameras, read_origin
from artifixer.geometry.local_origin import WORLD, Origin, camera_origin, to_local
from artifixer.runtime.errors import InputError
from artifixer.scenes.transforms_json import read_path


def read_camera_path(path: Path, origin: Origin = WORLD) -> list[CameraFrame]:
    """The cameras of a file in its order, relative to ``origin``. Raises ``InputError`` for a
    missing, broken or empty file.
    """
    if not path.is_file():
        raise InputError(f"{path}: does not exist, expected a cameras.json or transforms.json")
    frames = (
        read_cameras(path, origin)
        if is_camera_file(path)
        else [replace(frame, camera=to_local(frame.camera, origin)) for frame in read_path(path)]
    )
    if not frames:
        raise InputError(f"{path}: lists no cameras; expected at least one")
    return frames


def path_origin(path: Path) -> Origin:
    """What the cameras of a file are best read relative to. Raises ``InputError`` as
    ``read_camera_path`` does.
    """
    if not path.is_file() or is_camera_file(path):
        return read_origin(path)
    return camera_origin([frame.camera for frame in read_path(path)])
