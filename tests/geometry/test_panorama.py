"""Panoramas: pixels and directions, faces that cover the sphere, and there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from artifixer.geometry.panorama import (
    CUBE,
    FACE_RIGS,
    panorama_directions,
    panorama_of_faces,
    sample_panorama,
)
from artifixer.geometry.rays import pixel_rays


def colours(directions: np.ndarray) -> np.ndarray:
    """A smooth picture on the sphere that no rotation or mirroring leaves as it is."""
    x, y, z = np.moveaxis(directions / np.linalg.norm(directions, axis=-1, keepdims=True), -1, 0)
    return np.stack(
        [0.5 + 0.3 * x + 0.1 * y * z, 0.5 + 0.3 * y - 0.1 * x * x, 0.5 + 0.3 * z + 0.1 * x * y],
        axis=-1,
    )


def test_directions_of_a_few_pixels() -> None:
    directions = panorama_directions(8, 4)
    half = math.pi / 8
    np.testing.assert_allclose(
        directions[2, 4],
        [math.cos(half) * math.sin(half), math.sin(half), math.cos(half) * math.cos(half)],
    )
    assert directions[0, 3][1] < 0, "the first row looks up, which is -y"
    assert directions[2, 6][0] > 0.5, "right of the middle lies +x"
    assert directions[2, 0][2] < -0.5 and directions[2, 7][2] < -0.5, "both borders look back"
    np.testing.assert_allclose(np.linalg.norm(directions, axis=-1), 1)


@pytest.mark.parametrize("faces", FACE_RIGS)
def test_faces_are_rotations_and_cover_the_sphere(faces: int) -> None:
    rig = FACE_RIGS[faces]
    assert len(rig) == faces
    identity = torch.eye(3, dtype=torch.float64).expand(faces, 3, 3)
    torch.testing.assert_close(rig.rotations @ rig.rotations.mT, identity)
    assert (torch.linalg.det(rig.rotations) > 0.999).all()
    directions = torch.from_numpy(np.random.default_rng(1).normal(size=(20_000, 3)))
    inside = torch.einsum("fij,pj->pfi", rig.rotations, directions)
    reach = math.tan(rig.field_of_view / 2)
    covered = (inside[..., 2] > 0) & (inside[..., :2].abs() < reach * inside[..., 2:]).all(dim=-1)
    assert covered.any(dim=1).all()


@pytest.mark.parametrize("faces", FACE_RIGS)
def test_a_faces_pixels_and_its_camera_look_the_same_way(faces: int) -> None:
    rig, size = FACE_RIGS[faces], 12
    turn = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    )[0]
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3], viewmat[:3, 3] = turn * torch.linalg.det(turn), torch.tensor([1.0, 2.0, 3.0])
    cameras = rig.cameras(viewmat, size)
    centers, rays = pixel_rays(cameras)
    torch.testing.assert_close(centers, centers[:1].expand_as(centers))
    for face in range(faces):
        directions = torch.from_numpy(rig.directions(face, size))
        expected = torch.nn.functional.normalize(directions, dim=-1) @ viewmat[:3, :3]
        torch.testing.assert_close(rays[face], expected)


def test_sampling_has_no_seam_at_the_borders_and_the_poles() -> None:
    width = 256
    image = colours(panorama_directions(width, width // 2)).astype(np.float32)
    directions = np.random.default_rng(3).normal(size=(4000, 3))
    directions[:500, [0, 2]] *= 1e-3  # around the poles
    directions[500:1000, 0] *= 1e-3  # around the borders and the middle
    np.testing.assert_allclose(sample_panorama(image, directions), colours(directions), atol=1e-3)


@pytest.mark.parametrize("rig", [CUBE, *FACE_RIGS.values()])
def test_from_faces_and_back(rig) -> None:
    width = 128
    size = rig.size(width)
    faces = np.stack([colours(rig.directions(face, size)) for face in range(len(rig))]).astype(
        np.float32
    )
    np.testing.assert_allclose(
        panorama_of_faces(faces, rig, width, width // 2),
        colours(panorama_directions(width, width // 2)),
        atol=2e-3,
    )


def test_a_face_keeps_the_resolution_of_the_horizon() -> None:
    assert FACE_RIGS[6].size(4096) == 2 * round(math.tan(math.radians(50)) * 4096 / (2 * math.pi))
    image = np.zeros((64, 128, 3), np.uint8)
    assert sample_panorama(image, FACE_RIGS[8].directions(0, 10)).dtype == np.uint8
