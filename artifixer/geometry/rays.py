"""Rays through the centres of pixels.

In: ``Cameras``. Out: pixel centres, unit directions in camera axes, rays in world axes, through
each camera's own lens distortion.
"""

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


def lens_directions(cameras: Cameras) -> Float[Tensor, "lenses pixels 3"]:
    """Unit directions in camera axes of all pixels, row by row: per view, or of one view alone when
    all have the same lens.
    """
    lenses = cameras[:1] if _have_one_lens(cameras) else cameras
    return lenses.unproject(pixel_grid(lenses).expand(len(lenses), -1, -1))


def pixel_rays(
    cameras: Cameras,
) -> tuple[Float[Tensor, "views 3"], Float[Tensor, "views height width 3"]]:
    """Ray origins (camera centres) and unit directions in world axes, through each camera's own
    distortion.
    """
    directions = lens_directions(cameras) @ cameras.viewmats[:, :3, :3]
    return cameras.centers, directions.reshape(len(cameras), cameras.height, cameras.width, 3)


def _have_one_lens(cameras: Cameras) -> bool:
    """Whether all views have the same intrinsics and distortion."""
    values = torch.cat([cameras.Ks.flatten(1), cameras.distortion], dim=1)
    return len(values) > 0 and bool((values == values[:1]).all())
