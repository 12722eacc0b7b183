"""Camera paths for other tools: nerfstudio's ``camera_path.json`` and 3DGS' ``cameras.json``.

In: camera frames. Out: what to write as JSON; ``camera_path_file.py`` reads both. nerfstudio
(viewer): per camera ``camera_to_world`` as 16 numbers row by row in OpenGL axes, the vertical
``fov`` in degrees and ``aspect``; one ``render_width`` and ``render_height``. 3DGS: a list with
``position`` and ``rotation`` (camera to world, OpenCV axes), ``fx``, ``fy`` in pixels of ``width``
x ``height``. Distortion and principal points are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.local_origin import WORLD, Origin, to_world
from artifixer.geometry.transforms import OPENCV_FROM_OPENGL


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
        pose = camera.camera_to_world[0] @ torch.from_numpy(OPENCV_FROM_OPENGL)
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
