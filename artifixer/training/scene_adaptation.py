"""Scene adaptation, not in the paper: low-rank adapters (LoRA) trained on the photos of one scene.

In: a model and leave-one-out pairs of the scene: each photo, the render of splats that were fitted
without it, and the other photos as references. Out: the factors of an adapter
(``video/adapter.py``). The loss is flow matching from the model's own source (``flow_matching.py``)
at the noise levels that the few-step sampler visits, since levels between them are not used at
inference. Clips are one photo, repeated to the length of a temporal block or shorter, and every
pair is encoded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from artifixer.pairs.pair import TrainingPair
from artifixer.runtime.errors import InputError
from artifixer.runtime.extras import needs_extra
from artifixer.runtime.progress import Progress
from artifixer.runtime.seeds import generator as keyed_generator
from artifixer.training.clips import Clip, ClipConfig, EncodedClips, cut_clip, latent_shape
from artifixer.training.flow_matching import (
    DrawnClips,
    FlowMatchingStage,
    FlowMatchingTraining,
    Latents,
)
from artifixer.training.loop import LoopConfig, train
from artifixer.training.small_clips import mirrored
from artifixer.video.adapter import linear_layers
from artifixer.video.model import Mode, Model, ModelConfig
from artifixer.video.sample import SampleConfig
from artifixer.video.transformer import VideoTransformer

#: Name of the stage in messages and in the keys of random numbers.
NAME = "adapt"

#: Name of the adapter that peft adds to the network.
_ADAPTER = "scene"

#: Maximum of ``--adapt-steps``.
MAX_STEPS = 10**9


@dataclass(frozen=True)
class AdaptationConfig:
    """Settings of a scene adaptation."""

    minutes: float | None = None
    """Time for the training, besides that for its pairs. The number of steps, and with it the
    adapter, then depends on the machine, up to ``max_steps``; see ``steps``."""

    steps: int | None = None
    """Training steps; the same number gives the same adapter."""

    max_steps: int = 160
    """Maximum number of steps of a training with a time limit: more overfit the few photos.
    """

    rank: int = 8
    """Rank of the adapter."""

    layers: Literal["attention", "all"] = "attention"
    """Linear layers that are adapted: those of self- and cross-attention, or all."""

    learning_rate: float = 3e-4
    """Learning rate of AdamW."""

    batch: int = 1
    """Clips per step, one after another."""

    mirror: bool = True
    """Mirror half of the clips: pixels, cameras and world are flipped left to right."""

    latent_frames: int = 1
    """Latent frames of a clip, at most a temporal block of the model."""

    pairs: int = 12
    """Maximum number of leave-one-out pairs; from more photos, evenly spaced ones are used."""

    seen: int = 2
    """Additional pairs per fit, from photos that it was fitted to: their renders are accurate,
    which keeps the adapted model close to the original one.
    """

    fit_fraction: float = 1.0
    """Iterations of a leave-one-out fit, as a fraction of those of the run's own."""

    def __post_init__(self) -> None:
        limits = [limit for limit in (self.minutes, self.steps) if limit is not None]
        assert len(limits) == 1 and limits[0] > 0, (
            f"{self.minutes} minutes, {self.steps} steps; expected one of them, above 0"
        )
        counts = (self.max_steps, self.rank, self.batch, self.latent_frames, self.pairs)
        assert min(counts) >= 1, f"{self}"
        assert self.seen >= 0, f"{self.seen} pairs of photos that a fit has seen"
        assert 0 < self.fit_fraction <= 1, f"fit fraction {self.fit_fraction}, expected 0 to 1"

    @property
    def loop(self) -> LoopConfig:
        """Settings of the training loop: half of the training is the cooldown."""
        return LoopConfig(
            steps=self.max_steps if self.steps is None else self.steps,
            minutes=self.minutes,
            accumulation=self.batch,
            warmup=10,
            cooldown=0.5,
            save_interval=50,
            validation_interval=0,
        )


def adaptation_note(model: ModelConfig, mode: Mode) -> str | None:
    """Why an adaptation of this model changes little in this mode; None where it may change all."""
    if not model.finish(mode).smooth_cells:
        return None
    return (
        f"model {model.name}: its colours count only where renders are empty, so --adapt changes "
        "little"
    )


@dataclass(frozen=True)
class Adaptation:
    """A trained adapter."""

    factors: Mapping[str, tuple[Tensor, Tensor]]
    """(A, B) by the names of the layers, for ``save_adapter``."""

    steps: int
    """Steps done."""


def adapt(
    model: Model,
    pairs: Sequence[TrainingPair],
    config: AdaptationConfig,
    sampling: SampleConfig,
    seed: int,
    folder: Path,
    shown: Callable[[int, float], None] = lambda step, loss: None,
) -> Adaptation:
    """Train an adapter of the model, whose transformer is changed and not to be used afterwards.

    sampling: of the frames that the adapted model is to generate. folder: of the training's
    checkpoints, from which an interrupted call with the same arguments continues. shown: called
    after each step with the number of steps done and the loss. Raises ``Stopped`` after saving when
    SIGTERM arrived, ``InputError`` without the package peft.
    """
    stage = AdaptationStage(model, config, sampling, seed, shown)
    source = _Repeated(pairs, seed)
    loop = replace(config.loop, seed=seed)
    steps = train(stage, source, loop, folder, Progress(output=None))
    return Adaptation(stage.factors(), steps)


def visited_levels(sampling: SampleConfig) -> tuple[int, ...]:
    """Indices into ``FlowSchedule.sigmas`` of the noise levels that the sampler visits."""
    most = len(sampling.adaptive_steps.max_empty_fractions) + 1
    counts = range(1, most + 1) if sampling.steps == "adaptive" else (sampling.steps,)
    levels = sampling.schedule.levels
    return tuple(sorted({-(-levels * step // count) for count in counts for step in range(count)}))


@dataclass(frozen=True)
class DrawnPhoto(DrawnClips):
    """The input of one step: a clip of one photo."""

    key: tuple[str, bool]
    """Name of the pair, and whether it is mirrored."""


class AdaptationStage(FlowMatchingStage):
    """The ``Stage`` of an adaptation: flow matching of the adapter's factors alone."""

    def __init__(
        self,
        model: Model,
        config: AdaptationConfig,
        sampling: SampleConfig,
        seed: int,
        shown: Callable[[int, float], None],
    ) -> None:
        frames = min(config.latent_frames, sampling.block_frames)
        clips = ClipConfig(frames=(model.config.vae.pixel_frames(frames),))
        settings = FlowMatchingTraining(clips, learning_rate=config.learning_rate, weight_decay=0.0)
        # a single block is not masked: within it the causal network is bidirectional
        compute = "bfloat16" if model.dtype == torch.bfloat16 else "float32"
        super().__init__("bidirectional", model, settings, seed, compute)
        self.name = NAME  # type: ignore[assignment]
        self.source = sampling.source
        self._levels = torch.tensor(visited_levels(sampling))
        self._mirror, self._shown, self._loss = config.mirror, shown, float("nan")
        self._known: dict[tuple[str, bool], EncodedClips] = {}
        self._adapted = add_adapter(self.transformer, config.rank, seed, config.layers)
        parameters = AdapterParameters(self._adapted)
        self.modules = {NAME: parameters}
        self.optimizers = {
            NAME: torch.optim.AdamW(
                parameters.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0
            )
        }
        self.gradient_limits = {NAME: settings.gradient_limit}

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The adapter as it is now, (A, B) by layer."""
        return {name: (a.detach(), b.detach()) for name, (a, b) in self._adapted.items()}

    def losses(
        self, drawn: Any, generators: Sequence[torch.Generator], step: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        losses, metrics = super().losses(drawn, generators, step)
        (loss,) = losses.values()
        self._loss = float(loss.detach())
        return {NAME: loss}, metrics

    def updated(self, step: int) -> None:
        self._shown(step, self._loss)

    def draw(
        self, pairs: Sequence[TrainingPair], generators: Sequence[torch.Generator], step: int
    ) -> DrawnPhoto:
        """One photo, mirrored or not, with all its references."""
        (pair,), (random,) = pairs, generators
        is_mirrored = self._mirror and bool(torch.randint(2, (), generator=random))
        (frames,) = self.clips.frames
        clip = cut_clip(pair, torch.zeros(frames, dtype=torch.int64), list(range(pair.views)))
        clips = [mirrored(clip) if is_mirrored else clip]
        noise, level = self._draw_noise(clips, generators), self._draw_levels(clips, generators)
        return DrawnPhoto(clips, noise, level, (pair.name, is_mirrored))

    def _encoded(self, drawn: DrawnClips, step: int, device: torch.device) -> EncodedClips:
        """Encoded once per photo: with a large autoencoder that takes longer than a step."""
        assert isinstance(drawn, DrawnPhoto)
        if drawn.key not in self._known:
            self._known[drawn.key] = super()._encoded(drawn, step, device)
        return self._known[drawn.key]

    def _draw_levels(
        self, clips: Sequence[Clip], generators: Sequence[torch.Generator]
    ) -> Int[Tensor, "batch blocks"]:
        assert self._blocks(latent_shape(clips[0], self.vae.config)[1]) == 1
        drawn = [torch.randint(len(self._levels), (1,), generator=each) for each in generators]
        return self._levels[torch.stack(drawn)]

    def _weighted(self, error: Latents, encoded: EncodedClips, level: Tensor) -> Latents:
        """All levels have weight 1: ``FlowSchedule.training_weights`` are zero at the source."""
        return error


class AdapterParameters(nn.Module):
    """The factors of an adapter as a module of their own, so that checkpoints hold nothing else of
    the network.
    """

    def __init__(self, factors: Mapping[str, tuple[nn.Parameter, nn.Parameter]]) -> None:
        super().__init__()
        for name, pair in factors.items():
            for part, parameter in zip("AB", pair, strict=True):
                self.register_parameter(f"{name}/{part}".replace(".", "/"), parameter)


def add_adapter(
    transformer: VideoTransformer, rank: int, seed: int, which: Literal["attention", "all"] = "all"
) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
    """Add low-rank factors to linear layers of the network with peft; returns (A, B) by layer. They
    are float32, and nothing else is trained. A is drawn from the seed, B is zero.

    Raises ``InputError`` where peft is not installed.
    """
    check_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    layers = {
        name: layer
        for name, layer in linear_layers(transformer).items()
        if which == "all" or "attention" in name
    }
    transformer.requires_grad_(False)
    # alpha = rank: B A is added to the weights with factor 1
    settings = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers))
    inject_adapter_in_model(settings, cast(Any, transformer), _ADAPTER)
    factors = {}
    for name, layer in layers.items():
        adapted = transformer.get_submodule(name)
        assert isinstance(adapted, LoraLayer), f"{name} has no adapter"
        a, b = (part[_ADAPTER].weight for part in (adapted.lora_A, adapted.lora_B))
        assert isinstance(a, nn.Parameter) and isinstance(b, nn.Parameter)
        random, limit = keyed_generator(seed, f"adapter {name}"), layer.in_features**-0.5
        start = torch.empty(a.shape).uniform_(-limit, limit, generator=random)
        a.data, b.data = start.to(a.device), b.data.float()
        factors[name] = (a, b)
    return factors


def check_peft() -> None:
    """Raise ``InputError`` where the package peft is not installed."""
    with needs_extra("adapt", "--adapt"):
        import peft  # noqa: F401


class _Repeated:
    """The pairs in epochs, each in an order of its own."""

    def __init__(self, pairs: Sequence[TrainingPair], seed: int) -> None:
        if not pairs:
            raise InputError("no leave-one-out pairs; expected at least one")
        self._pairs, self._seed = pairs, seed

    def pair(self, index: int) -> TrainingPair:
        turn, place = divmod(index, len(self._pairs))
        order = torch.randperm(
            len(self._pairs), generator=keyed_generator(self._seed, "adaptation order", turn)
        )
        return self._pairs[int(order[place])]
