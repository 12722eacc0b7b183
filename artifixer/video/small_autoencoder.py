"""A small causal video autoencoder with the interface of Wan's, for models that are trained on a
CPU. Not in the paper.

In: video ``[batch 3 frames height width]`` in [-1,1] of ``1 + n temporal_factor`` frames. Out:
latents ``[batch channels 1+n h w]``; and back. Latent frame 0 represents the first frame alone
(repeated ``temporal_factor`` times for the network), every later one ``temporal_factor`` frames.

All convolutions are two-dimensional. Time is folded into channels, and causal residual blocks also
read the features of the previous latent frame; those of the last one are the state with which a
clip continues in a later call. The networks' outputs are added to a linear map per space-time
patch; ``initialise`` sets the map to the principal components of given clips and the networks'
outputs to zero, so that training starts from PCA.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from artifixer.video.latent_grid import LatentGrid

#: State of a clip: the last features of each causal block of an encoder or decoder, in their order;
#: None before a clip's first frame. Updated by every call.
Memory = list[Tensor | None]


@dataclass(frozen=True)
class SmallAutoencoderConfig(LatentGrid):
    """The architecture."""

    width: int = 96
    """Channels of the decoder at latent resolution; half of them at twice that resolution."""

    depth: int = 3
    """Residual blocks of the decoder at latent resolution; every other one is causal."""

    encoder_width: int = 64
    """Channels of the encoder at latent resolution; half of them at twice that resolution."""

    encoder_depth: int = 1
    """Residual blocks of the encoder at latent resolution; every other one is causal."""

    z_dim: int = 16
    """Latent channels."""

    spatial_factor: int = 4
    """Pixels per latent along each side; even."""

    temporal_factor: int = 4
    """Pixel frames per latent frame, except the first one."""

    latents_mean: tuple[float, ...] = ()
    """Mean of each latent channel; latents outside ``vae.py`` are normalised. Empty for zeros."""

    latents_std: tuple[float, ...] = ()
    """Standard deviation of each latent channel. Empty for ones."""

    def __post_init__(self) -> None:
        assert self.spatial_factor % 2 == 0, (
            f"spatial factor {self.spatial_factor}, expected an even number"
        )
        object.__setattr__(self, "latents_mean", self.latents_mean or (0.0,) * self.z_dim)
        object.__setattr__(self, "latents_std", self.latents_std or (1.0,) * self.z_dim)
        assert len(self.latents_mean) == len(self.latents_std) == self.z_dim, (
            f"latent statistics are not of {self.z_dim} channels"
        )

    @property
    def group_channels(self) -> int:
        """Colour channels of all pixel frames of one latent frame."""
        return 3 * self.temporal_factor

    @property
    def patch_values(self) -> int:
        """Number of colour values of one space-time patch."""
        return self.group_channels * self.spatial_factor**2


class SmallAutoencoder(nn.Module):
    """Encoder and decoder; latents here are not normalised."""

    def __init__(self, config: SmallAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(
        self,
        video: Float[Tensor, "batch 3 frames height width"],
        memory: Memory | None = None,
        is_first: bool = True,
    ) -> Float[Tensor, "batch channels latent_frames h w"]:
        """Latents of a whole clip, or with a ``memory`` of its next frames. is_first: whether the
        frames start the clip.
        """
        groups = _grouped(video, self.config.temporal_factor, is_first)
        latents: Tensor = self.encoder(groups, memory or self.encoder_memory()).transpose(1, 2)
        return latents

    def decode(
        self,
        latents: Float[Tensor, "batch channels latent_frames h w"],
        memory: Memory | None = None,
        is_first: bool = True,
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """The approximate inverse of ``encode``; not clamped."""
        groups = self.decoder(latents.transpose(1, 2), memory or self.decoder_memory())
        video = (
            groups.unflatten(2, (self.config.temporal_factor, 3))
            .permute(0, 3, 1, 2, 4, 5)
            .flatten(2, 3)
        )
        frames: Tensor = video[:, :, self.config.temporal_factor - 1 :] if is_first else video
        return frames

    def encoder_memory(self) -> Memory:
        """The state before a clip's first frame."""
        return [None] * len(self.encoder.blocks)

    def decoder_memory(self) -> Memory:
        """The state before a clip's first latent frame."""
        return [None] * len(self.decoder.blocks)

    @torch.no_grad()
    def initialise(
        self, video: Float[Tensor, "batch 3 frames height width"], whitening: float = 0.5
    ) -> None:
        """Initialise with the principal components of these clips' patches.

        whitening: exponent of the scaling by the components' standard deviations: 0 for none, 1 for
        unit variance of all channels.
        """
        self.encoder.zero_output()
        self.decoder.zero_output()
        groups = _grouped(video, self.config.temporal_factor, is_first=True).flatten(0, 1)
        patches = (
            F.pixel_unshuffle(groups, self.config.spatial_factor)
            .permute(0, 2, 3, 1)
            .flatten(0, 2)
            .double()
        )
        mean = patches.mean(dim=0)
        spread, directions = torch.linalg.eigh(torch.cov((patches - mean).mT))
        strongest = directions.flip(1)[:, : self.config.z_dim]
        scale = spread.flip(0)[: self.config.z_dim].clamp(min=1e-8).sqrt() ** whitening
        to_latent = (strongest / scale).mT
        self.encoder.linear.weight.copy_(to_latent[:, :, None, None])
        assert self.encoder.linear.bias is not None and self.decoder.linear.bias is not None
        self.encoder.linear.bias.copy_(-to_latent @ mean)
        self.decoder.linear.weight.copy_((strongest * scale)[:, :, None, None])
        self.decoder.linear.bias.copy_(mean)


class Encoder(nn.Module):
    """Groups of frames -> latents: the sum of the linear map and a network."""

    def __init__(self, config: SmallAutoencoderConfig) -> None:
        super().__init__()
        self.factor = config.spatial_factor
        width = config.encoder_width
        half = width // 2
        self.enter = nn.Conv2d(config.group_channels * (self.factor // 2) ** 2, half, 3, padding=1)
        self.fine = ResidualBlock(half)
        self.down = nn.Conv2d(4 * half, width, 1)
        self.blocks = nn.ModuleList(
            [ResidualBlock(width, is_causal=i % 2 == 0) for i in range(config.encoder_depth)]
        )
        self.leave = nn.Conv2d(width, config.z_dim, 3, padding=1)
        self.linear = nn.Conv2d(config.patch_values, config.z_dim, 1)

    def forward(
        self,
        groups: Float[Tensor, "batch latent_frames group_channels height width"],
        memory: Memory,
    ) -> Float[Tensor, "batch latent_frames channels h w"]:
        batch, frames = groups.shape[:2]
        pixels = groups.flatten(0, 1)
        hidden = self.enter(F.pixel_unshuffle(pixels, self.factor // 2))
        hidden = self.fine(hidden)
        hidden = self.down(F.pixel_unshuffle(hidden, 2))
        hidden = _through(self.blocks, hidden, batch, memory)
        latents = self.linear(F.pixel_unshuffle(pixels, self.factor)) + self.leave(hidden)
        clips: Tensor = latents.unflatten(0, (batch, frames))
        return clips

    def zero_output(self) -> None:
        """Set the network's output to zero."""
        _zero(self.leave)


class Decoder(nn.Module):
    """Latents -> groups of frames: the sum of the linear map and a network."""

    def __init__(self, config: SmallAutoencoderConfig) -> None:
        super().__init__()
        self.factor = config.spatial_factor
        half = config.width // 2
        self.enter = nn.Conv2d(config.z_dim, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(
            [ResidualBlock(config.width, is_causal=i % 2 == 0) for i in range(config.depth)]
        )
        self.up = nn.Conv2d(config.width, 4 * half, 1)
        self.fine = nn.ModuleList([ResidualBlock(half), ResidualBlock(half)])
        self.norm = ChannelNorm(half)
        self.leave = nn.Conv2d(half, config.group_channels * (self.factor // 2) ** 2, 3, padding=1)
        self.linear = nn.Conv2d(config.z_dim, config.patch_values, 1)

    def forward(
        self, latents: Float[Tensor, "batch latent_frames channels h w"], memory: Memory
    ) -> Float[Tensor, "batch latent_frames group_channels height width"]:
        batch, frames = latents.shape[:2]
        flat = latents.flatten(0, 1)
        hidden = _through(self.blocks, self.enter(flat), batch, memory)
        hidden = F.pixel_shuffle(self.up(hidden), 2)
        for block in self.fine:
            hidden = block(hidden)
        correction = F.pixel_shuffle(self.leave(F.silu(self.norm(hidden))), self.factor // 2)
        groups: Tensor = (F.pixel_shuffle(self.linear(flat), self.factor) + correction).unflatten(
            0, (batch, frames)
        )
        return groups

    def zero_output(self) -> None:
        """Set the network's output to zero."""
        _zero(self.leave)


class ResidualBlock(nn.Module):
    """Two convolutions with a skip connection. A causal block also reads the previous latent frame;
    before the first one, the first one itself.
    """

    def __init__(self, channels: int, is_causal: bool = False) -> None:
        super().__init__()
        self.is_causal = is_causal
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels * (2 if is_causal else 1), channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _zero(self.conv2)

    def forward(
        self, features: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images channels h w"]:
        """The output of a block that is not causal, frame by frame."""
        assert not self.is_causal, "a causal block needs its state: call causal"
        change: Tensor = features + self.conv2(
            F.silu(self.norm2(self.conv1(F.silu(self.norm1(features)))))
        )
        return change

    def causal(
        self, features: Float[Tensor, "images channels h w"], batch: int, last: Tensor | None
    ) -> tuple[Float[Tensor, "images channels h w"], Float[Tensor, "batch 1 channels h w"]]:
        """The output of a causal block, and its state. last: the state after the frames before;
        None at the start of a clip.
        """
        present = F.silu(self.norm1(features))
        frames = present.unflatten(0, (batch, -1))
        before = torch.cat(
            [frames[:, :1] if last is None else last.to(frames.dtype), frames[:, :-1]], dim=1
        )
        hidden = self.conv1(torch.cat([present, before.flatten(0, 1)], dim=1))
        return features + self.conv2(F.silu(self.norm2(hidden))), frames[:, -1:]


class ChannelNorm(nn.Module):
    """Root-mean-square normalisation over channels, per pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(
        self, features: Float[Tensor, "images channels h w"]
    ) -> Float[Tensor, "images channels h w"]:
        normed: Tensor = F.normalize(features, dim=1) * features.shape[1] ** 0.5 * self.gain
        return normed


def _grouped(
    video: Float[Tensor, "batch 3 frames height width"], temporal_factor: int, is_first: bool
) -> Float[Tensor, "batch latent_frames group_channels height width"]:
    """The colour channels of each latent frame's pixel frames; a clip's first frame is repeated to
    fill its group.
    """
    if is_first:
        video = torch.cat(
            [video[:, :, :1].expand(-1, -1, temporal_factor - 1, -1, -1), video], dim=2
        )
    assert video.shape[2] % temporal_factor == 0, (
        f"{tuple(video.shape)}: frames do not fill latent frames"
    )
    groups: Tensor = (
        video.unflatten(2, (-1, temporal_factor)).permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
    )
    return groups


def _through(blocks: nn.ModuleList, hidden: Tensor, batch: int, memory: Memory) -> Tensor:
    for index, block in enumerate(blocks):
        assert isinstance(block, ResidualBlock)
        if block.is_causal:
            hidden, memory[index] = block.causal(hidden, batch, memory[index])
        else:
            hidden = block(hidden)
    return hidden


def _zero(layer: nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
