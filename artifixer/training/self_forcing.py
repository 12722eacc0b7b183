"""The few-step generator: trained on its own rollouts by distribution matching (Self Forcing with
DMD, paper section 4.2).

In: training pairs; a student (the causal model), the frozen bidirectional teacher, and a critic
initialised with the teacher's weights. Each step is one rollout of the student, block by block
through its key-value cache; every block exits at one random denoising step, whose result carries
gradients, also through the keys and values of earlier blocks. The student's gradient is the
difference between the critic's and the teacher's scores of its clips; the critic is trained to
denoise these clips. The additions of small models are in ``small_model.py``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.seeds import generator as keyed_generator
from artifixer.training.clips import Clip, ClipConfig, EncodedClips, draw_batch, encode_clips
from artifixer.training.ema import Ema
from artifixer.training.parallel import at_least_float32, autocast
from artifixer.video.conditions import Conditions
from artifixer.video.flow import (
    SourceKind,
    clean_from_velocity,
    noisy_latents,
    source_latents,
    timestep,
)
from artifixer.video.flow import velocity as flow_velocity
from artifixer.video.sample import BlockInput, SampleConfig, sample_blocks
from artifixer.video.text import TextConfig
from artifixer.video.transformer import VideoTransformer
from artifixer.video.vae import Vae

NAME = "self_forcing"

Latents = Float[Tensor, "batch channels latent_frames h w"]


@dataclass(frozen=True)
class SelfForcingTraining:
    """Settings of the stage; the defaults are the release's, consistent with the paper."""

    clips: ClipConfig = field(default_factory=ClipConfig)
    """How clips are drawn from pairs."""

    student_interval: int = 5
    """The student is trained every N steps, the critic at every step."""

    guidance: float = 3.0
    """Classifier-free guidance scale of both scores; 1 for none."""

    negative_prompt: str = ""
    """Negative prompt of the guidance; empty for an embedding of zeros."""

    min_sigma: float = 0.02
    """Minimum noise level of the scores."""

    max_sigma: float = 0.98
    """Maximum noise level of the scores."""

    student_learning_rate: float = 2e-6
    """Learning rate of the student's AdamW."""

    critic_learning_rate: float = 4e-7
    """Learning rate of the critic's AdamW."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of AdamW's moments."""

    weight_decay: float = 0.01
    """Decoupled weight decay."""

    gradient_limit: float = 10.0
    """Norm to which gradients are clipped."""

    ema_decay: float = 0.99
    """Decay of the student's averaged weights."""

    ema_copy_updates: int = 40
    """Number of first updates that copy the weights instead of averaging."""

    matches_direct: bool = False
    """Match distributions of clips that start at the direct source, which has no noise: the
    paper's diagnostic without opacity mixing (section 5.4)."""


class SelfForcingStage:
    """The ``Stage`` of self forcing."""

    name = NAME

    def __init__(
        self,
        student: VideoTransformer,
        critic: VideoTransformer,
        teacher: VideoTransformer,
        vae: Vae,
        settings: SelfForcingTraining,
        sampling: SampleConfig,
        seed: int,
        compute: str,
        negative_text: Float[Tensor, "1 text_tokens text_width"] | None = None,
    ) -> None:
        """Student and critic are trained in place; the teacher is frozen. negative_text: None for
        zeros.
        """
        assert isinstance(sampling.steps, int), "the student is trained for a fixed number of steps"
        self._check(settings, sampling)
        self.student, self.critic = (
            student.requires_grad_(True).train(),
            critic.requires_grad_(True).train(),
        )
        self.teacher = teacher.requires_grad_(False).eval()
        self.vae, self.settings, self.sampling = vae, settings, sampling
        self.seed, self.compute, self.negative_text = seed, compute, negative_text
        #: Source of the clips whose distributions are matched, and that the critic learns.
        self.matched_source = self._source_to_match(sampling)
        self.modules: Mapping[str, nn.Module] = {"student": student, "critic": critic}
        rates = {
            "student": settings.student_learning_rate,
            "critic": settings.critic_learning_rate,
        }
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(
                module.parameters(),
                lr=rates[name],
                betas=settings.betas,
                weight_decay=settings.weight_decay,
            )
            for name, module in self.modules.items()
        }
        self.gradient_limits = dict.fromkeys(self.modules, settings.gradient_limit)
        self.ema = Ema(student, settings.ema_decay, settings.ema_copy_updates)

    @property
    def extra_state(self) -> Mapping[str, Tensor]:
        return self.ema.state()

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> list[Clip]:
        """Clips with dropout."""
        return draw_batch(
            pairs, self.settings.clips, generators, keyed_generator(self.seed, "batch shape", step)
        )

    def losses(
        self, clips: Sequence[Clip], generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The critic's loss at every step, the student's every ``student_interval`` steps, both on
        the same rollout.
        """
        device = next(self.student.parameters()).device
        text = TextConfig(self.student.config.text_tokens, self.student.config.text_width)
        sampling = self._sampling(step)
        assert isinstance(sampling.steps, int)
        exit_step = int(
            torch.randint(
                sampling.steps, (), generator=keyed_generator(self.seed, "exit step", step)
            )
        )
        trains_student, is_matched = self._trains_student(step), self._is_matched(sampling)
        losses, metrics = {}, {}
        with autocast(self.compute, device):
            encoded = encode_clips(clips, self.vae, text, device)
            with contextlib.nullcontext() if trains_student else torch.no_grad():
                generated = self._rollout(encoded, sampling, exit_step, generators)
            if is_matched:
                losses["critic"] = self._critic_loss(encoded, generated.detach(), generators)
            if trains_student:
                parts = self._student_losses(encoded, generated, is_matched, generators)
                losses["student"] = torch.stack(
                    [part.to(torch.float64) for part in parts.values()]
                ).sum()
                if len(parts) > 1:
                    metrics = {f"student/{name}": part for name, part in parts.items()}
        error = (at_least_float32(generated.detach()) - encoded.clean_latents).square().mean()
        return losses, metrics | {"latent_error": error}

    def updated(self, step: int) -> None:
        """Update the averaged weights after the student's steps."""
        if self._trains_student(step - 1):
            self.ema.update()

    def _check(self, settings: SelfForcingTraining, sampling: SampleConfig) -> None:
        """Assert that the settings are consistent."""
        assert sampling.source != "direct" or settings.matches_direct, (
            f"rollouts start at the {sampling.source} source; there is a distribution to match "
            "only from mixing or noise"
        )

    def _source_to_match(self, sampling: SampleConfig) -> SourceKind:
        return sampling.source

    def _trains_student(self, step: int) -> bool:
        return step % self.settings.student_interval == 0

    def _sampling(self, step: int) -> SampleConfig:
        """Settings of this step's rollout."""
        return self.sampling

    def _is_matched(self, sampling: SampleConfig) -> bool:
        """Whether distributions are matched on rollouts with these settings."""
        return True

    def _rollout(
        self,
        encoded: EncodedClips,
        sampling: SampleConfig,
        exit_step: int,
        generators: Sequence[torch.Generator],
    ) -> Latents:
        """The student's clip; every block is the clean prediction of the exit step."""

        def noise(block: int, step: int, shape: torch.Size) -> Latents:
            return _noise(shape, generators).to(encoded.render_latents)

        blocks = cut_in_blocks(encoded, sampling.block_frames)
        return torch.cat(
            list(sample_blocks(self.student, blocks, sampling, noise, exit_step=exit_step)), dim=2
        )

    def _critic_loss(
        self, encoded: EncodedClips, generated: Latents, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Flow matching on the student's clips: the denoising loss of DMD's fake score, in terms of
        the velocity.
        """
        noisy, sigma, source = self._noised(encoded, generated, generators)
        predicted = self.critic(
            noisy,
            timestep(sigma),
            encoded.conditions,
            source_skip=encoded.source_skip,
            render_latents=encoded.render_latents,
        )
        return (
            (at_least_float32(predicted) - at_least_float32(flow_velocity(source, generated)))
            .square()
            .mean()
        )

    def _student_losses(
        self,
        encoded: EncodedClips,
        generated: Latents,
        is_matched: bool,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """The parts of the student's loss by name."""
        return {"matching": self._matching_loss(encoded, generated, generators)}

    def _matching_loss(
        self, encoded: EncodedClips, generated: Latents, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """A loss whose gradient with respect to the student's clip x is that of distribution
        matching (Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation",
        equation 7): the difference of the critic's and the teacher's predictions of the clean clip,
        which are their scores up to a factor, divided by the mean absolute distance of x from the
        teacher's prediction (equation 8).

        It is 0.5 mean((x - stopgrad(x - gradient))^2), whose derivative is gradient / values.
        """
        with torch.no_grad():
            noisy, sigma, _ = self._noised(encoded, generated, generators)
            fake = self._denoised(self.critic, noisy, sigma, encoded)
            real = self._denoised(self.teacher, noisy, sigma, encoded)
            size = (at_least_float32(generated) - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
            gradient = ((fake - real) / size).nan_to_num()
        generated = generated.to(torch.float64)
        return 0.5 * (generated - (generated - gradient).detach()).square().mean()

    def _noised(
        self, encoded: EncodedClips, generated: Latents, generators: Sequence[torch.Generator]
    ) -> tuple[Latents, Float[Tensor, " batch"], Latents]:
        """The student's clips at random noise levels: noisy latents, sigmas, and source latents."""
        schedule, settings = self.sampling.schedule, self.settings
        drawn = torch.stack(
            [torch.randint(schedule.levels, (), generator=generator) for generator in generators]
        ).to(generated.device)
        even = drawn / schedule.levels
        sigma = schedule.shift * even / (1 + (schedule.shift - 1) * even)
        sigma = sigma.clamp(settings.min_sigma, settings.max_sigma)
        noise = _noise(generated.shape, generators).to(encoded.render_latents)
        source = source_latents(
            encoded.render_latents, encoded.latent_opacity, noise, self.matched_source
        )
        return noisy_latents(generated, source, sigma), sigma, source

    def _denoised(
        self,
        network: VideoTransformer,
        noisy: Latents,
        sigma: Float[Tensor, " batch"],
        encoded: EncodedClips,
    ) -> Latents:
        """A score network's prediction of the clean latents, with classifier-free guidance."""

        def predicted(conditions: Conditions) -> Tensor:
            return at_least_float32(
                network(
                    noisy,
                    timestep(sigma),
                    conditions,
                    source_skip=encoded.source_skip,
                    render_latents=encoded.render_latents,
                )
            )

        velocity = predicted(encoded.conditions)
        if self.settings.guidance != 1:
            text = encoded.conditions.text
            negative = (
                torch.zeros_like(text)
                if self.negative_text is None
                else self.negative_text.to(text).expand_as(text)
            )
            away = predicted(replace(encoded.conditions, text=negative))
            velocity = away + self.settings.guidance * (velocity - away)
        return clean_from_velocity(at_least_float32(noisy), velocity, sigma)


def cut_in_blocks(encoded: EncodedClips, block_frames: int) -> Iterator[BlockInput]:
    """Whole clips, split into the blocks of a rollout."""
    frames = encoded.render_latents.shape[2]
    assert frames % block_frames == 0, f"{frames} latent frames in blocks of {block_frames}"
    for first in range(0, frames, block_frames):
        render = encoded.render_latents[:, :, first : first + block_frames]
        yield BlockInput(first, render, encoded.conditions.latent_slice(first, block_frames))


def _noise(shape: torch.Size, generators: Sequence[torch.Generator]) -> Tensor:
    """Each clip's noise from its own generator."""
    return torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators])
