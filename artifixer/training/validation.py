"""Validation on fixed pairs: quality of a model beside the render and other baselines, at several
numbers of steps, and a grid of pictures.

In: a model and validation pairs. Out: figures by name, such as ``steps1/psnr_pooled``, and a grid
render | opacity | frames | truth. Frames come from ``video/rollout``, as those of ``enhance`` do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from artifixer.imaging.metrics import psnr
from artifixer.imaging.quality import HARD_BELOW, ClipQuality
from artifixer.pairs.pair import TrainingPair
from artifixer.training.parallel import autocast
from artifixer.training.watching import write_grid
from artifixer.video.conditions import RolloutContext
from artifixer.video.finish import FinishConfig
from artifixer.video.flow import SourceKind
from artifixer.video.model import Model
from artifixer.video.network_timer import NetworkTimer
from artifixer.video.rollout import RolloutConfig, TeacherSampler, rollout
from artifixer.video.sample import AdaptiveSteps, SampleConfig
from artifixer.video.teacher import TeacherConfig
from artifixer.video.text import no_prompt
from artifixer.video.vae import frames_to_video

#: Render and opacity -> frame, all uint8: a method that the model is compared with.
Baseline = Callable[
    [UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]],
    UInt8[np.ndarray, "height width 3"],
]

Steps = int | Literal["adaptive"]


@dataclass(frozen=True)
class ValidationConfig:
    """What is measured, and how the clips are sampled."""

    pairs: int = 16
    """Number of pairs, the first of the folder."""

    references: int = 6
    """Most reference photos per clip, evenly spaced."""

    steps: tuple[Steps, ...] = (1, 2, 4)
    """Numbers of denoising steps to measure; ``adaptive``: per block as ``adaptive_steps`` says."""

    is_causal: bool = True
    """Sample block by block with the model's window; else each clip as one block."""

    grid_pairs: int = 6
    """Rows of the picture."""

    seed: int = 0
    """Of the noise."""

    clip_frames: int | None = None
    """Where not causal: pixel frames that are sampled together; longer clips are cut into parts
    that are sampled independently. None samples whole clips."""

    source: SourceKind | None = None
    """Start of the flow; None for the model's own."""

    adaptive_steps: AdaptiveSteps = field(default_factory=AdaptiveSteps)
    """Steps by the empty fraction of a block."""

    teacher: TeacherConfig | None = None
    """Sample as the bidirectional teacher, in ``steps`` steps, guided away from Wan 2.1's negative
    prompt where the model has a text encoder; None for the few-step generator."""


def validate(
    model: Model,
    pairs: Sequence[TrainingPair],
    config: ValidationConfig,
    compute: str = "float32",
    baselines: Mapping[str, Baseline] | None = None,
    picture: Path | None = None,
) -> dict[str, float]:
    """Figures of the model (``stepsN/...``), the render (``render/...``) and the baselines.
    picture: file of the grid.
    """
    baselines = baselines or {}
    results = {label: ClipQuality() for label in ("render", *baselines)}
    results |= {f"steps{count}": ClipQuality() for count in config.steps}
    shown: list[tuple[TrainingPair, Mapping[Steps, Tensor]]] = []
    for pair in pairs[: config.pairs]:
        results["render"].add(pair.renders, pair.clean_frames, pair.opacity)
        for name, baseline in baselines.items():
            frames = [
                baseline(render, opacity)
                for render, opacity in zip(pair.renders.numpy(), pair.opacity.numpy(), strict=True)
            ]
            results[name].add(torch.from_numpy(np.stack(frames)), pair.clean_frames, pair.opacity)
        clips = {
            count: generated_frames(model, pair, count, config, compute) for count in config.steps
        }
        for count, clip in clips.items():
            results[f"steps{count}"].add(clip, pair.clean_frames, pair.opacity)
        if len(shown) < config.grid_pairs:
            shown.append((pair, clips))
    hard = [value < HARD_BELOW for value in results["render"].psnr]
    if picture is not None and shown:
        write_grid(picture, _columns(shown))
    return {
        f"{label}/{name}": value
        for label, quality in results.items()
        for name, value in quality.figures(hard).items()
    }


@dataclass(frozen=True)
class GeneratedBlock:
    """One block of a generated clip."""

    frames: range
    """Its pixel frames in the clip, without padding."""

    calls: int
    """Network calls."""

    seconds: float
    """Time in the network: CPU time on a CPU, elapsed time on a GPU."""


@dataclass(frozen=True)
class GeneratedClip:
    """A clip as ``enhance`` would give it, and its blocks."""

    frames: UInt8[Tensor, "frames height width 3"]
    blocks: tuple[GeneratedBlock, ...]


def generated_frames(
    model: Model, pair: TrainingPair, steps: Steps, config: ValidationConfig, compute: str
) -> UInt8[Tensor, "frames height width 3"]:
    """The model's frames of the pair, sampled whole or in parts as ``config`` says."""
    length = None if config.is_causal else config.clip_frames
    if length is None or length >= pair.frames:
        return generated_clip(model, pair, steps, config, compute).frames
    frames, done = torch.empty_like(pair.clean_frames), 0
    for part, first in enumerate(part_starts(pair.frames, length)):
        clip = generated_clip(
            model, pair.clip(first, length), steps, config, compute, first_block=part
        ).frames
        frames[done : first + length] = clip[done - first :]
        done = first + length
    return frames


def part_starts(frames: int, length: int) -> list[int]:
    """First frames of parts of one length that cover a clip; the last part overlaps the one before
    where the length does not divide the clip.
    """
    return [min(first, frames - length) for first in range(0, frames, length)]


@torch.no_grad()
def generated_clip(
    model: Model,
    pair: TrainingPair,
    steps: Steps,
    config: ValidationConfig,
    compute: str = "float32",
    first_block: int = 0,
) -> GeneratedClip:
    """The pair's clip as one rollout. first_block: index of the first block in the noise."""
    renders, opacity = pair.renders.float() / 255, pair.opacity.float() / 255
    last = pair.frames - 1

    def read(first: int, count: int) -> tuple[Tensor, Tensor]:
        frames = torch.arange(first, first + count).clamp(max=last)
        return renders[frames], opacity[frames]

    timer = NetworkTimer(model.transformer, model.device, time.process_time)
    # in this thread: autocast and collectives of sharded weights are bound to it
    settings = RolloutConfig(
        _sampler(model, pair, steps, config),
        _finish(model, config),
        config.seed,
        first_block,
        overlap=False,
    )
    with autocast(compute, model.device):
        context = _context(model, pair, config.references)
        blocks = list(rollout(model, read, pair.cameras, context, settings, timer=timer))
    generated, calls = [], 0
    for block in blocks:
        frames = range(block.first_frame, block.first_frame + len(block.frames))
        seconds = timer.seconds_per_call[calls : calls + block.network_calls]
        generated.append(GeneratedBlock(frames, block.network_calls, sum(seconds)))
        calls += block.network_calls
    return GeneratedClip(torch.cat([block.frames for block in blocks]), tuple(generated))


def _sampler(
    model: Model, pair: TrainingPair, steps: Steps, config: ValidationConfig
) -> SampleConfig | TeacherSampler:
    own = model.config
    source = config.source or own.source
    if config.teacher is not None:
        assert not config.is_causal, "the teacher samples whole clips"
        assert steps != "adaptive", "the teacher takes a number of steps"
        teacher = replace(config.teacher, steps=steps, source=source)
        return TeacherSampler.for_model(model, teacher, clip_frames=pair.frames)
    settings = replace(
        own.sampling(), steps=steps, source=source, adaptive_steps=config.adaptive_steps
    )
    if config.is_causal:
        return settings
    whole = own.vae.latent_frames(pair.frames)
    return replace(settings, block_frames=whole, window_frames=whole, sink_frames=0)


def _finish(model: Model, config: ValidationConfig) -> FinishConfig:
    """The model's last step; from opacity mixing by a model of another source, that of the mode
    ``generate``.
    """
    is_own = config.source in (None, model.config.source)
    return model.config.finish("improve" if is_own else "generate")


def _context(model: Model, pair: TrainingPair, references: int) -> RolloutContext:
    """The shared conditions of the pair's rollout, with at most so many references."""
    text = no_prompt(model.config.text, model.device, model.dtype).embedding
    if pair.caption_embedding is not None:
        text[0, : len(pair.caption_embedding)] = pair.caption_embedding
    context = RolloutContext(
        first_camera=pair.cameras[0].to(model.device),
        camera_scale=pair.camera_scale,
        temporal_factor=model.config.vae.temporal_factor,
        text=text,
    )
    chosen = evenly_spaced(pair.views, references)
    if not chosen:
        return context
    photos = frames_to_video(pair.reference_photos[chosen], model.device, model.dtype)
    latents = model.vae.encode_stills(photos).to(model.dtype)
    return context.with_references(latents, pair.reference_cameras[chosen].to(model.device))


def evenly_spaced(total: int, most: int) -> list[int]:
    """At most ``most`` of ``total`` indices, evenly spaced."""
    count = min(most, total)
    return [step * total // count for step in range(count)]


def _columns(
    shown: Sequence[tuple[TrainingPair, Mapping[Steps, Tensor]]],
) -> list[UInt8[Tensor, "rows height width 3"]]:
    """One row per pair, its worst rendered frame: render, opacity, frames at each number of steps,
    truth. Rows are cropped to one size.
    """
    height = min(pair.cameras.height for pair, _ in shown)
    width = min(pair.cameras.width for pair, _ in shown)
    rows = []
    for pair, frames in shown:
        worst = int(psnr(pair.renders.float() / 255, pair.clean_frames.float() / 255).argmin())
        grey = pair.opacity[worst][..., None].expand(-1, -1, 3)
        row = [
            pair.renders[worst],
            grey,
            *(clip[worst] for clip in frames.values()),
            pair.clean_frames[worst],
        ]
        rows.append([image[:height, :width] for image in row])
    return [torch.stack(column) for column in zip(*rows, strict=True)]
