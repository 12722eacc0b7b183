"""Losses of a reconstruction: photometric distance to the photos, and the opacity and scale
regularisers of MCMC.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from artifixer.imaging.metrics import ssim_map
from artifixer.splats.splats import Splats


def photometric_loss(
    prediction: Float[Tensor, "height width 3"],
    photo: Float[Tensor, "height width 3"],
    ssim_weight: float,
    pixel_weights: Float[Tensor, "height width"] | None = None,
) -> Float[Tensor, ""]:
    """(1 - s) L1 + s (1 - SSIM), averaged over pixels with optional weights in [0,1] (s = 0.2 in
    3DGS and in the public release).
    """
    distance = (prediction - photo).abs().mean(dim=-1)
    if ssim_weight > 0:
        dissimilarity = 1 - ssim_map(prediction, photo).mean(dim=-1)
        distance = (1 - ssim_weight) * distance + ssim_weight * dissimilarity
    if pixel_weights is not None:
        distance = distance * pixel_weights
    return distance.mean()


def regulariser(
    splats: Splats, opacity_weight: float, scale_weight: float, extent: float
) -> Float[Tensor, ""]:
    """Mean opacity and mean scale (relative to the scene's extent), weighted (Kheradmand et al.
    2024, equation 10).

    Gaussians outside all photos get no other gradient: their opacity falls until they are
    relocated.
    """
    return (
        opacity_weight * torch.sigmoid(splats.opacity_logits).mean()
        + scale_weight / extent * splats.log_scales.exp().mean()
    )
