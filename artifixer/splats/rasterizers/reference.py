"""The plain rasterizer: every Gaussian at every pixel in PyTorch, any float type, any device. Slow;
the others are tested against it.

3DGUT (Wu et al. 2025): a Gaussian's box of pixels comes from the unscented transform, seven sigma
points sent through the camera's lens; its response is evaluated in 3D, at the point of the pixel's
ray where it is greatest. Blending is front to back by the depth of the centres.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.geometry.rays import pixel_rays
from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.splats.rasterizers.constants import (
    EPS_2D,
    MAX_ALPHA,
    MAX_EXTENT,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    SH_1,
    SH_2,
    SH_3,
    UT_CENTRAL_COVARIANCE_WEIGHT,
    UT_OUTER_WEIGHT,
    UT_SPREAD,
)
from artifixer.splats.splats import SH_BASE, Splats

#: Pixels handled at once, which bounds the memory: pixels x Gaussians x a few floats.
PIXELS_AT_ONCE = 2048


class Raster(NamedTuple):
    """What a rasterizer returns for one view: sums over Gaussians of blending weight times colour,
    1, and camera z.
    """

    rgb: Float[Tensor, "height width 3"]
    opacity: Float[Tensor, "height width"]
    weighted_depth: Float[Tensor, "height width"]


def rasterize(splats: Splats, camera: Cameras, sh_degree: int, near: float) -> Raster:
    """One view. ``sh_degree``: highest degree used; ``near``: Gaussians with their centre closer
    (camera z) are not drawn.
    """
    box, depth, visible = project(splats, camera, near)
    order = torch.nonzero(visible)[:, 0]
    order = order[torch.argsort(depth.detach()[order], stable=True)]
    chosen = splats.map(lambda tensor: tensor[order])

    # world axes -> the Gaussian's unit sphere
    whitening = quaternion_to_matrix(chosen.quats).mT / chosen.scales[:, :, None]
    origins, directions = pixel_rays(camera)
    whitened_origin = (whitening @ (origins[0] - chosen.means)[:, :, None])[..., 0]
    values = torch.cat([view_colors(chosen, camera, sh_degree), depth[order, None]], dim=-1)
    rows, columns = torch.meshgrid(
        torch.arange(camera.height, device=depth.device),
        torch.arange(camera.width, device=depth.device),
        indexing="ij",
    )
    sums, transmittance = [], []
    for rays, row, column in zip(
        directions[0].reshape(-1, 3).split(PIXELS_AT_ONCE),
        rows.flatten().split(PIXELS_AT_ONCE),
        columns.flatten().split(PIXELS_AT_ONCE),
        strict=True,
    ):
        inside = _in_box(box[order], row, column)
        weights, remaining = _blend(
            _alphas(chosen.opacities, whitening, whitened_origin, rays, inside)
        )
        sums.append(weights @ values)
        transmittance.append(remaining)
    image = torch.cat(sums).reshape(camera.height, camera.width, 4)
    return Raster(
        image[..., :3],
        1 - torch.cat(transmittance).reshape(camera.height, camera.width),
        image[..., 3],
    )


@torch.no_grad()
def _boxes(
    splats: Splats, camera: Cameras
) -> tuple[Int[Tensor, "count 4"], Bool[Tensor, " count"]]:
    """Unscented transform of every Gaussian: its pixels (first column, first row, last column, last
    row; inclusive, cut at the borders) and whether it has any."""
    # one scaled axis per row
    axes = quaternion_to_matrix(splats.quats).mT * splats.scales[:, :, None] * UT_SPREAD
    means = splats.means[:, None]
    points = torch.cat([means, means + axes, means - axes], dim=1)
    pixels, _, valid = camera.project(points.reshape(-1, 3))
    pixels, valid = pixels.reshape(-1, 7, 2), valid.reshape(-1, 7).all(dim=1)

    center = pixels[:, 0] + UT_OUTER_WEIGHT * (pixels - pixels[:, :1]).sum(dim=1)
    weights = pixels.new_tensor([UT_CENTRAL_COVARIANCE_WEIGHT] + [UT_OUTER_WEIGHT] * 6)
    variance = (weights[:, None] * (pixels - center[:, None]).square()).sum(dim=1) + EPS_2D
    extent = torch.sqrt(2 * torch.log((splats.opacities / MIN_ALPHA).clamp(min=1))).clamp(
        max=MAX_EXTENT
    )
    radius = extent[:, None] * variance.clamp(min=0).sqrt()

    last = pixels.new_tensor([camera.width - 1, camera.height - 1])
    low, high = torch.floor(center - radius - 0.5), torch.ceil(center + radius - 0.5)
    valid = (
        valid & (splats.opacities > MIN_ALPHA) & (high >= 0).all(dim=1) & (low <= last).all(dim=1)
    )
    low, high = torch.maximum(low, torch.zeros_like(last)), torch.minimum(high, last)
    return torch.where(valid[:, None], torch.cat([low, high], dim=1), 0).long(), valid


def project(
    splats: Splats, camera: Cameras, near: float
) -> tuple[Int[Tensor, "count 4"], Float[Tensor, " count"], Bool[Tensor, " count"]]:
    """Per Gaussian: its box of pixels, the camera z of its centre (differentiable), and whether it
    is drawn.
    """
    box, valid = _boxes(splats, camera)
    viewmat = camera.viewmats[0]
    depth = splats.means @ viewmat[2, :3] + viewmat[2, 3]
    return box, depth, valid & (depth.detach() > near)


def view_colors(splats: Splats, camera: Cameras, sh_degree: int) -> Float[Tensor, "count 3"]:
    """Colours towards the camera: max(SH(direction) + 0.5, 0). Gradients flow through the direction
    into the means.
    """
    directions = torch.nn.functional.normalize(splats.means - camera.centers[0], dim=-1)
    basis = sh_basis(directions, sh_degree)
    return ((basis[:, :, None] * splats.sh[:, : basis.shape[1]]).sum(dim=1) + 0.5).clamp(min=0)


def sh_basis(
    directions: Float[Tensor, "*batch 3"], degree: int
) -> Float[Tensor, "*batch coefficients"]:
    """Real spherical harmonics up to ``degree`` (0 to 3) at unit directions, in the order of 3DGS
    files.
    """
    x, y, z = directions.unbind(dim=-1)
    basis = [torch.full_like(x, SH_BASE)]
    if degree >= 1:
        basis += [-SH_1 * y, SH_1 * z, -SH_1 * x]
    if degree >= 2:
        terms = (x * y, y * z, 2 * z * z - x * x - y * y, x * z, x * x - y * y)
        basis += [factor * term for factor, term in zip(SH_2, terms, strict=True)]
    if degree >= 3:
        terms_3 = (
            y * (3 * x * x - y * y),
            x * y * z,
            y * (4 * z * z - x * x - y * y),
            z * (2 * z * z - 3 * x * x - 3 * y * y),
            x * (4 * z * z - x * x - y * y),
            z * (x * x - y * y),
            x * (x * x - 3 * y * y),
        )
        basis += [factor * term for factor, term in zip(SH_3, terms_3, strict=True)]
    return torch.stack(basis, dim=-1)


def _in_box(
    box: Int[Tensor, "count 4"], row: Int[Tensor, " pixels"], column: Int[Tensor, " pixels"]
) -> Bool[Tensor, "pixels count"]:
    left, top, right, bottom = box.unbind(dim=-1)
    row, column = row[:, None], column[:, None]
    return (column >= left) & (column <= right) & (row >= top) & (row <= bottom)


def _alphas(
    opacities: Float[Tensor, " count"],
    whitening: Float[Tensor, "count 3 3"],
    whitened_origin: Float[Tensor, "count 3"],
    rays: Float[Tensor, "pixels 3"],
    inside: Bool[Tensor, "pixels count"],
) -> Float[Tensor, "pixels count"]:
    """Opacity times exp(-distance^2 / 2), with the distance of the ray from the centre in the space
    where the Gaussian is a unit sphere; clamped above, and zero where too small or outside the box.
    """
    direction = torch.einsum("nij,pj->pni", whitening, rays)
    cross = torch.linalg.cross(whitened_origin.expand_as(direction), direction, dim=-1)
    squared_distance = cross.square().sum(dim=-1) / direction.square().sum(dim=-1)
    alpha = (opacities * torch.exp(-0.5 * squared_distance)).clamp(max=MAX_ALPHA)
    return torch.where((alpha >= MIN_ALPHA) & inside, alpha, 0)


def _blend(
    alphas: Float[Tensor, "pixels count"],
) -> tuple[Float[Tensor, "pixels count"], Float[Tensor, " pixels"]]:
    """Blending weights front to back, and the transmittance that remains."""
    going_on = torch.cumprod(1 - alphas, dim=1) > MIN_TRANSMITTANCE
    alphas = torch.where(going_on, alphas, 0)
    after = torch.cumprod(1 - alphas, dim=1)
    before = torch.cat([alphas.new_ones(len(alphas), 1), after], dim=1)
    return alphas * before[:, :-1], before[:, -1]
