"""Pixel rays and Pluecker maps: there and back through the lens, and what does not change along a
ray.
"""

from __future__ import annotations

import pytest
import torch

from artifixer.geometry.cameras import Cameras, LensModel
from artifixer.geometry.rays import pixel_grid, pixel_rays
from artifixer.geometry.transforms import quaternion_to_matrix

#: Newton's method in float64, pixels of a 12-pixel image.
INVERSE_LENS = 1e-9
ROUNDING = 1e-12


def cameras(model: LensModel = "pinhole", views: int = 2) -> Cameras:
    """Turned and moved views, each with a distortion of its own, float64."""
    random = torch.Generator().manual_seed(0)
    viewmats = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    viewmats[:, :3, :3] = quaternion_to_matrix(
        torch.randn(views, 4, generator=random, dtype=torch.float64)
    )
    viewmats[:, :3, 3] = torch.randn(views, 3, generator=random, dtype=torch.float64)
    K = torch.tensor([[11.0, 0, 5.5], [0, 10, 5], [0, 0, 1]], dtype=torch.float64)
    distortion = 0.02 * torch.randn(views, 8, generator=random, dtype=torch.float64)
    if model == "fisheye":
        distortion[:, 4:] = 0
    return Cameras(viewmats, K.expand(views, 3, 3), 12, 9, model, distortion)


def test_the_first_pixel_is_at_one_half() -> None:
    grid = pixel_grid(cameras()).reshape(9, 12, 2)
    assert grid[0, 0].tolist() == [0.5, 0.5]
    assert grid[0, 11].tolist() == [11.5, 0.5]
    assert grid[8, 0].tolist() == [0.5, 8.5]


@pytest.mark.parametrize("model", ["pinhole", "fisheye"])
def test_points_on_a_ray_project_to_its_pixel(model: LensModel) -> None:
    views = cameras(model)
    origins, directions = pixel_rays(views)
    assert directions.shape == (2, 9, 12, 3)
    torch.testing.assert_close(
        directions.norm(dim=-1), torch.ones(2, 9, 12, dtype=torch.float64), atol=ROUNDING, rtol=0
    )
    torch.testing.assert_close(origins, views.centers)
    for view in range(2):
        for distance in (0.5, 7.0):
            points = origins[view] + distance * directions[view].reshape(-1, 3)
            pixels, _, is_imaged = views[view].project(points)
            assert bool(is_imaged.all())
            torch.testing.assert_close(pixels[0], pixel_grid(views), atol=INVERSE_LENS, rtol=0)


def test_rays_move_with_the_world() -> None:
    """Directions turn; origins turn and are shifted."""
    views = cameras()
    turn = quaternion_to_matrix(torch.tensor([0.3, -0.5, 0.7, 0.2], dtype=torch.float64))
    shift = torch.tensor([1.0, -2, 0.5], dtype=torch.float64)
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3], move[:3, 3] = turn, shift
    moved = Cameras(
        views.viewmats @ torch.linalg.inv(move),
        views.Ks,
        views.width,
        views.height,
        views.model,
        views.distortion,
    )
    origins, directions = pixel_rays(views)
    new_origins, new_directions = pixel_rays(moved)
    torch.testing.assert_close(new_directions, directions @ turn.T, atol=ROUNDING, rtol=0)
    torch.testing.assert_close(new_origins, origins @ turn.T + shift, atol=ROUNDING, rtol=0)


def test_float32_stays_float32() -> None:
    assert all(
        rays.dtype == torch.float32 for rays in pixel_rays(cameras().to(dtype=torch.float32))
    )
