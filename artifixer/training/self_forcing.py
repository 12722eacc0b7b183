"""The few-step generator: it is trained on its own roll-outs, by distribution matching (Self
Forcing with DMD, paper section 4.2).

In: training pairs; a student (the causal model), and the bidirectional teacher twice: frozen, and
as a critic that follows what the student makes. Each step rolls the student out block by block
through its key-value cache and stops every block at one random denoising step, whose result carries
gradients, also through the keys and values of earlier blocks. The student is moved by the
difference of what critic and teacher see in its clips; the critic learns to denoise these clips.
Small models may add the squared error towards the true clip: the direct source has no noise, so
that there is no distribution to match.
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
from artifixer.training.flow_matching import weighted_error
from artifixer.training.parallel import at_least_float32, autocast
from artifixer.video.conditions import Conditions
from artifixer.video.flow import clean_from_velocity, noisy_latents, source_latents, timestep
from artifixer.video.flow import velocity as flow_velocity
from artifixer.video.sample import BlockInput, SampleConfig, sample_blocks
from artifixer.video.text import TextConfig
from artifixer.video.transformer import VideoTransformer
from artifixer.video.vae import Vae

NAME = "self_forcing"

Latents = Float[Tensor, "batch channels latent_frames h w"]


@dataclass(frozen=True)
class SelfForcingTraining:
    """Settings of the stage; the defaults are the release's, which the paper does not contradict.

    clips: drop-outs as before. student_every: the student has its turn at every so manyeth step,
    the critic at every one. guidance: how far both scores go from the negative text's prediction
    towards the text's; 1 needs no negative prediction. negative_prompt: the negative text; empty is
    no prompt, zeros.
    smallest_sigma, largest_sigma: noise levels of the scores are kept within. ema_decay: of the
    student's average; it is a copy for the first ``ema_copy_updates`` updates.
    matching_weight: of distribution matching, at steps whose roll-out starts at the mixing source;
    0 leaves teacher and critic unused. mixing_share: share of steps whose roll-out starts at the
    mixing source for a model whose own is direct, with ``mixing_steps`` steps. clean_weight: of the
    squared error towards the true clip in the student's loss, for small models; channel_weights,
    easy_power: of that error, see ``FlowMatchingTraining``.
    """

    clips: ClipConfig = field(default_factory=ClipConfig)
    student_every: int = 5
    guidance: float = 3.0
    negative_prompt: str = ""
    smallest_sigma: float = 0.02
    largest_sigma: float = 0.98
    student_learning_rate: float = 2e-6
    critic_learning_rate: float = 4e-7
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    gradient_limit: float = 10.0
    ema_decay: float = 0.99
    ema_copy_updates: int = 40
    matching_weight: float = 1.0
    mixing_share: float = 0.0
    mixing_steps: int = 4
    clean_weight: float = 0.0
    channel_weights: tuple[float, ...] = ()
    easy_power: float = 0.0


class SelfForcingStage:
    """See ``training/loop.py`` for what the loop asks of a stage."""

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
        negative_text: Float[Tensor, "1 tokens width"] | None = None,
    ) -> None:
        """Student and critic are trained in place; the teacher stays as it is. negative_text: None
        for zeros.
        """
        assert isinstance(sampling.steps, int), "the student is trained for a fixed number of steps"
        is_alone = not settings.matching_weight or sampling.source != "mixing"
        assert settings.student_every == 1 or not is_alone, (
            "where the critic has no turn every step must be the student's"
        )
        has_goal = settings.clean_weight or sampling.source == "mixing"
        assert has_goal, "roll-outs from another source than mixing need a goal of their own"
        self.student, self.critic = (
            student.requires_grad_(True).train(),
            critic.requires_grad_(True).train(),
        )
        self.teacher = teacher.requires_grad_(False).eval()
        self.vae, self.settings, self.sampling = vae, settings, sampling
        self.seed, self.compute, self.negative_text = seed, compute, negative_text
        trained = {"student": (student.parameters(), settings.student_learning_rate)}
        self.modules: Mapping[str, nn.Module] = {"student": student}
        if settings.matching_weight:
            self.modules = {"student": student, "critic": critic}
            trained["critic"] = (critic.parameters(), settings.critic_learning_rate)
        self.optimizers: Mapping[str, torch.optim.Optimizer] = {
            name: torch.optim.AdamW(
                parameters, lr=rate, betas=settings.betas, weight_decay=settings.weight_decay
            )
            for name, (parameters, rate) in trained.items()
        }
        self.gradient_limits = dict.fromkeys(trained, settings.gradient_limit)
        self.ema = Ema(student, settings.ema_decay, settings.ema_copy_updates)

    @property
    def extra_state(self) -> Mapping[str, Tensor]:
        return self.ema.state()

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> list[Clip]:
        """Clips with their drop-outs."""
        return draw_batch(
            pairs, self.settings.clips, generators, keyed_generator(self.seed, "batch shape", step)
        )

    def losses(
        self, clips: Sequence[Clip], generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of whoever has its turn: the critic at every step, the student at its own; on
        one roll-out.
        """
        settings = self.settings
        device = next(self.student.parameters()).device
        text = TextConfig(self.student.config.text_tokens, self.student.config.text_width)
        sampling = self._sampling(step)
        assert isinstance(sampling.steps, int)
        exit_step = int(
            torch.randint(
                sampling.steps, (), generator=keyed_generator(self.seed, "exit step", step)
            )
        )
        is_students_turn = self._is_students_turn(step)
        is_matched = bool(settings.matching_weight) and sampling.source == "mixing"
        losses, numbers = {}, {}
        with autocast(self.compute, device):
            encoded = encode_clips(clips, self.vae, text, device)
            with contextlib.nullcontext() if is_students_turn else torch.no_grad():
                made = self._roll_out(encoded, sampling, exit_step, generators)
            if is_matched:
                losses["critic"] = self._critic_loss(encoded, made.detach(), generators)
            if is_students_turn:
                parts = self._student_losses(encoded, made, is_matched, generators)
                losses["student"] = torch.stack(
                    [part.to(torch.float64) for part in parts.values()]
                ).sum()
                numbers = (
                    {f"student/{name}": part for name, part in parts.items()}
                    if len(parts) > 1
                    else {}
                )
        error = (at_least_float32(made.detach()) - encoded.clean_latents).square().mean()
        return losses, numbers | {"latent_error": error}

    def updated(self, step: int) -> None:
        """The average follows the student's turns."""
        if self._is_students_turn(step - 1):
            self.ema.update()

    def _is_students_turn(self, step: int) -> bool:
        return step % self.settings.student_every == 0

    def _sampling(self, step: int) -> SampleConfig:
        """How this step's roll-out runs."""
        if (
            float(torch.rand((), generator=keyed_generator(self.seed, "source", step)))
            >= self.settings.mixing_share
        ):
            return self.sampling
        return replace(self.sampling, source="mixing", steps=self.settings.mixing_steps)

    def _roll_out(
        self,
        encoded: EncodedClips,
        sampling: SampleConfig,
        exit_step: int,
        generators: Sequence[torch.Generator],
    ) -> Latents:
        """The student's clip, every block from its exit step."""

        def noise(block: int, step: int, shape: torch.Size) -> Latents:
            return _noise(shape, generators).to(encoded.render_latents)

        blocks = cut_in_blocks(encoded, sampling.block_frames)
        return torch.cat(
            list(sample_blocks(self.student, blocks, sampling, noise, exit_step=exit_step)), dim=2
        )

    def _critic_loss(
        self, encoded: EncodedClips, made: Latents, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Flow matching towards the student's clips."""
        noisy, sigma, source = self._noised(encoded, made, generators)
        predicted = self.critic(
            noisy, timestep(sigma), encoded.conditions, source_skip=encoded.source_skip
        )
        return (
            (at_least_float32(predicted) - at_least_float32(flow_velocity(source, made)))
            .square()
            .mean()
        )

    def _student_losses(
        self,
        encoded: EncodedClips,
        made: Latents,
        is_matched: bool,
        generators: Sequence[torch.Generator],
    ) -> dict[str, Tensor]:
        """The parts of the student's loss by name."""
        settings, parts = self.settings, {}
        if is_matched:
            parts["matching"] = settings.matching_weight * self._matching_loss(
                encoded, made, generators
            )
        if settings.clean_weight or not is_matched:
            error = weighted_error(
                (at_least_float32(made) - encoded.clean_latents).square(),
                encoded,
                settings.channel_weights,
                settings.easy_power,
            )
            parts["clean"] = settings.clean_weight * error.mean()
        return parts

    def _matching_loss(
        self, encoded: EncodedClips, made: Latents, generators: Sequence[torch.Generator]
    ) -> Tensor:
        """Half the squared distance to a point one normalised step down the gradient of
        distribution matching.
        """
        with torch.no_grad():
            noisy, sigma, _ = self._noised(encoded, made, generators)
            fake = self._denoised(self.critic, noisy, sigma, encoded)
            real = self._denoised(self.teacher, noisy, sigma, encoded)
            size = (at_least_float32(made) - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
            gradient = ((fake - real) / size).nan_to_num()
        made = made.to(torch.float64)
        return 0.5 * (made - (made - gradient).detach()).square().mean()

    def _noised(
        self, encoded: EncodedClips, made: Latents, generators: Sequence[torch.Generator]
    ) -> tuple[Latents, Float[Tensor, " batch"], Latents]:
        """The student's clips at random noise levels: latents, levels, and the source they lie on
        the way to.
        """
        schedule, settings = self.sampling.schedule, self.settings
        drawn = torch.stack(
            [torch.randint(schedule.levels, (), generator=generator) for generator in generators]
        ).to(made.device)
        even = drawn / schedule.levels
        sigma = schedule.shift * even / (1 + (schedule.shift - 1) * even)
        sigma = sigma.clamp(settings.smallest_sigma, settings.largest_sigma)
        noise = _noise(made.shape, generators).to(encoded.render_latents)
        source = source_latents(encoded.render_latents, encoded.latent_opacity, noise, "mixing")
        return noisy_latents(made, source, sigma), sigma, source

    def _denoised(
        self,
        network: VideoTransformer,
        noisy: Latents,
        sigma: Float[Tensor, " batch"],
        encoded: EncodedClips,
    ) -> Latents:
        """What a score network takes the clean clips to be, with guidance by text."""

        def predicted(conditions: Conditions) -> Tensor:
            return at_least_float32(
                network(noisy, timestep(sigma), conditions, source_skip=encoded.source_skip)
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
    """Whole clips as a roll-out reads them."""
    frames = encoded.render_latents.shape[2]
    assert frames % block_frames == 0, f"{frames} latent frames in blocks of {block_frames}"
    for first in range(0, frames, block_frames):
        render = encoded.render_latents[:, :, first : first + block_frames]
        yield BlockInput(first, render, encoded.conditions.latent_slice(first, block_frames))


def _noise(shape: torch.Size, generators: Sequence[torch.Generator]) -> Tensor:
    """Each clip's noise from its own generator."""
    return torch.stack([torch.randn(shape[1:], generator=generator) for generator in generators])
