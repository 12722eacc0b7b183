"""Flow matching, the first two stages: predict the velocity between renders and clean clips (paper
sections 4.1 and 4.2).

In: training pairs. Out: the loss of section 4.1, for one of two kinds of training:

``bidirectional``      the teacher: all frames of a clip are denoised together at one noise level
``diffusion_forcing``  initialisation of the causal model: the same data and loss under a
                       block-causal mask, each block at its own noise level (Diffusion Forcing,
                       section 4.2). Blocks attend to noisy earlier blocks at those blocks' levels;
                       no clean copies are added.

Sigma 1 is the source (the render where opaque, noise where empty), sigma 0 the clean clip. The
additions of small models are in ``small_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.seeds import generator as keyed_generator
from artifixer.training.clips import (
    Clip,
    ClipConfig,
    EncodedClips,
    draw_batch,
    encode_clips,
    latent_shape,
)
from artifixer.training.ema import Ema
from artifixer.training.parallel import at_least_float32, autocast
from artifixer.video.flow import (
    FlowSchedule,
    clean_from_velocity,
    noisy_latents,
    source_latents,
    timestep,
    velocity,
)
from artifixer.video.model import Model

FlowMatchingKind = Literal["bidirectional", "diffusion_forcing"]

Latents = Float[Tensor, "batch channels latent_frames h w"]


@dataclass(frozen=True)
class FlowMatchingTraining:
    """Settings of the stage; the defaults are the paper's (sections 4.1 and 5.1) and, where it does
    not state them, the release's.
    """

    clips: ClipConfig = field(default_factory=ClipConfig)
    """How clips are drawn from pairs."""

    learning_rate: float = 1e-5
    """Learning rate of AdamW."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""

    weight_decay: float = 0.01
    """Decoupled weight decay."""

    gradient_limit: float = 1.0
    """Norm to which gradients are clipped."""


@dataclass(frozen=True)
class DrawnClips:
    """The random input of one step."""

    clips: list[Clip]
    """Clips with dropout."""

    noise: Latents
    """Noise of the sources."""

    level: Int[Tensor, "batch blocks"]
    """Indices of the noise levels."""


class FlowMatchingStage:
    """The ``Stage`` of either kind of flow matching."""

    ema: Ema | None = None

    def __init__(
        self,
        kind: FlowMatchingKind,
        model: Model,
        settings: FlowMatchingTraining,
        seed: int,
        compute: str,
    ) -> None:
        """The model's transformer, already distributed, is trained in place; the autoencoder is not
        changed.
        """
        self.name = kind
        #: Latent frames per temporal block of a causal network; None for a bidirectional one.
        self.block_frames = model.config.block_frames if kind == "diffusion_forcing" else None
        self.transformer = model.transformer.requires_grad_(True).train()
        self.vae, self.text, self.seed, self.compute = (
            model.vae,
            model.config.text,
            seed,
            compute,
        )
        self.schedule = FlowSchedule(shift=model.config.shift)
        self.source = model.config.source
        optimizer = torch.optim.AdamW(
            self.transformer.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        self.clips = settings.clips
        self.modules: Mapping[str, nn.Module] = {"transformer": self.transformer}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"transformer": optimizer}
        self.gradient_limits = {"transformer": settings.gradient_limit}

    @property
    def extra_state(self) -> Mapping[str, Tensor]:
        return {} if self.ema is None else self.ema.state()

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> DrawnClips:
        """Clips with dropout, and all random numbers of the step."""
        clips = self._draw_clips(pairs, generators, step)
        return DrawnClips(
            clips, self._draw_noise(clips, generators), self._draw_levels(clips, generators)
        )

    def losses(
        self, drawn: DrawnClips, generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted squared error of the velocity (section 4.1); metric: the mean squared error
        of the clean latents that follow from it.
        """
        device = next(self.transformer.parameters()).device
        with autocast(self.compute, device):
            encoded = self._encoded(drawn, step, device)
        clean, level = encoded.clean_latents, drawn.level
        source = self._source(encoded, drawn)
        sigma = self.schedule.sigmas.to(clean.device)[level]
        per_frame = sigma.repeat_interleave(clean.shape[2] // sigma.shape[1], dim=1)
        noisy = noisy_latents(clean, source, per_frame)
        with autocast(self.compute, device):
            predicted = self._velocity(noisy, sigma, encoded)
        error = (at_least_float32(predicted) - at_least_float32(velocity(source, clean))).square()
        loss = self._weighted(error, encoded, level).mean()
        reached = clean_from_velocity(noisy, predicted.detach(), per_frame)
        return {"transformer": loss}, {"latent_error": (reached - clean).square().mean()}

    def updated(self, step: int) -> None:
        """Update the averaged weights, if there are any."""
        if self.ema is not None:
            self.ema.update()

    def _draw_clips(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> list[Clip]:
        shape = keyed_generator(self.seed, "batch shape", step)
        return draw_batch(pairs, self.clips, generators, shape)

    def _draw_noise(self, clips: Sequence[Clip], generators: Sequence[torch.Generator]) -> Latents:
        shape = latent_shape(clips[0], self.vae.config)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        return noise.to(self.vae.device)

    def _draw_levels(
        self, clips: Sequence[Clip], generators: Sequence[torch.Generator]
    ) -> Int[Tensor, "batch blocks"]:
        """Indices of noise levels: one per clip, or one per temporal block."""
        blocks = self._blocks(latent_shape(clips[0], self.vae.config)[1])
        return torch.stack(
            [
                torch.randint(self.schedule.levels, (blocks,), generator=generator)
                for generator in generators
            ]
        )

    def _blocks(self, frames: int) -> int:
        """Number of noise levels of a clip of ``frames`` latent frames."""
        if self.block_frames is None:
            return 1
        blocks, rest = divmod(frames, self.block_frames)
        assert not rest, f"{frames} frames in blocks of {self.block_frames}"
        return blocks

    def _shown_clips(self, drawn: DrawnClips, step: int) -> list[Clip]:
        """The clips that the network is trained on."""
        return drawn.clips

    def _encoded(self, drawn: DrawnClips, step: int, device: torch.device) -> EncodedClips:
        """Their latents and conditions."""
        return encode_clips(self._shown_clips(drawn, step), self.vae, self.text, device)

    def _source(self, encoded: EncodedClips, drawn: DrawnClips) -> Latents:
        """The model's own source; the paper's is opacity mixing (section 4.1): the render where it
        is opaque, noise where it is empty.
        """
        noise = drawn.noise.to(encoded.clean_latents)
        return source_latents(encoded.render_latents, encoded.latent_opacity, noise, self.source)

    def _velocity(self, noisy: Latents, sigma: Tensor, encoded: EncodedClips) -> Latents:
        """The network's prediction. sigma: per clip and block."""
        predicted: Tensor = self.transformer(
            noisy,
            timestep(sigma) if self.block_frames is not None else timestep(sigma[:, 0]),
            encoded.conditions,
            block_frames=self.block_frames,
            source_skip=encoded.source_skip,
            render_latents=encoded.render_latents,
        )
        return predicted

    def _weighted(self, error: Latents, encoded: EncodedClips, level: Tensor) -> Latents:
        """Squared errors times ``FlowSchedule.training_weights`` of their noise levels, as in the
        release.
        """
        weights = self.schedule.training_weights.to(error)[level]
        per_frame = weights.repeat_interleave(error.shape[2] // level.shape[1], dim=1)
        return error * per_frame[:, None, :, None, None]
