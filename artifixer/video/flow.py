"""The flow from source to clean latents: its source, its noise levels, and conversions between its
points.

In: latents of the renders, opacity, noise. Out: source latents, noisy latents, velocities and clean
latents, all ``[batch channels latent_frames h w]``. Sigma 1 is the source and sigma 0 the clean end
(flow matching: paper section 3, with time reversed as in the public release; the source: section
4.1). Arithmetic with sigma is done in float32 whatever the latents' type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

#: ``mixing``: the render where it is opaque, noise where it is empty. ``direct``: the render alone.
SourceKind = Literal["mixing", "direct"]

#: One noise level for all latents, or one per clip, or one per clip and latent frame.
Sigma = float | Float[Tensor, " batch"] | Float[Tensor, "batch latent_frames"]


def latent_opacity(
    opacity: Float[Tensor, "batch frames height width"],
    temporal_factor: int,
    spatial_factor: int,
    is_first: bool,
) -> Float[Tensor, "batch 1 latent_frames h w"]:
    """Opacity at latent rate: the maximum over all pixels of a latent.

    is_first: whether the frames start a clip, whose latent frame 0 represents frame 0 alone.
    """
    frames = opacity.shape[1] - is_first
    assert frames % temporal_factor == 0, (
        f"{opacity.shape[1]} frames are not groups of "
        f"{temporal_factor}{' after the first' * is_first}"
    )
    if is_first:
        opacity = torch.cat(
            [opacity[:, :1].expand(-1, temporal_factor - 1, -1, -1), opacity], dim=1
        )
    return torch.nn.functional.max_pool3d(
        opacity[:, None], (temporal_factor, spatial_factor, spatial_factor)
    )


def source_latents(
    render_latents: Float[Tensor, "batch channels latent_frames h w"],
    latent_opacity: Float[Tensor, "batch 1 latent_frames h w"],
    noise: Float[Tensor, "batch channels latent_frames h w"] | None,
    source: SourceKind = "mixing",
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """The source of the flow (opacity mixing, paper section 4.1). ``direct`` uses neither opacity
    nor noise, which may then be None.
    """
    if source == "direct":
        return render_latents
    assert noise is not None, "mixing needs noise"
    opacity = latent_opacity.to(render_latents.dtype)
    return opacity * render_latents + (1 - opacity) * noise


def noisy_latents(
    clean: Float[Tensor, "batch channels latent_frames h w"],
    source: Float[Tensor, "batch channels latent_frames h w"],
    sigma: Sigma,
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """The point of the flow at ``sigma``, on a straight line from source to clean latents."""
    level = _along_batch(sigma)
    return ((1 - level) * clean.float() + level * source.float()).to(clean.dtype)


def velocity(
    source: Float[Tensor, "batch channels latent_frames h w"],
    clean: Float[Tensor, "batch channels latent_frames h w"],
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """The network's target: source - clean, constant along the flow."""
    return source - clean


def clean_from_velocity(
    noisy: Float[Tensor, "batch channels latent_frames h w"],
    velocity: Float[Tensor, "batch channels latent_frames h w"],
    sigma: Sigma,
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """The clean latents that follow from the velocity at ``noisy``."""
    return (noisy.float() - _along_batch(sigma) * velocity.float()).to(noisy.dtype)


@dataclass(frozen=True)
class FlowSchedule:
    """Noise levels u = 1 - i / ``levels``, shifted towards the source: sigma = shift u / (1 +
    (shift - 1) u).
    """

    levels: int = 1000
    """Number of noise levels."""

    shift: float = 5.0
    """Shift towards the source; 1 for none."""

    @property
    def sigmas(self) -> Float[Tensor, " levels"]:
        """Noise levels from 1 downwards, without 0. Computed in float32, bit-identical to those of
        the release's training.
        """
        even = torch.linspace(1, 0, self.levels + 1)[:-1]
        return self.shift * even / (1 + (self.shift - 1) * even)

    @property
    def timesteps(self) -> Float[Tensor, " levels"]:
        """The levels as input of the network."""
        return timestep(self.sigmas)

    @property
    def training_weights(self) -> Float[Tensor, " levels"]:
        """Weight of each level in the training loss: a Gaussian of the timestep minus its minimum,
        thus 0 at the source, of mean 1.
        """
        bell = torch.exp(-2 * (self.timesteps.to(torch.float64) / 1000 - 0.5).square())
        bell = bell - bell.min()
        return (bell * (self.levels / bell.sum())).to(torch.float32)

    def few_step_sigmas(self, steps: int) -> Float[Tensor, " steps"]:
        """The levels of a rollout with ``steps`` network calls per block, evenly spaced before the
        shift.
        """
        assert 1 <= steps <= self.levels, f"{steps} steps of {self.levels} levels"
        return self.sigmas[[-(-self.levels * step // steps) for step in range(steps)]]


def timestep(sigma: Tensor) -> Tensor:
    """A noise level as input of the network."""
    return 1000 * sigma


def _along_batch(sigma: Sigma) -> float | Tensor:
    """Sigma in a shape that broadcasts to latents."""
    if not isinstance(sigma, Tensor) or sigma.ndim == 0:
        return sigma
    sigma = sigma.to(torch.float32)
    return sigma.view(sigma.shape[0], 1, *sigma.shape[1:], *[1] * (4 - sigma.ndim))
