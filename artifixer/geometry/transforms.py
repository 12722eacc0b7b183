"""Rigid and similarity transforms: quaternions, interpolation of poses, cameras that look at a
point, fits between frames.

Quaternions are wxyz. Matrices act on column vectors: ``world = pose[:3, :3] @ camera + pose[:3,
3]`` for a camera_to_world pose.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

#: OpenGL camera axes in OpenCV camera axes, and the other way round: y and z change sign.
OPENCV_FROM_OPENGL: Float[np.ndarray, "4 4"] = np.diag([1.0, -1.0, -1.0, 1.0])


def quaternion_to_matrix(quats: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotations of wxyz quaternions of any non-zero length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(dim=-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def matrix_to_quaternion(rotations: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit wxyz quaternions with w >= 0 of rotation matrices.

    Each quaternion is a row of 4 q q^T, taken where its diagonal entry is largest, so that no small
    number is divided by.
    """
    m = rotations
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = (
        m[..., 2, 1] - m[..., 1, 2],
        m[..., 0, 2] - m[..., 2, 0],
        m[..., 1, 0] - m[..., 0, 1],
    )
    xy, xz, yz = (
        m[..., 1, 0] + m[..., 0, 1],
        m[..., 2, 0] + m[..., 0, 2],
        m[..., 2, 1] + m[..., 1, 2],
    )
    rows = [
        [1 + xx + yy + zz, wx, wy, wz],
        [wx, 1 + xx - yy - zz, xy, xz],
        [wy, xy, 1 - xx + yy - zz, yz],
        [wz, xz, yz, 1 - xx - yy + zz],
    ]
    products = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    best = products.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    quats = products.gather(-2, best[..., None, None].expand(*best.shape, 1, 4))[..., 0, :]
    quats = torch.nn.functional.normalize(quats, dim=-1)
    return torch.where(quats[..., :1] < 0, -quats, quats)


def rotation_angle(
    a: Float[Tensor, "*#batch 3 3"], b: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch"]:
    """Angle in radians, [0, pi], of the rotation between two orientations; accurate for small
    angles too.
    """
    quat = matrix_to_quaternion(a.mT @ b)
    return 2 * torch.atan2(quat[..., 1:].norm(dim=-1), quat[..., 0])


def look_at(
    eye: Float[Tensor, "*#batch 3"],
    target: Float[Tensor, "*#batch 3"],
    up: Float[Tensor, "*#batch 3"],
) -> Float[Tensor, "*batch 4 4"]:
    """camera_to_world of a camera at ``eye`` whose +z axis points at ``target`` and whose -y axis
    leans towards ``up``.

    ``eye`` must differ from ``target``. When the view runs along ``up``, another axis takes its
    place.
    """
    forward = torch.nn.functional.normalize(target - eye, dim=-1)
    up = torch.nn.functional.normalize(up, dim=-1).expand_as(forward)
    parallel = (forward * up).sum(dim=-1, keepdim=True).abs() > 1 - 1e-6
    up = torch.where(parallel, up.roll(1, dims=-1), up)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=-1)
    down = torch.linalg.cross(forward, right)
    pose = torch.zeros(*forward.shape[:-1], 4, 4, dtype=forward.dtype, device=forward.device)
    pose[..., :3, :3] = torch.stack([right, down, forward], dim=-1)
    pose[..., :3, 3] = eye
    pose[..., 3, 3] = 1
    return pose


def invert_rigid(poses: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of rigid transforms (camera_to_world <-> viewmats)."""
    inverse = torch.zeros_like(poses)
    rotation = poses[..., :3, :3].mT
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ poses[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1
    return inverse
