"""Cameras: projection against OpenCV, and there and back through every lens model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.rays import pixel_grid, pixel_rays
from artifixer.geometry.transforms import look_at

#: float64 rounding of a few dozen operations on pixels of size 1e3, through Newton's method run to
#: convergence.
PIXEL_TOLERANCE = 1e-8

#: OpenCV computes in float64 as well; the two orders of operations differ by rounding.
OPENCV_TOLERANCE = 1e-9

LENSES = {
    "ideal": ("pinhole", (0, 0, 0, 0, 0, 0, 0, 0)),
    "radial": ("pinhole", (-0.12, 0.03, 0, 0, 0, 0, 0, 0)),
    "full": ("pinhole", (0.2, -0.08, 0.01, 0.05, -0.02, 0.003, 0.002, -0.001)),
    "barrel": ("pinhole", (-0.28, 0.07, -0.008, 0, 0, 0, 0.0005, 0.001)),
    "fisheye": ("fisheye", (0.05, -0.01, 0.002, -0.0005, 0, 0, 0, 0)),
}


def views(lens: str, count: int = 3, dtype: torch.dtype = torch.float64) -> Cameras:
    model, distortion = LENSES[lens]
    generator = torch.Generator().manual_seed(0)
    eyes = torch.randn(count, 3, generator=generator, dtype=dtype) * 3 + torch.tensor(
        [0.0, 0.0, 6.0], dtype=dtype
    )
    poses = look_at(
        eyes, torch.zeros(count, 3, dtype=dtype), torch.tensor([0.0, 1.0, 0.0], dtype=dtype)
    )
    K = torch.tensor([[310.0, 0, 161.5], [0, 290.0, 118.0], [0, 0, 1]], dtype=dtype)
    viewmats = torch.linalg.inv(poses)
    return Cameras(
        viewmats,
        K.repeat(count, 1, 1),
        320,
        240,
        model,
        torch.tensor([distortion] * count, dtype=dtype),
    )


@pytest.mark.parametrize("lens", LENSES)
def test_pixels_survive_the_way_into_the_world_and_back(lens):
    cameras = views(lens)
    pixels = pixel_grid(cameras)[::37]
    directions = cameras.unproject(pixels.expand(len(cameras), -1, -1))
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones_like(directions[..., 0]))
    for view in range(len(cameras)):
        pose = cameras.camera_to_world[view]
        points = 2.7 * directions[view] @ pose[:3, :3].mT + pose[:3, 3]
        found, depth, valid = cameras[view].project(points)
        assert valid.all()
        torch.testing.assert_close(found[0], pixels, rtol=0, atol=PIXEL_TOLERANCE)
        torch.testing.assert_close(depth[0], 2.7 * directions[view, :, 2])


@pytest.mark.parametrize("lens", LENSES)
def test_projection_equals_opencv(lens):
    cv2 = pytest.importorskip("cv2")
    cameras = views(lens)
    points = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pixels, _, valid = cameras.project(points)
    assert valid.float().mean() > 0.5
    for view in range(len(cameras)):
        rotation = cv2.Rodrigues(cameras.viewmats[view, :3, :3].numpy())[0]
        translation, K = cameras.viewmats[view, :3, 3].numpy(), cameras.Ks[view].numpy()
        k1, k2, k3, k4, k5, k6, p1, p2 = cameras.distortion[view].numpy()
        if cameras.model == "fisheye":
            expected = cv2.fisheye.projectPoints(
                points.numpy()[:, None], rotation, translation, K, np.array([k1, k2, k3, k4])
            )[0]
        else:
            expected = cv2.projectPoints(
                points.numpy(), rotation, translation, K, np.array([k1, k2, p1, p2, k3, k4, k5, k6])
            )[0]
        expected = torch.from_numpy(expected.reshape(-1, 2))[valid[view]]
        torch.testing.assert_close(
            pixels[view, valid[view]], expected, rtol=OPENCV_TOLERANCE, atol=OPENCV_TOLERANCE
        )


def test_points_behind_and_beyond_the_fold_are_invalid():
    cameras = views("barrel", 1)
    pose = cameras.camera_to_world[0]
    in_camera = torch.tensor([[0.0, 0, 1], [0.0, 0, -1], [40.0, 0, 1]], dtype=torch.float64)
    _, _, valid = cameras.project(in_camera @ pose[:3, :3].mT + pose[:3, 3])
    assert valid[0].tolist() == [True, False, False]


@pytest.mark.parametrize("lens", LENSES)
def test_resizing_moves_pixels_accordingly(lens):
    cameras = views(lens)
    points = 0.3 * torch.randn(
        50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    pixels = cameras.project(points)[0]
    halved = cameras.resized(160, 120).project(points)[0]
    torch.testing.assert_close(halved, pixels / 2)


def test_indexing_and_concatenation_keep_views_apart():
    cameras = views("full", 4)
    again = concatenate([cameras[0], cameras[[1, 2]], cameras[3:]])
    torch.testing.assert_close(again.viewmats, cameras.viewmats)
    assert len(cameras[-1]) == 1


@pytest.mark.parametrize("lens", LENSES)
def test_float32_projection_stays_within_a_hundredth_of_a_pixel(lens):
    exact = views(lens)
    single = exact.to(dtype=torch.float32)
    origins, directions = pixel_rays(single)
    assert directions.dtype == torch.float32
    points = origins[0] + 3 * directions[0].reshape(-1, 3)[::101]
    found = single[0].project(points)[0][0]
    assert (found - pixel_grid(single)[::101]).abs().max() < 0.01
