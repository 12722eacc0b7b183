"""nerfstudio's polynomial lens with r^8 against the rational lens that stands for it."""

import numpy as np
import pytest
import torch

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.radial_polynomial import rational_coefficients

FOCAL, SIDE = 2000.0, 2600

#: Pixels: half of what every accepted capture has to keep.
TOLERANCE = 5e-3


@pytest.mark.parametrize(
    "polynomial",
    [
        (0.05, -0.08, 0.01, 0.02),
        (-0.3, 0.1, -0.02, 0.002),
        (0.0, 0.0, 0.0, 0.05),
        (-0.2, 0.05, 0.0, 0.01),
        (0.0, 0.0, 0.0, -1e-6),
    ],
)
def test_projections_equal_those_of_the_polynomial(polynomial):
    half = SIDE / 2 / FOCAL
    radial = rational_coefficients(polynomial, half * np.sqrt(2), FOCAL)
    assert radial is not None
    K = torch.tensor([[[FOCAL, 0, SIDE / 2], [0, FOCAL, SIDE / 2], [0, 0, 1]]], dtype=torch.float64)
    distortion = torch.tensor([[*radial, 0, 0]], dtype=torch.float64)
    camera = Cameras(torch.eye(4, dtype=torch.float64)[None], K, SIDE, SIDE, "pinhole", distortion)
    x, y = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 5000))
    r2 = x**2 + y**2
    factor = 1 + sum(k * r2 ** (i + 1) for i, k in enumerate(polynomial))
    expected = np.stack([x * factor, y * factor], axis=1) * FOCAL + SIDE / 2
    inside = ((expected > 0) & (expected < SIDE)).all(axis=1) & (r2 < 0.8)
    points = torch.from_numpy(np.stack([x, y, np.ones_like(x)], axis=1))
    pixels, _, valid = camera.project(points)
    assert inside.sum() > 1000 and valid[0][torch.from_numpy(inside)].all()
    assert np.abs(pixels[0].numpy() - expected)[inside].max() < TOLERANCE


@pytest.mark.parametrize("polynomial", [(-0.5, 0, 0, 0.001), (0, 0, 0, -1.0), (0.3, 0.2, 0.1, 9.0)])
def test_lenses_that_fold_over_or_cannot_be_followed_are_told(polynomial):
    assert rational_coefficients(polynomial, 1.6, 4000.0) is None
