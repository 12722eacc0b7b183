"""``Splats``: 3D Gaussians as they are stored and optimised, and their rendered form as properties.

Owns no optimiser, renderer or file format. The conversions between stored and rendered values live
here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

#: Spherical-harmonics coefficients per colour channel for degree 0, 1, 2, 3.
SH_COEFFICIENTS = (1, 4, 9, 16)

#: Value of the constant spherical harmonic, 1 / (2 sqrt(pi)): base colour = SH_BASE * sh[:, 0] +
#: 0.5.
SH_BASE = 0.28209479177387814


@dataclass(frozen=True)
class Splats:
    """``count`` Gaussians.

    means: centres, world units, ``[count 3]``.
    quats: wxyz, any non-zero length, rotating Gaussian axes into the world, ``[count 4]``.
    log_scales: natural logarithm of the standard deviations in world units, ``[count 3]``.
    opacity_logits: ``[count]``.
    sh: spherical-harmonics colour, ``[count coefficients 3]`` with 1, 4, 9 or 16 coefficients;
    colour = SH(direction) + 0.5.
    """

    means: Float[Tensor, "count 3"]
    quats: Float[Tensor, "count 4"]
    log_scales: Float[Tensor, "count 3"]
    opacity_logits: Float[Tensor, " count"]
    sh: Float[Tensor, "count coefficients 3"]

    def __post_init__(self) -> None:
        count = self.means.shape[0]
        assert self.means.shape == (count, 3), f"means: {tuple(self.means.shape)}"
        assert self.quats.shape == (count, 4), f"quats: {tuple(self.quats.shape)}"
        assert self.log_scales.shape == (count, 3), f"log_scales: {tuple(self.log_scales.shape)}"
        assert self.opacity_logits.shape == (count,), (
            f"opacity_logits: {tuple(self.opacity_logits.shape)}"
        )
        assert self.sh.shape[0] == count and self.sh.shape[2] == 3, f"sh: {tuple(self.sh.shape)}"
        assert self.sh.shape[1] in SH_COEFFICIENTS, (
            f"sh: {self.sh.shape[1]} coefficients, expected one of {SH_COEFFICIENTS}"
        )

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def scales(self) -> Float[Tensor, "count 3"]:
        """Standard deviations along the Gaussian's axes, world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Float[Tensor, " count"]:
        """Peak opacity in [0,1]."""
        return torch.sigmoid(self.opacity_logits)

    @property
    def unit_quats(self) -> Float[Tensor, "count 4"]:
        """Rotations as unit quaternions, wxyz."""
        return torch.nn.functional.normalize(self.quats, dim=-1)

    @property
    def sh_degree(self) -> int:
        return SH_COEFFICIENTS.index(self.sh.shape[1])

    def map(self, function: Callable[[Tensor], Tensor]) -> Splats:
        """Apply one function to every tensor (``lambda t: t[keep]``, ``.to``, ``detach``)."""
        return Splats(**{field.name: function(getattr(self, field.name)) for field in fields(self)})
