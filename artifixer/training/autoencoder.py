"""The first stage of small models, not in the paper: a causal autoencoder, trained on clean clips
and on renders.

In: training pairs. Out: a ``SmallAutoencoder`` and the statistics of its latents. It is initialised
with the principal components of patches, so that training takes minutes on a CPU. Large models use
Wan's autoencoder unchanged (paper section 4.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.seeds import generator as keyed_generator
from artifixer.training.clips import frame_order
from artifixer.training.parallel import at_least_float32, autocast
from artifixer.training.stage import PairSource
from artifixer.video.small_autoencoder import SmallAutoencoder, SmallAutoencoderConfig
from artifixer.video.vae import Vae, frames_to_video

#: Number of pairs for the principal components and the statistics of latents.
STATISTICS_PAIRS = 48


@dataclass(frozen=True)
class AutoencoderTraining:
    """Settings of the stage."""

    frames: int = 9
    """Pixel frames per clip."""

    crop: int | None = None
    """Side of the random square crop, pixels; None for whole frames."""

    render_fraction: float = 0.25
    """Fraction of clips that are renders, which the video model encodes too."""

    learning_rate: float = 1.5e-3
    """Learning rate of AdamW."""

    weight_decay: float = 1e-4
    """Decoupled weight decay."""

    gradient_limit: float = 1.0
    """Norm to which gradients are clipped."""

    latent_noise: float = 0.04
    """Standard deviation of noise added to latents before decoding, relative to theirs: makes the
    decoder robust to the generator's errors."""

    gradient_weight: float = 0.3
    """Weight of the error of image gradients, which preserves edges."""

    size_weight: float = 1e-5
    """Weight of the mean squared latent."""


class AutoencoderStage:
    """The ``Stage`` that trains a small autoencoder."""

    name = "autoencoder"

    def __init__(
        self,
        network: SmallAutoencoder,
        settings: AutoencoderTraining,
        pairs: PairSource,
        seed: int,
        compute: str,
    ) -> None:
        """network: initialised with principal components and trained in place."""
        self.network = network.requires_grad_(True).train()
        self.settings, self.compute = settings, compute
        start = [
            _clip(
                pairs.pair(i),
                replace(settings, render_fraction=0.0),
                keyed_generator(seed, "principal components", sample=i),
            )
            for i in range(STATISTICS_PAIRS)
        ]
        network.initialise(self._stacked(start))
        rate, decay = settings.learning_rate, settings.weight_decay
        optimizer = torch.optim.AdamW(
            network.parameters(), lr=rate, weight_decay=decay, betas=(0.9, 0.98)
        )
        self.modules: Mapping[str, nn.Module] = {"autoencoder": network}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"autoencoder": optimizer}
        self.gradient_limits = {"autoencoder": settings.gradient_limit}
        self.extra_state: Mapping[str, Tensor] = {}

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> list[Tensor]:
        """Clips ``[1 3 frames height width]``."""
        return [
            _clip(pair, self.settings, generator)
            for pair, generator in zip(pairs, generators, strict=True)
        ]

    def losses(
        self, clips: Sequence[Tensor], generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Absolute and squared error of the pixels, absolute error of image gradients."""
        settings = self.settings
        video = self._stacked(clips)
        with autocast(self.compute, video.device):
            latents = at_least_float32(self.network.encode(video))
            spread = latents.detach().std(dim=(2, 3, 4), keepdim=True)
            drawn = torch.stack(
                [torch.randn(latents.shape[1:], generator=generator) for generator in generators]
            )
            decoded = self.network.decode(
                latents + settings.latent_noise * spread * drawn.to(latents)
            )
        error = at_least_float32(decoded) - video
        loss = (
            error.abs().mean()
            + 2 * error.square().mean()
            + settings.size_weight * latents.square().mean()
        )
        loss = loss + settings.gradient_weight * (
            error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        )
        psnr = -10 * torch.log10(error.detach().square().mean() / 4)
        return {"autoencoder": loss}, {"PSNR": psnr}

    def updated(self, step: int) -> None:
        """Nothing to do: there are no averaged weights."""

    @torch.no_grad()
    def trained_vae(self, pairs: PairSource, seed: int) -> Vae:
        """The autoencoder with the mean and standard deviation of its latents in its config."""
        network = self.network.eval().requires_grad_(False)
        clips = [
            _clip(
                pairs.pair(i), self.settings, keyed_generator(seed, "latent statistics", sample=i)
            )
            for i in range(STATISTICS_PAIRS)
        ]
        encoded = [network.encode(self._stacked([clip])) for clip in clips]
        latents = torch.cat([latent.flatten(2) for latent in encoded], dim=2)
        mean, std = latents.mean(dim=(0, 2)), latents.std(dim=(0, 2))
        return Vae(with_statistics(network.config, mean, std), network)

    def _stacked(
        self, clips: Sequence[Float[Tensor, "1 3 frames height width"]]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """One batch on the network's device, in its dtype."""
        weights = next(self.network.parameters())
        return torch.cat(list(clips)).to(weights)


def with_statistics(
    config: SmallAutoencoderConfig,
    mean: Float[Tensor, " channels"],
    std: Float[Tensor, " channels"],
) -> SmallAutoencoderConfig:
    """The config with these statistics, rounded to five significant digits."""
    means, stds = ([float(f"{value:.5g}") for value in values.tolist()] for values in (mean, std))
    return replace(config, latents_mean=tuple(means), latents_std=tuple(stds))


def pixel_gains(
    vae: Vae, clips: Sequence[Float[Tensor, "1 3 _frames _height _width"]], step: float = 0.1
) -> Float[Tensor, " channels"]:
    """Sensitivity of pixels to each channel of the normalised latents: mean squared change of the
    decoded clips under noise in that channel, scaled to a mean of 1.

    step: standard deviation of the noise.
    """
    gains = torch.zeros(vae.config.z_dim)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for clip in clips:
            latents = vae.encode(clip)
            decoded = vae.decode(latents)
            noise = step * torch.randn(latents[:, 0].shape, generator=random).to(latents)
            for channel in range(len(gains)):
                moved = latents.clone()
                moved[:, channel] += noise
                gains[channel] += float((vae.decode(moved) - decoded).square().mean())
    return gains / gains.mean()


def with_colours(
    pixels: UInt8[Tensor, "images height width 3"], order: Sequence[int]
) -> UInt8[Tensor, "images height width 3"]:
    """The same images with permuted colour channels."""
    # several times faster than indexing with a list
    return torch.stack([pixels[..., colour] for colour in order], dim=-1)


def _clip(
    pair: TrainingPair, settings: AutoencoderTraining, generator: torch.Generator
) -> Float[Tensor, "1 3 frames height width"]:
    """A random clip, clean or rendered, with random crop, flips and permutation of colours."""
    order = frame_order(pair.frames, settings.frames, generator)
    is_render = bool(torch.rand((), generator=generator) < settings.render_fraction)
    frames = (pair.renders if is_render else pair.clean_frames)[order]
    height, width = frames.shape[1:3]
    side = min(height, width, settings.crop or max(height, width))
    if settings.crop is not None:
        top, left = (
            int(torch.randint(size - side + 1, (), generator=generator)) for size in (height, width)
        )
        frames = frames[:, top : top + side, left : left + side]
    frames = with_colours(frames, torch.randperm(3, generator=generator).tolist())
    for axis in (1, 2):
        if torch.randint(2, (), generator=generator):
            frames = frames.flip(axis)
    return frames_to_video(frames)
