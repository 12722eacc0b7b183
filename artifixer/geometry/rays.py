"""Pixel rays through the lens, and Pluecker maps."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras


def pixel_grid(cameras: Cameras) -> Float[Tensor, "pixels 2"]:
    """Centres of all pixels, row by row: the first is (0.5, 0.5)."""
    columns = torch.arange(cameras.width, dtype=cameras.Ks.dtype, device=cameras.Ks.device)
    rows = torch.arange(cameras.height, dtype=cameras.Ks.dtype, device=cameras.Ks.device)
    rows, columns = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5


def pixel_rays(cameras: Cameras) -> tuple[Float[Tensor, "views 3"], Float[Tensor, "views height width 3"]]:
    """Ray origins (camera centres) and unit directions in world axes, through each camera's own distortion."""
    pixels = pixel_grid(cameras).expand(len(cameras), -1, -1)
    directions = cameras.unproject(pixels) @ cameras.viewmats[:, :3, :3]
    return cameras.centers, directions.reshape(len(cameras), cameras.height, cameras.width, 3)


def pluecker_map(cameras: Cameras) -> Float[Tensor, "views height width 6"]:
    """Per pixel the ray's unit direction and its moment origin x direction, the same for all its points."""
    origins, directions = pixel_rays(cameras)
    moments = torch.linalg.cross(origins[:, None, None].expand_as(directions), directions)
    return torch.cat([directions, moments], dim=-1)
