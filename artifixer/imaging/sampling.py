"""Values of an image between its pixels."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def sample_grid(
    image: Float[Tensor, "height width channels"],
    grid: Float[Tensor, "rows columns 2"],
    mode: str,
) -> Float[Tensor, "rows columns channels"]:
    """Values at places (x, y) in [-1,1], from border to border of the image; outside, the border is
    repeated. mode: ``nearest``, ``bilinear`` or ``bicubic``.
    """
    values: Tensor = F.grid_sample(
        image.permute(2, 0, 1)[None],
        grid[None],
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    return values[0].permute(1, 2, 0)
