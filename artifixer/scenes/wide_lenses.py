"""Which wide lenses can be imaged: fisheye photos up to half of all directions.

A view shows what lies in front of its camera's plane; a Gaussian behind it has no place in the
image, whatever the lens. A photo that shows more than that would be fitted with what is not there,
so it is refused before any work.
"""

from __future__ import annotations

import math

import torch

from artifixer.geometry.cameras import Cameras
from artifixer.runtime.errors import InputError
from artifixer.scenes.scene import Scene

#: 180 degrees, and a few more for errors of calibration.
WIDEST_FIELD_OF_VIEW = math.radians(190)


def check_lenses(scene: Scene) -> None:
    """Raises ``InputError`` naming the first photo whose lens images more than half of all
    directions.
    """
    seen: set[tuple[object, ...]] = set()
    for photo, camera in zip(scene.photos, scene.cameras, strict=True):
        lens = (
            camera.width,
            camera.height,
            camera.model,
            *camera.Ks.flatten().tolist(),
            *camera.distortion.flatten().tolist(),
        )
        if camera.model != "fisheye" or lens in seen:
            continue
        seen.add(lens)
        angle = field_of_view(camera)
        if angle > WIDEST_FIELD_OF_VIEW:
            raise InputError(
                f"{scene.name}: {photo.name} shows {math.degrees(angle):.0f} degrees, expected at "
                "most 180 of a fisheye lens: what "
                "lies behind the camera's plane cannot be rendered; crop the photos, or stitch "
                "them to equirectangular ones, which are read"
            )


def field_of_view(camera: Cameras) -> float:
    """Radians between opposite borders of one view, through its middle, for the pair of borders
    that is nearer.

    A circular image touches only those; what the others would see by the lens's formula is black.
    """
    cx, cy = (float(value) for value in camera.Ks[0, :2, 2])
    borders = torch.tensor([[0.0, cy], [camera.width, cy], [cx, 0.0], [cx, camera.height]]).to(
        camera.Ks
    )
    rays = camera.unproject(borders[None])[0].double()
    angles = torch.atan2(rays[:, :2].norm(dim=1), rays[:, 2])
    return float(torch.minimum(angles[0] + angles[1], angles[2] + angles[3]))
