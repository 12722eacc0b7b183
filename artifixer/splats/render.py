"""``render``: splats seen by cameras, through one of several rasterizers with the same signature."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Renders:
    """What the cameras see.

    rgb: colour premultiplied by opacity, on black, ``[views height width 3]``.
    opacity: accumulated alpha in [0,1], ``[views height width]``.
    depth: expected camera z, sum(w z) / sum(w), world units, NaN where opacity < 0.01, ``[views height width]``.
    """

    rgb: Float[Tensor, "views height width 3"]
    opacity: Float[Tensor, "views height width"]
    depth: Float[Tensor, "views height width"]

    def __len__(self) -> int:
        return self.rgb.shape[0]
