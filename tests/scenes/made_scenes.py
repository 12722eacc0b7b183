"""Scenes made in memory for the tests of what happens after loading."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.scenes.scene import Photo, Scene, SparsePoints

WIDTH, HEIGHT = 8, 6


def random_poses(views: int, seed: int) -> Float[Tensor, "views 4 4"]:
    """Rigid camera_to_world matrices with any orientation, float64."""
    generator = torch.Generator().manual_seed(seed)
    poses = torch.eye(4, dtype=torch.float64).repeat(views, 1, 1)
    poses[:, :3, :3] = quaternion_to_matrix(
        torch.randn(views, 4, generator=generator, dtype=torch.float64)
    )
    poses[:, :3, 3] = torch.randn(views, 3, generator=generator, dtype=torch.float64)
    return poses


def scene_at(
    camera_to_world: Float[Tensor, "views 4 4"], points: SparsePoints | None = None
) -> Scene:
    """A scene of black photos ``images/000.jpg`` ... with ideal cameras."""
    names = [f"images/{number:03d}.jpg" for number in range(len(camera_to_world))]
    photos = tuple(
        Photo(name, WIDTH, HEIGHT, lambda: np.zeros((HEIGHT, WIDTH, 3), np.uint8)) for name in names
    )
    K = torch.tensor([[[10.0, 0, WIDTH / 2], [0, 10.0, HEIGHT / 2], [0, 0, 1]]])
    viewmats = torch.linalg.inv(camera_to_world).to(torch.float32)
    return Scene(
        "made",
        "made",
        photos,
        tuple(Cameras.pinhole(viewmat[None], K, WIDTH, HEIGHT) for viewmat in viewmats),
        points,
    )
