"""The flow from source to clean latents: where it starts, its noise levels, and the arithmetic
between its points.

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
#: ``noise``: noise alone, for models that read the render on other channels.
SourceKind = Literal["mixing", "direct", "noise"]

#: One noise level for all latents, or one per clip, or one per clip and latent frame.
Sigma = float | Float[Tensor, " batch"] | Float[Tensor, "batch latent_frames"]


def latent_opacity(
    opacity: Float[Tensor, "batch frames height width"],
    temporal_factor: int,
    spatial_factor: int,
    is_first: bool,
) -> Float[Tensor, "batch 1 latent_frames h w"]:
    """Opacity at the rate of the latents: the largest value of all pixels that a latent stands for.

    is_first: the frames start a clip; then latent frame 0 stands for frame 0 alone, and there is
    one frame more than whole groups.
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
    """Where the flow starts (opacity mixing, paper section 4.1). ``direct`` reads neither opacity
    nor noise; noise may then be None.
    """
    if source == "direct":
        return render_latents
    assert noise is not None, f"the source {source} needs noise"
    if source == "noise":
        return noise
    opacity = latent_opacity.to(render_latents.dtype)
    return opacity * render_latents + (1 - opacity) * noise


def noisy_latents(
    clean: Float[Tensor, "batch channels latent_frames h w"],
    source: Float[Tensor, "batch channels latent_frames h w"],
    sigma: Sigma,
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """The point of the flow at ``sigma``: a straight line from source to clean latents."""
    level = _along_batch(sigma)
    return ((1 - level) * clean.float() + level * source.float()).to(clean.dtype)


def velocity(
    source: Float[Tensor, "batch channels latent_frames h w"],
    clean: Float[Tensor, "batch channels latent_frames h w"],
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """What the network predicts, the same at every point of the line."""
    return source - clean


def clean_from_velocity(
    noisy: Float[Tensor, "batch channels latent_frames h w"],
    velocity: Float[Tensor, "batch channels latent_frames h w"],
    sigma: Sigma,
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """The clean end of the line through ``noisy`` at ``sigma``."""
    return (noisy.float() - _along_batch(sigma) * velocity.float()).to(noisy.dtype)


@dataclass(frozen=True)
class FlowSchedule:
    """Noise levels 1 - i / ``levels``, shifted towards the source: sigma = shift u / (1 + (shift -
    1) u).
    """

    levels: int = 1000
    shift: float = 5.0

    @property
    def sigmas(self) -> Float[Tensor, " levels"]:
        """From 1 downwards; 0 is not among them. In float32 throughout, to have the bits of the
        levels that the release was trained at.
        """
        even = torch.linspace(1, 0, self.levels + 1)[:-1]
        return self.shift * even / (1 + (self.shift - 1) * even)

    @property
    def timesteps(self) -> Float[Tensor, " levels"]:
        """The levels as the network reads them."""
        return timestep(self.sigmas)

    @property
    def training_weights(self) -> Float[Tensor, " levels"]:
        """Weight of each level in the training loss: a bell over the timesteps, 0 at the source
        end, of mean 1.
        """
        bell = torch.exp(-2 * (self.timesteps.to(torch.float64) / 1000 - 0.5).square())
        bell = bell - bell.min()
        return (bell * (self.levels / bell.sum())).to(torch.float32)

    def few_step_sigmas(self, steps: int) -> Float[Tensor, " steps"]:
        """The levels of a roll-out with so many network calls per block: evenly spaced before the
        shift.
        """
        assert 1 <= steps <= self.levels, f"{steps} steps of {self.levels} levels"
        return self.sigmas[[-(-self.levels * step // steps) for step in range(steps)]]


def timestep(sigma: Tensor) -> Tensor:
    """A noise level as the network reads it."""
    return 1000 * sigma


def _along_batch(sigma: Sigma) -> float | Tensor:
    """Shaped to multiply latents."""
    if not isinstance(sigma, Tensor) or sigma.ndim == 0:
        return sigma
    sigma = sigma.to(torch.float32)
    return sigma.view(sigma.shape[0], 1, *sigma.shape[1:], *[1] * (4 - sigma.ndim))
