"""Conventions that tools confuse, by name, and what given poses are in each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from artifixer.geometry.transforms import OPENCV_FROM_OPENGL

#: What the poses in a format's files are.
PoseConvention = Literal["world_to_camera_opencv", "camera_to_world_opengl"]

#: The same in words.
CONVENTION_TITLES: dict[PoseConvention, str] = {
    "world_to_camera_opencv": "world_to_camera in OpenCV axes (+y down, +z forward)",
    "camera_to_world_opengl": "camera_to_world in OpenGL axes (+y up, -z forward)",
}

_MIRROR = np.diag([1.0, -1.0, 1.0, 1.0])
_Change = Callable[[np.ndarray], np.ndarray]


def conventions(poses: PoseConvention) -> Mapping[str, _Change]:
    """What poses in files of a convention may be instead, by name; maps world_to_camera as the
    loader understood the file (``[views 4 4]``, OpenCV axes) to what it is if the name is true.
    """
    if poses == "camera_to_world_opengl":
        own: dict[str, _Change] = {
            "OpenCV axes in a file of OpenGL axes": lambda V: OPENCV_FROM_OPENGL @ V,
            "world_to_camera poses in OpenCV axes in a file of camera_to_world": lambda V: (
                np.linalg.inv(V) @ OPENCV_FROM_OPENGL
            ),
            "world_to_camera poses in OpenGL axes in a file of camera_to_world": lambda V: (
                OPENCV_FROM_OPENGL @ np.linalg.inv(V) @ OPENCV_FROM_OPENGL
            ),
            "the translations of world_to_camera in a file of camera_to_world": lambda V: (
                _with_translation(V, np.linalg.inv(V))
            ),
            "the translations of world_to_camera (OpenGL axes) in a file of camera_to_world": (
                lambda V: _with_translation(V, OPENCV_FROM_OPENGL @ np.linalg.inv(V))
            ),
        }
    else:
        own = {
            "OpenGL axes in a model of OpenCV axes": lambda V: OPENCV_FROM_OPENGL @ V,
            "camera_to_world poses in a model of world_to_camera": np.linalg.inv,
            "camera_to_world poses in OpenGL axes in a model of world_to_camera": lambda V: (
                OPENCV_FROM_OPENGL @ np.linalg.inv(V)
            ),
            "camera centres in place of the translations": lambda V: _with_centres(V, V),
            "camera centres in place of the translations, in OpenGL axes": lambda V: _with_centres(
                OPENCV_FROM_OPENGL @ V, V
            ),
        }
    return own | {
        "poses of a left-handed world": lambda V: _MIRROR @ V @ _MIRROR,
        "photos turned by 90 degrees against their cameras": lambda V: _roll(1) @ V,
        "photos turned by 180 degrees against their cameras": lambda V: _roll(2) @ V,
        "photos turned by 270 degrees against their cameras": lambda V: _roll(3) @ V,
    }


def _with_translation(viewmats: np.ndarray, other: np.ndarray) -> np.ndarray:
    changed = viewmats.copy()
    changed[..., :3, 3] = other[..., :3, 3]
    return changed


def _with_centres(viewmats: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The rotations with cameras that stand where the other ones' translations say."""
    changed = viewmats.copy()
    changed[..., :3, 3:] = -viewmats[..., :3, :3] @ centres[..., :3, 3:]
    return changed


def _roll(quarter_turns: int) -> np.ndarray:
    turn = np.eye(4)
    turn[:2, :2] = np.linalg.matrix_power(np.array([[0.0, -1.0], [1.0, 0.0]]), quarter_turns)
    return turn
