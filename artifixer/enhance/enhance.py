"""``enhance``: renders along a camera path -> clean frames from the video model, block by block
(paper section 4.2).

In: renders in memory or in a folder, their cameras, reference photos, a model. Out: an iterator of
blocks of frames at the cameras' own size, each yielded as soon as it is decoded. On a GPU the
encoding of the next block, the network and the decoding of the last block run concurrently; memory
does not grow with the length of the clip.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from artifixer.enhance.choices import Drop as Drop
from artifixer.enhance.choices import Sampler as Sampler
from artifixer.enhance.render_scale import render_scale
from artifixer.enhance.sources import (
    RenderSource,
    checked_source,
    read_frames,
    reference_batch,
)
from artifixer.geometry.cameras import Cameras
from artifixer.runtime.devices import peak_memory_on
from artifixer.runtime.errors import InputError
from artifixer.scenes.view import View
from artifixer.splats.render import Renders
from artifixer.video.conditions import RolloutContext
from artifixer.video.finish import FinishConfig
from artifixer.video.flow import SourceKind
from artifixer.video.model import Mode, Model
from artifixer.video.network_timer import NetworkTimer
from artifixer.video.rollout import (
    RenderedFrames,
    RolloutBlock,
    RolloutConfig,
    RolloutStore,
    TeacherSampler,
    rollout,
)
from artifixer.video.sample import SampleConfig
from artifixer.video.teacher import TEACHER_FRAMES, TeacherConfig
from artifixer.video.vae import frames_to_video


@dataclass(frozen=True)
class EnhanceConfig:
    """Settings of one run of a model; None selects the model's default."""

    mode: Mode = "improve"
    """Selects the start of the flow and the default number of steps (``ModelConfig.in_mode``,
    ``ModelConfig.steps_in``)."""

    steps: int | Literal["adaptive"] | None = None
    """Network calls per block, at least 1; ``adaptive`` uses fewer for opaque blocks."""

    seed: int = 0
    """Seed of the noise."""

    prompt: str = ""
    """Description of the scene; empty for no prompt."""

    drop: tuple[Drop, ...] = ()
    """Conditions that are withheld from the model. Withheld rays and opacity are zeros to the
    network; the source of the flow keeps the opacity."""

    keep_residual: bool | None = None
    """See ``FinishConfig``."""

    strength: float = 1.0
    """Blend weight on opaque pixels, 0 to 1: 0 keeps the render, 1 takes the model's output."""

    camera_scale: float | None = None
    """Scale from world units to the model's units; None estimates it from the renders' depth
    (``render_scale.py``)."""

    depth_model: str | None = None
    """Metric depth model for that estimate, by folder or hub name."""

    sampler: Sampler = "blocks"
    """``teacher`` needs bidirectional weights. Videos longer than ``TEACHER_FRAMES`` frames are
    split into clips that are sampled independently, as in the public release: generated content may
    differ between clips."""

    guidance: float | None = None
    """Guidance scale of the teacher (``TeacherConfig``)."""

    negative_prompt: str | None = None
    """Negative prompt of the teacher; None for Wan 2.1's, empty for no prompt."""

    overlap: bool | None = None
    """Encode and decode in threads concurrently with the network; None does so on a GPU only."""

    source: SourceKind | None = None
    """Another start of the flow than the mode's, for comparisons; not for models that read the
    render on other channels."""


@dataclass(frozen=True)
class FrameBlock:
    """Consecutive clean frames; ``first_index``: index of the first one in the clip."""

    first_index: int
    frames: UInt8[np.ndarray, "frames height width 3"]


@dataclass
class EnhanceReport:
    """Figures of a run, updated with every block and final when the iterator has ended."""

    warnings: list[str] = field(default_factory=list)
    """One line each; final when ``enhance`` returns."""

    width: int = 0
    """Width of the model's frames, pixels."""

    height: int = 0
    """Height of the model's frames, pixels."""

    camera_scale: float = 1.0
    """Scale from world units to the model's units."""

    camera_scale_source: str = ""
    """How the camera scale was determined."""

    blocks: int = 0
    """Number of blocks."""

    network_calls: int = 0
    """Calls of the transformer."""

    network_seconds: float = 0.0
    """Time in the transformer; on a GPU measured on the device."""

    first_frame_seconds: float = math.nan
    """Time from the call of ``enhance`` to the first block."""

    seconds: float = 0.0
    """Time from the call of ``enhance`` to the last block."""

    peak_memory: int = 0
    """Bytes: of the tensors on a GPU, of the process on a CPU."""


def enhance(
    renders: Renders | RenderSource,
    cameras: Cameras,
    references: Sequence[View],
    model: Model,
    config: EnhanceConfig | None = None,
    report: EnhanceReport | None = None,
    store: RolloutStore | None = None,
) -> Iterator[FrameBlock]:
    """Clean frames for all cameras, in order.

    The input is checked and the references are encoded before this returns; frames are computed
    while the iterator is read, and closing it cancels the run. Renders are quantised to 8 bit, so
    that renders in memory and on disk give the same frames. report: updated in place. store: for
    continuing an interrupted rollout.

    Raises ``InputError`` for renders, opacity and cameras of different counts or sizes, cameras
    that are not finite, and a prompt for a model without text conditioning.
    """
    config, report = config or EnhanceConfig(), report if report is not None else EnhanceReport()
    started = time.monotonic()
    device = model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    source = checked_source(renders, cameras)
    report.width, report.height = model.config.model_size(cameras.width, cameras.height)
    with torch.no_grad():
        context = _context(source, cameras, references, model, config, report)
    settings = rollout_config(model, config, report)
    timer = NetworkTimer(model.transformer, device)

    def read(first: int, count: int) -> RenderedFrames:
        frames = read_frames(source, cameras, first, count, settings.finish.reads_depth)
        if "renders" in config.drop:
            return RenderedFrames(torch.zeros_like(frames.rgb), torch.zeros_like(frames.opacity))
        return frames

    blocks = rollout(model, read, cameras, context, settings, store, timer)
    return _reported(blocks, device, report, timer, started)


def rollout_config(model: Model, config: EnhanceConfig, report: EnhanceReport) -> RolloutConfig:
    """Settings of the rollout: those of ``config``, and the model's where they are None. Settings
    without effect add a warning to the report.
    """
    sampler: SampleConfig | TeacherSampler
    if config.sampler == "teacher":
        sampler = TeacherSampler.for_model(
            model, teacher_config(model, config), config.negative_prompt, TEACHER_FRAMES
        )
        if model.text_encoder is None and config.guidance not in (None, 1):
            report.warnings.append(
                f"model {model.config.name} reads no prompts: guidance has no effect"
            )
    else:
        sampler = sample_config(model, config)
    return RolloutConfig(sampler, finish_config(model, config), config.seed, overlap=config.overlap)


def sample_config(model: Model, config: EnhanceConfig) -> SampleConfig:
    """Settings of the few-step generator: the model's in this mode, with ``config.steps``."""
    own = model.config.sampling(config.mode)
    return replace(own, steps=config.steps or own.steps, source=source_of(model, config))


def source_of(model: Model, config: EnhanceConfig) -> SourceKind:
    """Where the flow starts. Raises ``InputError`` for a source the model does not have."""
    own = model.config.in_mode(config.mode).source
    wanted = config.source or own
    if (wanted == "noise") != (own == "noise"):
        raise InputError(
            f"source {wanted}: model {model.config.name} starts at {own}; models start at noise "
            "where they read the render on other channels, and nowhere else"
        )
    return wanted


def teacher_config(model: Model, config: EnhanceConfig) -> TeacherConfig:
    """Settings of the teacher: those of ``config``, and the release's where they are None. Raises
    ``InputError`` for adaptive steps.
    """
    own = TeacherConfig(source=source_of(model, config))
    if config.steps == "adaptive":
        raise InputError(
            "--steps adaptive: the teacher takes a number of steps; expected one such as "
            f"{own.steps}"
        )
    guidance = own.guidance if config.guidance is None else config.guidance
    return replace(own, steps=config.steps or own.steps, guidance=guidance)


def finish_config(model: Model, config: EnhanceConfig) -> FinishConfig:
    """Settings of ``finish``: those of ``config``, and the model's where they are None. Without
    renders there is neither a residual nor a fill.
    """
    own = model.config.finish(config.mode)
    keeps = own.keep_residual if config.keep_residual is None else config.keep_residual
    if "renders" in config.drop:
        own, keeps = replace(own, smooth_cells=0), False
    return replace(own, keep_residual=keeps, strength=config.strength)


def _reported(
    blocks: Iterator[RolloutBlock],
    device: torch.device,
    report: EnhanceReport,
    timer: NetworkTimer,
    started: float,
) -> Iterator[FrameBlock]:
    """The frames of the blocks; updates times and memory of the report."""
    try:
        with closing(blocks):  # type: ignore[type-var]
            for block in blocks:
                report.blocks += 1
                report.network_calls = timer.calls
                report.seconds = time.monotonic() - started
                if math.isnan(report.first_frame_seconds):
                    report.first_frame_seconds = report.seconds
                report.peak_memory = peak_memory_on(device)
                yield FrameBlock(block.first_frame, block.frames.numpy())
    finally:
        report.network_calls, report.network_seconds = timer.calls, timer.seconds


def _context(
    source: RenderSource,
    cameras: Cameras,
    references: Sequence[View],
    model: Model,
    config: EnhanceConfig,
    report: EnhanceReport,
) -> RolloutContext:
    """The shared conditions of the rollout: text, references, camera scale and first camera. Adds
    warnings to the report.
    """
    references = () if "references" in config.drop else references
    if model.config.takes_references and not references and "references" not in config.drop:
        report.warnings.append(
            f"no reference photos; model {model.config.name} was trained with them and is better "
            "with a few"
        )
    prompt = model.encode_prompt("" if "text" in config.drop else config.prompt)
    if prompt.warning is not None:
        report.warnings.append(prompt.warning)
    scale = render_scale(
        source,
        cameras,
        model.config.camera_scale,
        given=config.camera_scale,
        depth_model=config.depth_model,
        device=str(model.device),
    )
    report.camera_scale, report.camera_scale_source = scale.value, scale.source
    if scale.is_guess:
        report.warnings.append(scale.advice)
    context = RolloutContext(
        first_camera=cameras[0].to(model.device),
        camera_scale=report.camera_scale,
        temporal_factor=model.config.vae.temporal_factor,
        text=prompt.embedding,
        hides_rays="rays" in config.drop,
        hides_opacity="opacity" in config.drop,
    )
    if not model.config.takes_references:
        return context
    read = reference_batch(references, cameras.width, cameras.height, (report.width, report.height))
    if read is None:
        return context
    latents = model.vae.encode_stills(frames_to_video(read.pixels, model.device, model.dtype))
    return context.with_references(latents, read.cameras.to(model.device), read.photos)
