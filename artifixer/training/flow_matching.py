"""What the flow-matching stages share: draw clips, noise and levels, predict velocities, compare
them with the truth.

In: training pairs. Out: the loss of paper section 4.1 (``interop`` of the public release: sigma 1
is the source), for a bidirectional network or, with ``block_frames``, for a block-causal one whose
temporal blocks have noise levels of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.distributed import any_rank
from artifixer.runtime.seeds import generator as keyed_generator
from artifixer.training.clips import (
    Clip,
    ClipConfig,
    EncodedClips,
    decoded_clips,
    draw_batch,
    encode_clips,
    latent_shape,
)
from artifixer.training.ema import Ema
from artifixer.training.parallel import at_least_float32, autocast
from artifixer.video.flow import (
    FlowSchedule,
    SourceKind,
    clean_from_velocity,
    noisy_latents,
    source_latents,
    timestep,
    velocity,
)
from artifixer.video.text import TextConfig
from artifixer.video.transformer import VideoTransformer
from artifixer.video.vae import Vae, frames_to_bytes, frames_to_video, video_to_frames

#: Squared error of latents, in their variances, up to which a render counts as easy.
EASY_FLOOR = 0.1


@dataclass(frozen=True)
class FlowMatchingTraining:
    """Settings of a flow-matching stage; the defaults are the paper's (sections 4.1 and 5.1) and,
    where it says nothing, the release's.

    clips: how they are drawn. source: where the flow starts; mixing_share: share of clips for which
    it starts at the mixing source all the same, so that one network learns both. level_weights:
    ``bell`` weighs noise levels as the release does, which gives the source's own level weight 0;
    ``even`` weighs all alike. source_share: share of clips that are trained at the source's level;
    mixing_source_share: the same of those that start at the mixing source all the same.
    channel_weights: of the latent channels in the loss, of mean 1; empty for ones. A model that is
    judged by its pixels gives each channel what a change of it does to pixels (``pixel_gains``).
    easy_power: latent frames count by 1 / (squared error of their render + ``EASY_FLOOR``) to this
    power: above 0 those that need little repair keep some weight beside those that are all wrong,
    as a mean of PSNR over frames would have it. second_share: share of clips whose render is what
    the network made of it, opaque, from step ``second_from`` on: as renders of distilled splats are
    (ArtiFixer 3D+), in which nothing is missing any more.
    pixel_weight: of the squared error of decoded frames beside that of latents, from step
    ``pixel_from`` on, at the level of the source; ``pixel_gradient_weight``: of the error of their
    differences in it, which keeps edges.
    ema_decay: of the averaged weights, 0 for none; ema_warm: see ``Ema``.
    """

    clips: ClipConfig = field(default_factory=ClipConfig)
    source: SourceKind = "mixing"
    level_weights: Literal["bell", "even"] = "bell"
    source_share: float = 0.0
    mixing_share: float = 0.0
    mixing_source_share: float = 0.0
    channel_weights: tuple[float, ...] = ()
    easy_power: float = 0.0
    second_share: float = 0.0
    second_from: int = 0
    pixel_weight: float = 0.0
    pixel_gradient_weight: float = 0.0
    pixel_from: int = 0
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    gradient_limit: float = 1.0
    ema_decay: float = 0.0
    ema_warm: bool = False


@dataclass(frozen=True)
class DrawnClips:
    """What one step reads. second: whether a clip is shown as the network's own result. noise: of
    the sources; is_mixed: clips that start at the mixing one; level: indices of noise levels."""

    clips: list[Clip]
    second: list[bool]
    noise: Float[Tensor, "batch channels latent_frames h w"]
    is_mixed: Bool[Tensor, " batch"]
    level: Int[Tensor, "batch blocks"]


class FlowMatchingStage:
    """See ``training/loop.py`` for what the loop asks of a stage.

    name: of the stage. block_frames: latent frames per temporal block of a causal network; None for
    a bidirectional one.
    """

    def __init__(
        self,
        name: str,
        transformer: VideoTransformer,
        vae: Vae,
        settings: FlowMatchingTraining,
        schedule: FlowSchedule,
        seed: int,
        compute: str,
        block_frames: int | None = None,
    ) -> None:
        """The transformer is trained in place, distributed already; the autoencoder stays as it is."""
        assert not settings.second_share or settings.source == "direct", (
            "a clip's own first result starts at the direct source"
        )
        self.name, self.block_frames = name, block_frames
        self.transformer = transformer.requires_grad_(True).train()
        self.vae, self.settings, self.schedule, self.seed, self.compute = (
            vae,
            settings,
            schedule,
            seed,
            compute,
        )
        optimizer = torch.optim.AdamW(
            transformer.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        self.modules: Mapping[str, nn.Module] = {"transformer": transformer}
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {"transformer": optimizer}
        self.gradient_limits = {"transformer": settings.gradient_limit}
        self.ema = (
            Ema(transformer, settings.ema_decay, warm=settings.ema_warm)
            if settings.ema_decay
            else None
        )

    @property
    def extra_state(self) -> Mapping[str, Tensor]:
        return {} if self.ema is None else self.ema.state()

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> DrawnClips:
        """Clips with their drop-outs, and all random numbers of the step."""
        settings = self.settings
        clips = draw_batch(
            pairs, settings.clips, generators, keyed_generator(self.seed, "batch shape", step)
        )
        second = _happens(settings.second_share, generators)
        shape = latent_shape(clips[0], self.vae.config)
        noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        is_mixed = torch.tensor(_happens(settings.mixing_share, generators))
        level = self._draw_levels(is_mixed, shape[1], generators)
        return DrawnClips(clips, second, noise.to(self.vae.device), is_mixed, level)

    def losses(
        self, drawn: DrawnClips, generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The weighted squared error of the velocity; beside it the mean error of the clean latents
        that it leads to.
        """
        clips, second = drawn.clips, drawn.second
        device = next(self.transformer.parameters()).device
        text = TextConfig(self.transformer.config.text_tokens, self.transformer.config.text_width)
        with autocast(self.compute, device):
            is_due = self.settings.second_share > 0 and step >= self.settings.second_from
            # on all processes or on none: sharded weights are gathered together
            if is_due and any_rank(any(second)):
                clips = self._with_own_renders(clips, second, text, device)
            encoded = encode_clips(clips, self.vae, text, device)
        source = self._source(encoded, drawn.noise.to(encoded.clean_latents), drawn.is_mixed)
        loss, clean = self._flow_loss(encoded, source, drawn.level, clips, step)
        error = (clean.detach() - encoded.clean_latents).square().mean()
        return {"transformer": loss}, {"latent_error": error}

    def updated(self, step: int) -> None:
        """The average follows."""
        if self.ema is not None:
            self.ema.update()

    def _draw_levels(
        self, is_mixed: Bool[Tensor, " batch"], frames: int, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Indices of noise levels, ``[batch blocks]``: one per block, or one per clip; at random
        the source's own for a whole clip.
        """
        blocks = 1 if self.block_frames is None else frames // self.block_frames
        assert self.block_frames is None or blocks * self.block_frames == frames, (
            f"{frames} frames in blocks of {self.block_frames}"
        )
        rows = []
        for is_mixed_clip, generator in zip(is_mixed.tolist(), generators, strict=True):
            drawn = torch.randint(self.schedule.levels, (blocks,), generator=generator)
            share = (
                self.settings.mixing_source_share if is_mixed_clip else self.settings.source_share
            )
            rows.append(torch.where(torch.rand((), generator=generator) < share, 0, drawn))
        return torch.stack(rows)

    def _source(
        self, encoded: EncodedClips, noise: Tensor, is_mixed: Bool[Tensor, " batch"]
    ) -> Tensor:
        """Each clip's own source."""
        usual, mixing = (
            source_latents(encoded.render_latents, encoded.latent_opacity, noise, kind)
            for kind in (self.settings.source, "mixing")
        )
        return torch.where(is_mixed.to(noise.device).view(-1, 1, 1, 1, 1), mixing, usual)

    @torch.no_grad()
    def _with_own_renders(
        self, clips: Sequence[Clip], second: Sequence[bool], text: TextConfig, device: torch.device
    ) -> list[Clip]:
        """The clips, the chosen ones with the network's frames in the place of renders, fully
        opaque.
        """
        chosen = [clip for clip, is_second in zip(clips, second, strict=True) if is_second]
        shown = chosen or list(clips[:1])  # the network runs on every process
        encoded = encode_clips(shown, self.vae, text, device)
        source = encoded.render_latents
        level = torch.zeros(
            len(shown),
            1 if self.block_frames is None else source.shape[2] // self.block_frames,
            dtype=torch.int64,
        )
        sigma = self.schedule.sigmas.to(device)[level]
        made = clean_from_velocity(source, self._velocity(source, sigma, encoded), 1.0)
        if not chosen:
            return list(clips)
        videos = decoded_clips(made, encoded, chosen, self.vae).split(1)
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

    def _velocity(self, noisy: Tensor, sigma: Tensor, encoded: EncodedClips) -> Tensor:
        """The network's prediction. sigma: per clip and block."""
        predicted: Tensor = self.transformer(
            noisy,
            timestep(sigma) if self.block_frames is not None else timestep(sigma[:, 0]),
            encoded.conditions,
            block_frames=self.block_frames,
            source_skip=encoded.source_skip,
        )
        return predicted

    def _flow_loss(
        self, encoded: EncodedClips, source: Tensor, level: Tensor, clips: Sequence[Clip], step: int
    ) -> tuple[Tensor, Float[Tensor, "batch channels latent_frames h w"]]:
        """The loss, and the clean latents that the predicted velocity leads to."""
        settings, clean = self.settings, encoded.clean_latents
        frames = clean.shape[2]
        sigma = self.schedule.sigmas.to(clean.device)[level]
        per_frame = sigma.repeat_interleave(frames // sigma.shape[1], dim=1)
        noisy = noisy_latents(clean, source, per_frame)
        with autocast(self.compute, clean.device):
            predicted = self._velocity(noisy, sigma, encoded)
        error = (at_least_float32(predicted) - at_least_float32(velocity(source, clean))).square()
        error = weighted_error(error, encoded, settings.channel_weights, settings.easy_power)
        if settings.level_weights == "bell":
            weights = self.schedule.training_weights.to(error)[level].repeat_interleave(
                frames // level.shape[1], dim=1
            )
            error = error * weights[:, None, :, None, None]
        loss = error.mean()
        reached = clean_from_velocity(noisy, predicted, per_frame)
        if settings.pixel_weight and step >= settings.pixel_from:
            loss = loss + settings.pixel_weight * self._pixel_loss(
                reached, encoded, (level == 0).all(dim=1), clips
            )
        return loss, reached

    def _pixel_loss(
        self, reached: Tensor, encoded: EncodedClips, is_source: Tensor, clips: Sequence[Clip]
    ) -> Tensor:
        """Squared error of the decoded clips of the batch that start at the source, as they would
        leave ``enhance`` with the render's residual kept; [0,1] pixels would give a quarter of it.
        """
        device = reached.device
        truth = torch.cat([frames_to_video(clip.clean_frames, device) for clip in clips])
        with autocast(self.compute, device):
            error = decoded_clips(reached, encoded, clips, self.vae) - truth
        weights = is_source.to(error).view(-1, 1, 1, 1, 1)
        loss = (error.square() * weights).mean()
        if self.settings.pixel_gradient_weight:
            edges = (error.diff(dim=-1).square() * weights).mean() + (
                error.diff(dim=-2).square() * weights
            ).mean()
            loss = loss + self.settings.pixel_gradient_weight * edges
        return loss


def weighted_error(
    error: Float[Tensor, "batch channels latent_frames h w"],
    encoded: EncodedClips,
    channel_weights: Sequence[float],
    easy_power: float,
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """Squared errors of latents, weighed by channel and by how little their frames need repair; see
    ``FlowMatchingTraining``.
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


def _happens(share: float, generators: Sequence[torch.Generator]) -> list[bool]:
    """For each clip whether it belongs to a share of all; nothing is drawn for an empty share."""
    return [
        share > 0 and float(torch.rand((), generator=generator)) < share for generator in generators
    ]
