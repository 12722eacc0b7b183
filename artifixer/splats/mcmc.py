"""Densification by Markov chain Monte Carlo (Kheradmand et al. 2024), in plain torch on any device.

Three moves replace the heuristics of cloning, splitting and resetting: dead Gaussians (opacity
under a threshold) are relocated to living ones, the population grows in the same way up to a
maximum, and noise shaped by each Gaussian's covariance is added to the positions of nearly
transparent ones. Copies get the opacity and scale for which the render barely changes (their
equation 9).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from artifixer.geometry.transforms import quaternion_to_matrix
from artifixer.splats.trainable import TrainableSplats


@dataclass(frozen=True)
class McmcConfig:
    """When Gaussians are relocated and added, and how strongly they are perturbed."""

    max_gaussians: int = 1_000_000
    """Number of Gaussians up to which a fit grows; initial ones beyond it are kept."""
    dead_opacity: float = 0.005
    """Opacity up to which Gaussians are relocated."""
    growth: float = 1.05
    """Factor on the number of Gaussians per relocation."""
    start: float = 0.05
    """Fraction of the iterations before the first relocation."""
    stop: float = 0.8
    """Fraction of the iterations after which Gaussians are not relocated."""
    every: int = 100
    """Iterations between two relocations."""
    noise: float = 5e5
    """Exploration noise per unit of the positions' learning rate; 5e5 in the authors' code at
    world-unit learning rates."""
    noise_sharpness: float = 100.0
    """Slope of the logistic function of opacity that scales the noise."""
    noise_threshold: float = 0.005
    """Opacity at which that logistic function is 1/2."""


#: More copies than this are treated as this many: the binomials of equation 9 lose float32
#: precision beyond.
MAX_COPIES = 51

#: Above this opacity the noise's logistic is under 1e-6 and skipped (sharpness 100, threshold
#: 0.005).
QUIET_OPACITY = 0.15


@torch.no_grad()
def relocate_and_grow(
    trainable: TrainableSplats, config: McmcConfig, generator: torch.Generator
) -> int:
    """Relocate dead Gaussians to living ones and add new ones up to the maximum; returns the
    number of relocated and added ones.

    Sources are drawn in proportion to opacity. Each source and its copies get the opacity and scale
    of equation 9.
    """
    splats = trainable.splats
    opacities = splats.opacities
    count = len(splats)
    alive = opacities > config.dead_opacity
    dead = torch.nonzero(~alive)[:, 0]
    added = max(0, min(config.max_gaussians, math.ceil(config.growth * count)) - count)
    moved = len(dead) + added
    if moved == 0 or not alive.any():
        return 0

    weights = torch.where(alive, opacities, torch.zeros_like(opacities)).cpu()
    sources = torch.multinomial(weights, moved, replacement=True, generator=generator).to(
        dead.device
    )
    copies = torch.bincount(sources, minlength=count) + 1
    index = torch.arange(count, device=dead.device)
    index[dead] = sources[: len(dead)]
    index = torch.cat([index, sources[len(dead) :]])
    shared = copies[index] > 1
    trainable.gather(index, fresh=shared)

    splats = trainable.splats
    new_opacities, new_scales = share_between_copies(
        splats.opacities[shared], splats.scales[shared], copies[index][shared]
    )
    splats.opacity_logits[shared] = torch.logit(new_opacities.clamp(config.dead_opacity, 1 - 1e-6))
    splats.log_scales[shared] = new_scales.log()
    return moved


@torch.no_grad()
def perturb(
    trainable: TrainableSplats,
    config: McmcConfig,
    means_learning_rate: float,
    generator: torch.Generator,
) -> None:
    """Add exploration noise to the centres: covariance times a normal draw, gated to nearly
    transparent Gaussians.
    """
    splats = trainable.splats
    opacities = splats.opacities
    noise = torch.randn(splats.means.shape, generator=generator).to(splats.means.device)
    chosen = torch.nonzero(opacities < QUIET_OPACITY)[:, 0]
    if len(chosen) == 0:
        return
    gate = torch.sigmoid(config.noise_sharpness * (config.noise_threshold - opacities[chosen]))
    axes = quaternion_to_matrix(splats.unit_quats[chosen]) * splats.scales[chosen][:, None]
    step = axes @ (axes.mT @ noise[chosen][:, :, None])
    splats.means[chosen] += step[..., 0] * (gate * config.noise * means_learning_rate)[:, None]


def share_between_copies(
    opacities: Float[Tensor, " count"],
    scales: Float[Tensor, "count 3"],
    copies: Int[Tensor, " count"],
) -> tuple[Float[Tensor, " count"], Float[Tensor, "count 3"]]:
    """Opacity and scale of each of ``copies`` coinciding Gaussians that together render like the
    original.

    Equation 9 of Kheradmand et al.: o' = 1 - (1 - o)^(1/n), and scale times
    o / sum_{i=1..n} sum_{k=0..i-1} binom(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1).
    """
    copies = copies.clamp(1, MAX_COPIES)
    shared = 1 - (1 - opacities.double()) ** (1 / copies.double())
    powers = shared[:, None] ** torch.arange(1, MAX_COPIES + 1, device=shared.device)
    denominator = (_binomial_sums(str(shared.device))[copies] * powers).sum(dim=1)
    factor = opacities.double() / denominator
    return shared.to(opacities.dtype), scales * factor.to(scales.dtype)[:, None]


@cache
def _binomial_sums(device: str) -> Float[Tensor, "copies power"]:
    """Row n, column k: (-1)^k / sqrt(k+1) * sum_{i=1..n} binom(i-1, k), by the hockey-stick
    identity binom(n, k+1).
    """
    table = torch.zeros(MAX_COPIES + 1, MAX_COPIES, dtype=torch.float64)
    for n in range(1, MAX_COPIES + 1):
        for k in range(n):
            table[n, k] = (-1) ** k * math.comb(n, k + 1) / math.sqrt(k + 1)
    return table.to(device)
