"""``View``: a photo and the camera that took it; and the reference views of a scene.

Reference views are the views that the video model attends to. They are ``View``s everywhere: in
render folders, runs, ``enhance`` and the viewer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from artifixer.geometry.camera_file import CameraFrame
from artifixer.geometry.cameras import Cameras
from artifixer.scenes.references import select_references
from artifixer.scenes.scene import Photo, Scene


@dataclass(frozen=True)
class View:
    """A photo, which is read when asked for, and its camera."""

    camera: Cameras
    """A single view of the photo's size."""

    photo: Photo

    def __post_init__(self) -> None:
        assert len(self.camera) == 1, f"{self.photo.name}: {len(self.camera)} cameras"

    @property
    def frame(self) -> CameraFrame:
        """The camera with the photo's name, as camera files list it."""
        return CameraFrame(self.camera, self.photo.name)

    def in_memory(self) -> View:
        """The view with its photo read now. Raises ``InputError`` for an unreadable file."""
        return View(self.camera, self.photo.in_memory())

    @staticmethod
    def of_pixels(
        camera: Cameras, pixels: UInt8[np.ndarray, "height width 3"], name: str = ""
    ) -> View:
        """A view of a photo that is in memory."""
        height, width = pixels.shape[:2]
        return View(camera, Photo(name, width, height, lambda: pixels))


def views_of(scene: Scene, indices: Sequence[int]) -> list[View]:
    """The views of a scene at these positions."""
    return [View(scene.cameras[index], scene.photos[index]) for index in indices]


def reference_views(scene: Scene, training: Sequence[int], count: int) -> list[View]:
    """At most ``count`` training views for the model to attend to, evenly spaced in the order of
    the photos' names (``select_references``).

    training: positions in the scene. Views with another lens model than the first one are left out,
    because the references of a rollout share one lens model.
    """
    if not count or not training:
        return []
    lens = scene.cameras[training[0]].model
    alike = {scene.photos[i].name: i for i in training if scene.cameras[i].model == lens}
    return views_of(scene, [alike[name] for name in select_references(list(alike), count)])
