"""Transforms: there and back, and against scipy."""

from __future__ import annotations

import math

import torch
from scipy.spatial.transform import Rotation

from artifixer.geometry.transforms import (
    invert_rigid,
    look_at,
    matrix_to_quaternion,
    quaternion_to_matrix,
    rotation_angle,
)
from tests.geometry.similarity import similarity_fit


def rotations(count: int) -> torch.Tensor:
    quats = torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    # the identity and the three half turns about the axes
    half_turns = torch.eye(4, dtype=torch.float64)
    return quaternion_to_matrix(torch.cat([quats, half_turns]))


def test_quaternions_equal_scipy_and_come_back():
    matrices = rotations(100)
    quats = matrix_to_quaternion(matrices)
    torch.testing.assert_close(quaternion_to_matrix(quats), matrices)
    expected = torch.from_numpy(Rotation.from_quat(quats.numpy(), scalar_first=True).as_matrix())
    torch.testing.assert_close(matrices, expected)


def test_rotation_angle_is_exact_for_tiny_and_for_half_turns():
    for angle in (1e-9, 1e-4, 1.0, math.pi):
        turn = torch.from_numpy(Rotation.from_rotvec([0.0, angle, 0.0]).as_matrix())
        base = rotations(1)[0]
        torch.testing.assert_close(
            rotation_angle(base, base @ turn),
            torch.tensor(angle, dtype=torch.float64),
            rtol=1e-6,
            atol=1e-12,
        )


def test_look_at_centres_the_target_upright():
    eye, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 0.5, 0.2])
    pose = look_at(eye, target, torch.tensor([0.0, 1.0, 0.0]))
    seen = invert_rigid(pose)[:3, :3] @ target + invert_rigid(pose)[:3, 3]
    torch.testing.assert_close(seen[:2], torch.zeros(2), atol=1e-6, rtol=0)
    assert seen[2] > 0
    assert pose[1, 1] < 0, "the camera's +y axis points down"
    torch.testing.assert_close(torch.linalg.det(pose[:3, :3]), torch.tensor(1.0))


def test_look_at_along_the_up_axis_is_still_a_rotation():
    pose = look_at(torch.tensor([0.0, 5.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(pose[:3, :3] @ pose[:3, :3].mT, torch.eye(3))


def test_similarity_fit_recovers_a_known_similarity_and_no_reflection():
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rotation, translation = rotations(3)[1], torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
    fit = similarity_fit(points, 1.7 * points @ rotation.mT + translation)
    torch.testing.assert_close(fit.rotation, rotation)
    torch.testing.assert_close(fit(points), 1.7 * points @ rotation.mT + translation)
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        torch.linalg.det(similarity_fit(points, mirrored).rotation),
        torch.tensor(1.0, dtype=torch.float64),
    )


def test_similarity_moves_poses_like_points():
    points = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    fit = similarity_fit(points, 0.4 * points @ rotations(5)[2].mT + 1)
    poses = look_at(points[:5], points[5:10], torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    moved = fit.move_poses(poses)
    torch.testing.assert_close(moved[:, :3, 3], fit(points[:5]))
    ahead = torch.nn.functional.normalize(fit(points[5:10]) - fit(points[:5]), dim=-1)
    torch.testing.assert_close(moved[:, :3, 2], ahead)
