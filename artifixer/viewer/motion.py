"""Camera motion: intermediate cameras, jumps, and the camera of a browser window.

In: poses of a view in OpenCV axes. Out: ``Cameras``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import (
    invert_rigid,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_angle,
)

#: Maximum rotation (radians) and translation (relative to the scene's distance) per pixel frame of
#: a continuous motion: several times those of a smooth video, because mouse motion is faster.
JUMP_ANGLE, JUMP_TRANSLATION = math.radians(12), 0.12


def between(first: Cameras, last: Cameras, count: int) -> Cameras:
    """``count`` cameras after ``first`` up to ``last``, evenly spaced; the last one is ``last``.

    Both are single views of one size; the lens is that of ``last``.
    """
    if count == 1:
        return last
    t = torch.arange(1, count + 1, dtype=torch.float64) / count
    start, end = (view.to(dtype=torch.float64).camera_to_world[0] for view in (first, last))
    quats = slerp(
        matrix_to_quaternion(start[:3, :3]).expand(count, 4),
        matrix_to_quaternion(end[:3, :3]).expand(count, 4),
        t,
    )
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, :3] = quaternion_to_matrix(quats)
    poses[:, :3, 3] = torch.lerp(
        start[:3, 3].expand(count, 3), end[:3, 3].expand(count, 3), t[:, None]
    )
    viewmats = invert_rigid(poses).to(last.viewmats)
    viewmats[-1] = last.viewmats[0]
    return replace(
        last,
        viewmats=viewmats,
        Ks=last.Ks.expand(count, 3, 3),
        distortion=last.distortion.expand(count, 8),
    )


def slerp(
    a: Float[Tensor, "samples 4"], b: Float[Tensor, "samples 4"], t: Float[Tensor, " samples"]
) -> Float[Tensor, "samples 4"]:
    """Unit quaternions at the fractions ``t`` of the shorter arcs from ``a`` to ``b``."""
    b = torch.where((a * b).sum(dim=-1, keepdim=True) < 0, -b, b)
    # half the angle between a and b, numerically stable near 0
    half = torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))[..., None]
    t = t[..., None]
    sine = torch.sin(2 * half).clamp(min=1e-12)
    arc = (torch.sin((1 - t) * 2 * half) * a + torch.sin(t * 2 * half) * b) / sine
    # for small angles, linear interpolation is exact to rounding
    mixed = torch.where(half < 1e-4, (1 - t) * a + t * b, arc)
    return torch.nn.functional.normalize(mixed, dim=-1)


def is_jump(first: Cameras, last: Cameras, distance: float, frames: int) -> bool:
    """Whether two single views are too far apart for a continuous motion of this many frames.

    distance: typical distance of the content, world units.
    """
    turn = float(rotation_angle(first.viewmats[0, :3, :3], last.viewmats[0, :3, :3]))
    shift = float((first.centers - last.centers).norm()) / distance
    return turn > frames * JUMP_ANGLE or shift > frames * JUMP_TRANSLATION


def window_camera(
    camera_to_world: Float[Tensor, "4 4"],
    vertical_fov: float,
    width: int,
    height: int,
    lens: Cameras | None = None,
) -> Cameras:
    """The camera of a window of this size. vertical_fov: radians.

    lens: a captured camera whose lens distortion is applied; None for an ideal lens.
    """
    focal = 0.5 * height / math.tan(vertical_fov / 2)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    viewmats = invert_rigid(camera_to_world)[None].to(torch.float32)
    plain = Cameras.pinhole(viewmats, K[None], width, height)
    if lens is None:
        return plain
    return replace(plain, model=lens.model, distortion=lens.distortion.to(torch.float32))


def fitting_fov(photo: Cameras, aspect: float) -> float:
    """Vertical field of view in radians with which a window of this aspect ratio (width over
    height) shows a whole photo.
    """
    tangent = 0.5 * photo.height / float(photo.Ks[0, 1, 1])
    own = photo.width / photo.height * float(photo.Ks[0, 1, 1]) / float(photo.Ks[0, 0, 0])
    return 2 * math.atan(tangent * max(1.0, own / max(aspect, 1e-3)))
