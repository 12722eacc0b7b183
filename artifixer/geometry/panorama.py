"""Equirectangular images: directions of their pixels, conversion to perspective faces and back.

A panorama's axes are OpenCV's like any camera's: +z points at the middle of the image, +x right, +y
down. Pixel (x, y) of a W x H image, W = 2 H, looks at longitude 2 pi (x / W - 1/2) to the right and
latitude pi (y / H - 1/2) down. The left border meets the right one behind. All faces of a panorama
share its centre, so that their relative poses are exact rotations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras

#: Yaw (to the right) and pitch (down) of faces, degrees.
_CUBE = ((0, 0), (90, 0), (180, 0), (270, 0), (0, -90), (0, 90))
_RING = (*((yaw, 0) for yaw in range(0, 360, 60)), (0, -90), (0, 90))
_CORNER_PITCH = math.degrees(math.atan(math.sqrt(0.5)))
_CORNERS = tuple(
    (yaw, pitch) for pitch in (-_CORNER_PITCH, _CORNER_PITCH) for yaw in (45, 135, 225, 315)
)


@dataclass(frozen=True)
class FaceRig:
    """Square perspective views that cover the sphere.

    rotations: panorama axes -> face axes, float64, ``[faces 3 3]``. field_of_view: of every face,
    radians.
    """

    rotations: Float[Tensor, "faces 3 3"]
    field_of_view: float

    def __len__(self) -> int:
        return len(self.rotations)

    def size(self, width: int) -> int:
        """Side of a face, even, that keeps the resolution of a panorama ``width`` pixels wide at
        its horizon.
        """
        return max(2, 2 * round(math.tan(self.field_of_view / 2) * width / (2 * math.pi)))

    def K(self, size: int) -> Float[Tensor, "3 3"]:
        """Intrinsics of a face of ``size`` x ``size`` pixels, float64."""
        focal = size / 2 / math.tan(self.field_of_view / 2)
        return torch.tensor(
            [[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64
        )

    def cameras(self, viewmat: Float[Tensor, "4 4"], size: int) -> Cameras:
        """The faces of a panorama whose world_to_camera is ``viewmat``, as one batch of its
        dtype.
        """
        viewmats = torch.eye(4, dtype=torch.float64).repeat(len(self), 1, 1)
        viewmats[:, :3] = self.rotations @ viewmat[:3].to(torch.float64)
        return Cameras.pinhole(
            viewmats.to(viewmat), self.K(size).to(viewmat).expand(len(self), 3, 3), size, size
        )

    def directions(self, face: int, size: int) -> Float[np.ndarray, "size size 3"]:
        """Directions of the pixels of a face in the panorama's axes, not of unit length."""
        steps = ((np.arange(size) + 0.5) / size * 2 - 1) * math.tan(self.field_of_view / 2)
        right, down = np.meshgrid(steps, steps)
        rays: np.ndarray = (
            np.stack([right, down, np.ones_like(right)], axis=-1) @ self.rotations[face].numpy()
        )
        return rays


def _rotation(yaw: float, pitch: float) -> list[list[float]]:
    """Rows: right, down and forward of a face in the panorama's axes."""
    y, p = math.radians(yaw), math.radians(pitch)
    return [
        [math.cos(y), 0, -math.sin(y)],
        [-math.sin(p) * math.sin(y), math.cos(p), -math.sin(p) * math.cos(y)],
        [math.cos(p) * math.sin(y), math.sin(p), math.cos(p) * math.cos(y)],
    ]


def _rig(places: tuple[tuple[float, float], ...], degrees: float) -> FaceRig:
    return FaceRig(
        torch.tensor([_rotation(*place) for place in places], dtype=torch.float64),
        math.radians(degrees),
    )


#: By number: the sides of a cube; six around the horizon, above and below; sides and corners of a
#: cube. Fields of view overlap, so that features at a face's border lie inside another one.
FACE_RIGS = {6: _rig(_CUBE, 100), 8: _rig(_RING, 100), 14: _rig((*_CUBE, *_CORNERS), 80)}

#: For making panoramas: the cube again, with no more overlap than interpolation needs.
CUBE = _rig(_CUBE, 94)


def panorama_directions(width: int, height: int) -> Float[np.ndarray, "height width 3"]:
    """Unit directions of the pixels of an equirectangular image."""
    longitude = 2 * math.pi * ((np.arange(width) + 0.5) / width - 0.5)
    latitude = math.pi * ((np.arange(height) + 0.5) / height - 0.5)[:, None]
    flat = np.cos(latitude)
    return np.stack(
        np.broadcast_arrays(flat * np.sin(longitude), np.sin(latitude), flat * np.cos(longitude)),
        axis=-1,
    )


def sample_panorama(image: np.ndarray, directions: Float[np.ndarray, "*shape 3"]) -> np.ndarray:
    """Values of an equirectangular image ``[height width channels]`` in directions of any length,
    bilinear, in the image's dtype.

    Crosses the left and right border and both poles without a seam.
    """
    height, width = image.shape[:2]
    x, y, z = np.moveaxis(directions, -1, 0)
    column = (np.arctan2(x, z) / (2 * math.pi) + 0.5) * width - 0.5
    row = (np.arctan2(y, np.hypot(x, z)) / math.pi + 0.5) * height - 0.5
    # Beyond a pole the image goes on half a turn further.
    padded = np.concatenate(
        [np.roll(image[:1], width // 2, axis=1), image, np.roll(image[-1:], width // 2, axis=1)]
    )
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    across, down = (
        (column - left)[..., None].astype(np.float32),
        (row - top)[..., None].astype(np.float32),
    )
    left, right = left % width, (left + 1) % width
    upper = padded[top + 1, left] * (1 - across) + padded[top + 1, right] * across
    lower = padded[top + 2, left] * (1 - across) + padded[top + 2, right] * across
    values = upper * (1 - down) + lower * down
    sampled: np.ndarray = (np.round(values) if image.dtype == np.uint8 else values).astype(
        image.dtype
    )
    return sampled


def panorama_of_faces(faces: np.ndarray, rig: FaceRig, width: int, height: int) -> np.ndarray:
    """An equirectangular image from square faces ``[faces size size channels]``: each pixel
    bilinear from the face it is nearest to.

    Values next to NaN become NaN.
    """
    size = faces.shape[1]
    directions = panorama_directions(width, height).reshape(-1, 3)
    in_faces = np.einsum("fij,pj->fpi", rig.rotations.numpy(), directions)
    face = in_faces[..., 2].argmax(axis=0)
    x, y, z = np.take_along_axis(in_faces, face[None, :, None], axis=0)[0].T
    focal = size / 2 / math.tan(rig.field_of_view / 2)
    column = (x / z * focal + size / 2 - 0.5).clip(0, size - 1)
    row = (y / z * focal + size / 2 - 0.5).clip(0, size - 1)
    left, top = (np.minimum(place.astype(np.int64), size - 2) for place in (column, row))
    across, down = (
        (column - left)[:, None].astype(np.float32),
        (row - top)[:, None].astype(np.float32),
    )
    upper = faces[face, top, left] * (1 - across) + faces[face, top, left + 1] * across
    lower = faces[face, top + 1, left] * (1 - across) + faces[face, top + 1, left + 1] * across
    panorama: np.ndarray = (upper * (1 - down) + lower * down).reshape(height, width, -1)
    return panorama
