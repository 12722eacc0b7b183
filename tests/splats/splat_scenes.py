"""Splats and cameras for tests of rendering: small, random, and with everything that is hard to
draw.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import invert_rigid, look_at
from artifixer.splats.splats import Splats

WIDTH, HEIGHT = 45, 36  # no multiples of a tile

#: Camera z below which nothing is drawn in these scenes; some Gaussians are closer.
NEAR = 0.5


def varied_splats(count: int, seed: int, sh_degree: int = 3, small: bool = False) -> Splats:
    """Gaussians around the origin: flat and long ones, opaque and faint ones, specks and some as
    large as the picture, and, for a camera of ``one_camera``, ones beside the picture, too near,
    and behind.

    small: none so large or near that its ellipse bends, so that the box of the unscented transform
    holds all of it.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    sizes = torch.tensor([0.02, 0.05, 0.08, 0.1] if small else [0.02, 0.1, 0.2, 0.8])[
        torch.randint(4, (count, 1), generator=generator)
    ]
    return Splats(
        means=normal(count, 3) * torch.tensor([1.0, 1.0, 0.6] if small else [1.6, 1.6, 2.0]),
        quats=normal(count, 4) * torch.exp(normal(count, 1)),
        log_scales=torch.log(sizes) + (0.3 if small else 0.7) * normal(count, 3),
        opacity_logits=3 * normal(count),
        sh=normal(count, (sh_degree + 1) ** 2, 3) * 0.4,
    )


def random_splats(count: int, coefficients: int, generator: torch.Generator) -> Splats:
    """Stored values drawn from the normal distribution, none of them meant to be seen."""
    shapes = {
        "means": (count, 3),
        "quats": (count, 4),
        "log_scales": (count, 3),
        "opacity_logits": (count,),
        "sh": (count, coefficients, 3),
    }
    return Splats(
        **{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    )


def one_camera(lens: str) -> Cameras:
    """A tilted view of the origin from a distance of 4, through an ``ideal``, ``distorted`` or
    ``fisheye`` lens.
    """
    eye = torch.tensor([[0.6, -0.9, -3.8]])
    viewmats = invert_rigid(
        look_at(eye, torch.tensor([[0.1, 0.0, 0.2]]), torch.tensor([0.2, -1.0, 0.1]))
    )
    Ks = torch.tensor([[[38.0, 0, 21.3], [0, 40.0, 18.9], [0, 0, 1]]])
    camera = Cameras.pinhole(viewmats, Ks, WIDTH, HEIGHT)
    if lens == "distorted":
        return replace(
            camera,
            distortion=torch.tensor([[-0.11, 0.04, -0.01, 0.02, 0.01, 0.003, 0.004, -0.006]]),
        )
    if lens == "fisheye":
        wide = Ks * torch.tensor([0.6, 0.6, 1.0])[:, None] + torch.tensor(
            [[0, 0, 0.4 * 21.3], [0, 0, 0.4 * 18.9], [0, 0, 0]]
        )
        return replace(
            camera,
            Ks=wide,
            model="fisheye",
            distortion=torch.tensor([[0.05, -0.02, 0.004, -0.001, 0, 0, 0, 0]]),
        )
    assert lens == "ideal", lens
    return camera
