"""PSNR and SSIM of images in [0,1], differentiable, on any device.

In: prediction and target ``[*batch height width 3]``. Out: one value per image, ``[*batch]``. The
definitions are those of published comparisons: PSNR over all pixels and channels; SSIM of Wang et
al. 2004 with an 11x11 Gaussian window (sigma 1.5), zero padding, C1 = 0.01^2, C2 = 0.03^2, mean
over pixels and channels.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_C1 = 0.01**2
SSIM_C2 = 0.03**2


def psnr(
    prediction: Float[Tensor, "*batch height width 3"],
    target: Float[Tensor, "*batch height width 3"],
    mask: Float[Tensor, "*batch height width"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mean squared error); infinite for equal
    images.

    mask: weights of the pixels in the mean, such as 0 and 1; NaN where all are zero. (Comparisons
    that multiply images by a mask and then average over the whole image do that before calling.)
    """
    _check_shapes(prediction, target, mask)
    squared = (prediction - target).square().mean(dim=-1)
    return -10 * torch.log10(_image_mean(squared, mask))


def ssim(
    prediction: Float[Tensor, "*batch height width 3"],
    target: Float[Tensor, "*batch height width 3"],
    mask: Float[Tensor, "*batch height width"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Structural similarity, 1 for equal images; ``mask`` weighs the pixels of ``ssim_map`` as in
    ``psnr``.
    """
    _check_shapes(prediction, target, mask)
    return _image_mean(ssim_map(prediction, target).mean(dim=-1), mask)


def ssim_map(
    prediction: Float[Tensor, "*batch height width 3"],
    target: Float[Tensor, "*batch height width 3"],
) -> Float[Tensor, "*batch height width 3"]:
    """Structural similarity of every pixel and channel. Gradients flow to ``prediction`` only
    (asserted).
    """
    _check_shapes(prediction, target, None)
    assert not target.requires_grad, (
        "ssim: the target needs no gradient; swap the arguments or detach it"
    )
    similarity: Tensor = _SsimMap.apply(prediction, target)  # type: ignore[no-untyped-call]
    return similarity


class _SsimMap(torch.autograd.Function):
    """SSIM with an explicit backward pass: it blurs 7 images per call, where automatic
    differentiation blurs 8 and stores more.

    Names follow the formula: with local means mu, local variance and covariance,
    ssim = luminance * structure,
    luminance = (2 mu_p mu_t + C1) / (mu_p^2 + mu_t^2 + C1), structure = (2 covariance + C2) /
    (variance_p + variance_t + C2).
    """

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        p, t = _planes(prediction), _planes(target)
        mu_p, mu_t, squares, product = _blur(torch.cat([p, t, p * p + t * t, p * t], dim=1)).chunk(
            4, dim=1
        )
        mu_product, mu_squares = mu_p * mu_t, mu_p * mu_p + mu_t * mu_t
        luminance_below, structure_below = mu_squares + SSIM_C1, squares - mu_squares + SSIM_C2
        luminance = (2 * mu_product + SSIM_C1) / luminance_below
        structure = (2 * (product - mu_product) + SSIM_C2) / structure_below
        ctx.save_for_backward(
            p, t, mu_p, mu_t, luminance, structure, luminance_below, structure_below
        )
        return _images(luminance * structure, prediction.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        p, t, mu_p, mu_t, luminance, structure, luminance_below, structure_below = ctx.saved_tensors
        g = _planes(gradients[0])
        by_luminance, by_structure = (
            g * structure / luminance_below,
            g * luminance / structure_below,
        )
        d_product = 2 * by_structure
        d_squares = -structure * by_structure
        d_mu_product = 2 * by_luminance - d_product
        d_mu_squares = -luminance * by_luminance - d_squares
        d_mu_p = d_mu_product * mu_t + 2 * d_mu_squares * mu_p
        # The window is symmetric and zero-padded, so the blur is its own transpose.
        from_mu, from_squares, from_product = _blur(
            torch.cat([d_mu_p, d_squares, d_product], dim=1)
        ).chunk(3, dim=1)
        return _images(from_mu + 2 * p * from_squares + t * from_product, gradients[0].shape), None


def _check_shapes(prediction: Tensor, target: Tensor, mask: Tensor | None) -> None:
    assert prediction.shape == target.shape, (
        f"prediction {tuple(prediction.shape)}, target {tuple(target.shape)}"
    )
    assert prediction.ndim >= 3, (
        f"image of shape {tuple(prediction.shape)}, expected [*batch height width 3]"
    )
    assert mask is None or mask.shape == prediction.shape[:-1], (
        f"mask {tuple(mask.shape)} for images {tuple(prediction.shape)}"
    )


def _image_mean(
    values: Float[Tensor, "*batch height width"], mask: Float[Tensor, "*batch height width"] | None
) -> Float[Tensor, "*batch"]:
    if mask is None:
        return values.mean(dim=(-2, -1))
    mask = mask.to(values.dtype)
    return (values * mask).sum(dim=(-2, -1)) / mask.sum(dim=(-2, -1))


def _planes(
    images: Float[Tensor, "*batch height width 3"],
) -> Float[Tensor, "images 3 height width"]:
    """One contiguous plane per channel, the fastest layout for arithmetic between chunks of
    channels.
    """
    return images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2).contiguous()


def _images(
    planes: Float[Tensor, "images 3 height width"], shape: torch.Size
) -> Float[Tensor, "*batch height width 3"]:
    return planes.permute(0, 2, 3, 1).reshape(shape)


def _blur(
    planes: Float[Tensor, "images channels height width"],
) -> Float[Tensor, "images channels height width"]:
    """Each plane convolved with the separable SSIM window.

    The convolutions run in channels-last layout: on a CPU depthwise convolutions are then 7 times
    faster, copies included.
    """
    channels, half = planes.shape[1], SSIM_WINDOW // 2
    window = _window(planes.dtype, planes.device)
    planes = planes.contiguous(memory_format=torch.channels_last)
    planes = F.conv2d(
        planes,
        window.view(1, 1, 1, -1).expand(channels, 1, 1, -1),
        padding=(0, half),
        groups=channels,
    )
    planes = F.conv2d(
        planes,
        window.view(1, 1, -1, 1).expand(channels, 1, -1, 1),
        padding=(half, 0),
        groups=channels,
    )
    return planes.contiguous()


@functools.cache
def _window(dtype: torch.dtype, device: torch.device) -> Float[Tensor, " window"]:
    offsets = torch.arange(SSIM_WINDOW, dtype=torch.float64) - SSIM_WINDOW // 2
    weights = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    return (weights / weights.sum()).to(device=device, dtype=dtype)
