"""Training tricks of the small models, such as the embedded one. None of them is in the paper.

In: the stages of ``flow_matching.py`` and ``self_forcing.py``. Out: subclasses of them, chosen by
the class of the settings. A network small enough for a CPU is trained mainly on the direct source
(the render itself, without noise), where one step is best, and partly on the mixing source. The
clips of small models are in ``small_clips.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from artifixer.pairs.loader import OrderedPairs
from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.distributed import any_rank
from artifixer.runtime.seeds import generator as keyed_generator
from artifixer.training.autoencoder import pixel_gains
from artifixer.training.clips import Clip, EncodedClips, encode_clips, frame_order
from artifixer.training.ema import Ema
from artifixer.training.flow_matching import (
    DrawnClips,
    FlowMatchingKind,
    FlowMatchingStage,
    FlowMatchingTraining,
    Latents,
)
from artifixer.training.parallel import at_least_float32
from artifixer.training.self_forcing import SelfForcingStage, SelfForcingTraining
from artifixer.training.small_clips import draw_small_batch
from artifixer.video.flow import SourceKind, clean_from_velocity, source_latents
from artifixer.video.model import Model
from artifixer.video.sample import SampleConfig
from artifixer.video.vae import Vae, frames_to_bytes, frames_to_video, video_to_frames

#: Squared error of latents, in their variances, up to which a render counts as easy.
EASY_FLOOR = 0.1

#: Steps of rollouts that start at the mixing source.
MIXING_STEPS = 4

#: Number of clips for measuring the pixel gains of latent channels, and their pixel frames.
GAIN_CLIPS, GAIN_FRAMES = 4, 13


@dataclass(frozen=True)
class SmallFlowTraining(FlowMatchingTraining):
    """Flow matching of a small model; nothing here is in the paper. All noise levels have the same
    weight.
    """

    source: SourceKind = "direct"
    """Start of the flow."""

    source_fraction: float = 0.0
    """Fraction of clips at sigma 1, the only noise level of one-step sampling."""

    mixing_fraction: float = 0.0
    """Fraction of clips with the mixing source, so that one network learns both."""

    mixing_source_fraction: float = 0.0
    """Fraction of the clips with the mixing source that are at sigma 1."""

    channel_weights: tuple[float, ...] = ()
    """Weights of the latent channels in the loss, of mean 1; if empty, measured on the training
    pairs (``channel_weights``)."""

    easy_power: float = 0.0
    """Exponent of the weight of latent frames, 1 / (squared error of the render + ``EASY_FLOOR``).
    Above 0 it gives more weight to frames with good renders, as in a mean of PSNR over frames."""

    second_fraction: float = 0.0
    """Fraction of clips whose render is replaced by the network's own output with opacity 1, like
    renders of distilled splats (ArtiFixer 3D+)."""

    second_from: int = 0
    """First step with clips of ``second_fraction``."""

    ema_decay: float = 0.0
    """Decay of the averaged weights; 0 for no averaging."""

    ema_warm: bool = False
    """Limit the decay in the first updates, see ``Ema``."""


@dataclass(frozen=True)
class SmallDrawnClips(DrawnClips):
    """Adds the choices of a small model."""

    second: list[bool]
    """Whether a clip's render is replaced by the network's own output."""

    is_mixed: Bool[Tensor, " batch"]
    """Whether a clip has the mixing source."""


class SmallFlowStage(FlowMatchingStage):
    """Flow matching with the tricks above; none is in the paper."""

    def __init__(
        self,
        kind: FlowMatchingKind,
        model: Model,
        settings: SmallFlowTraining,
        seed: int,
        compute: str,
    ) -> None:
        super().__init__(kind, model, settings, seed, compute)
        assert not settings.second_fraction or settings.source == "direct", (
            "the network's own output as the render needs the direct source"
        )
        self.settings = settings
        if settings.ema_decay:
            self.ema = Ema(self.transformer, settings.ema_decay, warm=settings.ema_warm)

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> SmallDrawnClips:
        settings = self.settings
        clips = self._draw_clips(pairs, generators, step)
        second = _happens(settings.second_fraction, generators)
        noise = self._draw_noise(clips, generators)
        is_mixed = torch.tensor(_happens(settings.mixing_fraction, generators))
        level = self.draw_small_levels(is_mixed, noise.shape[2], generators)
        return SmallDrawnClips(clips, noise, level, second, is_mixed)

    def draw_small_levels(
        self, is_mixed: Bool[Tensor, " batch"], frames: int, generators: Sequence[torch.Generator]
    ) -> Int[Tensor, "batch blocks"]:
        """Indices of noise levels as in the base class; level 0 (sigma 1) in all blocks of a
        fraction of the clips.
        """
        settings, rows = self.settings, []
        for is_mixed_clip, generator in zip(is_mixed.tolist(), generators, strict=True):
            drawn = torch.randint(
                self.schedule.levels, (self._blocks(frames),), generator=generator
            )
            fraction = (
                settings.mixing_source_fraction if is_mixed_clip else settings.source_fraction
            )
            rows.append(torch.where(torch.rand((), generator=generator) < fraction, 0, drawn))
        return torch.stack(rows)

    def _draw_clips(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> list[Clip]:
        shape = keyed_generator(self.seed, "batch shape", step)
        return draw_small_batch(pairs, self.clips, generators, shape)

    def _shown_clips(self, drawn: DrawnClips, step: int) -> list[Clip]:
        assert isinstance(drawn, SmallDrawnClips)
        settings = self.settings
        is_due = settings.second_fraction > 0 and step >= settings.second_from
        # on all processes or on none: gathering sharded weights is a collective operation
        if is_due and any_rank(any(drawn.second)):
            return self.with_own_renders(drawn.clips, drawn.second)
        return drawn.clips

    def _source(self, encoded: EncodedClips, drawn: DrawnClips) -> Latents:
        """The direct or mixing source of each clip."""
        assert isinstance(drawn, SmallDrawnClips)
        noise = drawn.noise.to(encoded.clean_latents)
        usual, mixing = (
            source_latents(encoded.render_latents, encoded.latent_opacity, noise, kind)
            for kind in (self.settings.source, "mixing")
        )
        return torch.where(drawn.is_mixed.to(noise.device).view(-1, 1, 1, 1, 1), mixing, usual)

    def _weighted(self, error: Latents, encoded: EncodedClips, level: Tensor) -> Latents:
        return weighted_error(
            error, encoded, self.settings.channel_weights, self.settings.easy_power
        )

    @torch.no_grad()
    def with_own_renders(self, clips: Sequence[Clip], second: Sequence[bool]) -> list[Clip]:
        """The clips; in the selected ones the renders are replaced by the network's frames with
        opacity 1.
        """
        device = next(self.transformer.parameters()).device
        chosen = [clip for clip, is_second in zip(clips, second, strict=True) if is_second]
        shown = chosen or list(clips[:1])  # the network must run on every process
        encoded = encode_clips(shown, self.vae, self.text, device)
        source = encoded.render_latents
        level = torch.zeros(len(shown), self._blocks(source.shape[2]), dtype=torch.int64)
        sigma = self.schedule.sigmas.to(device)[level]
        generated = clean_from_velocity(source, self._velocity(source, sigma, encoded), 1.0)
        if not chosen:
            return list(clips)
        videos = decoded_clips(generated, encoded, chosen, self.vae).split(1)
        own = iter(
            replace(
                clip,
                renders=frames_to_bytes(video_to_frames(video)).to(clip.renders.device),
                opacity=torch.full_like(clip.opacity, 255),
            )
            for clip, video in zip(chosen, videos, strict=True)
        )
        return [
            next(own) if is_second else clip for clip, is_second in zip(clips, second, strict=True)
        ]


@dataclass(frozen=True)
class SmallSelfForcingTraining(SelfForcingTraining):
    """Self forcing of a small model; nothing here is in the paper. Rollouts from the direct source
    have no noise and thus no distribution to match: they are trained on the clean clip.
    """

    matching_weight: float = 1.0
    """Weight of distribution matching, at steps whose rollout starts at the mixing source."""

    mixing_fraction: float = 0.0
    """Fraction of steps whose rollout starts at the mixing source, with ``MIXING_STEPS`` denoising
    steps, for a model with the direct source."""

    clean_weight: float = 0.0
    """Weight of the squared error of the clean latents."""

    channel_weights: tuple[float, ...] = ()
    """Weights of the latent channels in that error, see ``SmallFlowTraining``."""


class SmallSelfForcingStage(SelfForcingStage):
    """Self forcing with the tricks above; none is in the paper."""

    settings: SmallSelfForcingTraining

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> list[Clip]:
        shape = keyed_generator(self.seed, "batch shape", step)
        return draw_small_batch(pairs, self.settings.clips, generators, shape)

    def _check(self, settings: SelfForcingTraining, sampling: SampleConfig) -> None:
        assert isinstance(settings, SmallSelfForcingTraining)
        is_mixing = sampling.source == "mixing"
        assert settings.student_interval == 1 or is_mixing, (
            "without a critic the student must be trained at every step"
        )
        assert settings.clean_weight or is_mixing, (
            "rollouts from another source than mixing need clean_weight"
        )

    def _sampling(self, step: int) -> SampleConfig:
        drawn = torch.rand((), generator=keyed_generator(self.seed, "source", step))
        if float(drawn) >= self.settings.mixing_fraction:
            return self.sampling
        return replace(self.sampling, source="mixing", steps=MIXING_STEPS)

    def _is_matched(self, sampling: SampleConfig) -> bool:
        return sampling.source == "mixing"

    def _student_losses(
        self,
        encoded: EncodedClips,
        generated: Latents,
        is_matched: bool,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        settings, parts = self.settings, {}
        if is_matched:
            matching = self._matching_loss(encoded, generated, generators)
            parts["matching"] = settings.matching_weight * matching
        if settings.clean_weight:
            error = (at_least_float32(generated) - encoded.clean_latents).square()
            error = weighted_error(error, encoded, settings.channel_weights, easy_power=0.0)
            parts["clean"] = settings.clean_weight * error.mean()
        return parts


def weighted_error(
    error: Latents, encoded: EncodedClips, channel_weights: Sequence[float], easy_power: float
) -> Latents:
    """Squared errors of latents weighted by channel and by the error of the render; see
    ``SmallFlowTraining``.
    """
    if channel_weights:
        error = error * error.new_tensor(channel_weights).view(1, -1, 1, 1, 1)
    if easy_power:
        wrong = (
            (at_least_float32(encoded.render_latents) - encoded.clean_latents)
            .square()
            .mean(dim=(1, 3, 4), keepdim=True)
        )
        error = error * (EASY_FLOOR / (wrong + EASY_FLOOR)) ** easy_power
    return error


def decoded_clips(
    latents: Latents, encoded: EncodedClips, clips: Sequence[Clip], vae: Vae
) -> Float[Tensor, "batch 3 frames height width"]:
    """Decoded latents plus the render's residual, approximately in [-1,1]."""
    decoded = at_least_float32(vae.decode(latents))
    renders = torch.cat([frames_to_video(clip.renders, latents.device) for clip in clips])
    residual = renders - at_least_float32(vae.decode(encoded.render_latents))
    return decoded + encoded.conditions.opacity[:, None].square() * residual


def with_channel_weights(settings: Any, model: Model, pairs: OrderedPairs, seed: int) -> Any:
    """The settings of a stage; for a small model without channel weights they are measured on the
    pairs.
    """
    is_small = isinstance(settings, (SmallFlowTraining, SmallSelfForcingTraining))
    if not is_small or settings.channel_weights:
        return settings
    return replace(settings, channel_weights=channel_weights(model, pairs, seed))


def channel_weights(model: Model, pairs: OrderedPairs, seed: int) -> tuple[float, ...]:
    """Weights of the latent channels: 0.7 times their ``pixel_gains`` plus 0.3, so that no weight
    vanishes.
    """
    clips = []
    for index in range(GAIN_CLIPS):
        pair = pairs.stored_pair(index % len(pairs))
        random = keyed_generator(seed, "pixel gains", sample=index)
        order = frame_order(pair.frames, GAIN_FRAMES, random)
        clips.append(frames_to_video(pair.clean_frames[order], model.device))
    gains = pixel_gains(model.vae, clips)
    return tuple(float(f"{value:.4g}") for value in (0.7 * gains + 0.3).tolist())


def _happens(fraction: float, generators: Sequence[torch.Generator]) -> list[bool]:
    """One random choice per clip with probability ``fraction``; draws nothing for 0."""
    return [
        fraction > 0 and float(torch.rand((), generator=generator)) < fraction
        for generator in generators
    ]
