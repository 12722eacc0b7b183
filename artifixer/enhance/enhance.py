"""``enhance``: renders along a camera path -> clean frames, by the video model, block by block
(paper section 4.2).

In: renders in memory or in a folder, their cameras, reference photos, a model. Out: an iterator of
blocks of frames at the cameras' own size, each as soon as it is done. Encoding of the next block,
the network, and decoding of the last one run beside each other on a GPU; nothing waits for the end
of the clip, and memory does not grow with its length.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from artifixer.enhance.sources import (
    ReferencePhoto,
    RenderSource,
    checked_source,
    read_frames,
    read_references,
)
from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.paths import focus_point
from artifixer.runtime import system
from artifixer.runtime.errors import InputError
from artifixer.scenes.depth_models import metric_depth_model
from artifixer.scenes.scale import (
    ASSUMED_MEDIAN_DEPTH,
    CameraScale,
    DepthView,
    camera_scale,
    metric_scale,
    scale_depth_model,
)
from artifixer.splats.render import Renders
from artifixer.video.conditions import RolloutContext
from artifixer.video.finish import FinishConfig
from artifixer.video.model import CameraScaleRule, Mode, Model
from artifixer.video.network_timer import NetworkTimer
from artifixer.video.rollout import (
    RolloutBlock,
    RolloutConfig,
    RolloutStore,
    TeacherSampler,
    rollout,
)
from artifixer.video.sample import SampleConfig
from artifixer.video.teacher import TEACHER_FRAMES, TeacherConfig
from artifixer.video.vae import frames_to_video

#: Renders whose depth is looked at to find the scene's unit of length, evenly spread over the clip.
DEPTH_SAMPLES = 8

Drop = Literal["renders", "references", "text"]

#: ``blocks``: the few-step generator, block by block. ``teacher``: the bidirectional network, clip
#: by clip, in many steps with guidance.
Sampler = Literal["blocks", "teacher"]


@dataclass(frozen=True)
class EnhanceConfig:
    """How to run a model; what is None is the model's own choice.

    mode: where the flow starts, and with it the model's own number of steps, see
    ``ModelConfig.in_mode`` and ``steps_in``. steps: network calls per block; ``adaptive`` takes
    fewer where the render is opaque. prompt: what the scene shows. drop: what the model does not
    get to see. keep_residual: see ``ModelConfig``. strength: share, 0 to 1, of what the model
    changes where the render is opaque. camera_scale: world units to the model's units; None finds
    it from the renders' depth, in metres by the depth model of this name (``scenes/scale.py``).
    overlap: whether encoding and decoding run in threads beside the network; None for on a GPU
    only.

    sampler: ``teacher`` is for bidirectional weights. Longer videos are cut into clips of
    ``TEACHER_FRAMES`` frames, each a rollout of its own, as in the public release; what one invents
    in an unseen place the next does not know. guidance, negative_prompt: of the teacher alone, see
    ``TeacherConfig``; the default prompt is Wan 2.1's, an empty one is no prompt.
    """

    mode: Mode = "improve"
    steps: int | Literal["adaptive"] | None = None
    seed: int = 0
    prompt: str = ""
    drop: tuple[Drop, ...] = ()
    keep_residual: bool | None = None
    strength: float = 1.0
    camera_scale: float | None = None
    depth_model: str | None = None
    sampler: Sampler = "blocks"
    guidance: float | None = None
    negative_prompt: str | None = None
    overlap: bool | None = None


@dataclass(frozen=True)
class FrameBlock:
    """Consecutive clean frames; ``first_index``: the first one's place in the clip."""

    first_index: int
    frames: UInt8[np.ndarray, "frames height width 3"]


@dataclass
class EnhanceReport:
    """What a run tells besides its frames: filled in as it goes on, complete when the iterator has
    ended.

    warnings: one line each, complete when ``enhance`` returns. width, height: the model's frames.
    camera_scale and where it is from. network_seconds: in the network alone; on a GPU its own time.
    first_frame_seconds: from the call of ``enhance`` to the first block. seconds: to the last one.
    peak_memory: bytes, on a GPU of its tensors, on a CPU of the process.
    """

    warnings: list[str] = field(default_factory=list)
    width: int = 0
    height: int = 0
    camera_scale: float = 1.0
    camera_scale_source: str = ""
    blocks: int = 0
    network_calls: int = 0
    network_seconds: float = 0.0
    first_frame_seconds: float = math.nan
    seconds: float = 0.0
    peak_memory: int = 0


def enhance(
    renders: Renders | RenderSource,
    cameras: Cameras,
    references: Sequence[ReferencePhoto],
    model: Model,
    config: EnhanceConfig | None = None,
    report: EnhanceReport | None = None,
    store: RolloutStore | None = None,
) -> Iterator[FrameBlock]:
    """Clean frames for all cameras, in order.

    The input is checked and the references are encoded before this returns; frames are computed
    when the iterator is read. Closing it cancels. Renders go through 8 bit, so that memory and disk
    give the same frames. report: is filled in. store: continues an interrupted rollout.

    Raises ``InputError`` for renders, opacity and cameras of different counts or sizes, cameras
    that are not finite, and a prompt for a model that takes none.
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

    def read(first: int, count: int) -> tuple[Tensor, Tensor]:
        rgb, opacity = read_frames(source, cameras, first, count)
        if "renders" in config.drop:
            return torch.zeros_like(rgb), torch.zeros_like(opacity)
        return rgb, opacity

    blocks = rollout(model, read, cameras, context, settings, store, timer)
    return _reported(blocks, device, report, timer, started)


def rollout_config(model: Model, config: EnhanceConfig, report: EnhanceReport) -> RolloutConfig:
    """The rollout that ``config`` asks for, with the model's own settings where it asks for none.
    Settings without effect are added to the report's warnings.
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
    """Settings of the few-step generator: the model's own in this mode, and the steps asked for."""
    own = model.config.sampling(config.mode)
    return replace(own, steps=config.steps or own.steps)


def teacher_config(model: Model, config: EnhanceConfig) -> TeacherConfig:
    """Settings of the teacher: the release's unless others are asked for. Raises ``InputError`` for
    adaptive steps.
    """
    own = TeacherConfig(source=model.config.in_mode(config.mode).source)
    if config.steps == "adaptive":
        raise InputError(
            "--steps adaptive: the teacher takes a number of steps; expected one such as "
            f"{own.steps}"
        )
    guidance = own.guidance if config.guidance is None else config.guidance
    return replace(own, steps=config.steps or own.steps, guidance=guidance)


def finish_config(model: Model, config: EnhanceConfig) -> FinishConfig:
    """The last step of the frames: the model's own, with what was asked for. Dropped renders give
    no residual.
    """
    own = model.config.finish(config.mode)
    keeps = own.keep_residual if config.keep_residual is None else config.keep_residual
    return replace(
        own, keep_residual=keeps and "renders" not in config.drop, strength=config.strength
    )


def _reported(
    blocks: Iterator[RolloutBlock],
    device: torch.device,
    report: EnhanceReport,
    timer: NetworkTimer,
    started: float,
) -> Iterator[FrameBlock]:
    """The frames of the blocks; times and memory go into the report."""
    try:
        with closing(blocks):  # type: ignore[type-var]
            for block in blocks:
                report.blocks += 1
                report.network_calls = timer.calls
                report.seconds = time.monotonic() - started
                if math.isnan(report.first_frame_seconds):
                    report.first_frame_seconds = report.seconds
                report.peak_memory = peak_memory(device)
                yield FrameBlock(block.first_frame, block.frames.numpy())
    finally:
        report.network_calls, report.network_seconds = timer.calls, timer.seconds


def peak_memory(device: torch.device) -> int:
    """Largest number of bytes in use so far: of tensors since the last reset on a GPU, of the
    process on a CPU.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return system.peak_memory()


def _context(
    source: RenderSource,
    cameras: Cameras,
    references: Sequence[ReferencePhoto],
    model: Model,
    config: EnhanceConfig,
    report: EnhanceReport,
) -> RolloutContext:
    """Text, references, unit of length and first camera; what is odd about them goes into the
    report's warnings.
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
    scale = render_scale(source, cameras, model.config.camera_scale, config, str(model.device))
    report.camera_scale, report.camera_scale_source = scale.value, scale.source
    if scale.is_guess:
        report.warnings.append(scale.advice)
    context = RolloutContext(
        first_camera=cameras[0].to(model.device),
        camera_scale=report.camera_scale,
        temporal_factor=model.config.vae.temporal_factor,
        text=prompt.embedding,
    )
    if not model.config.takes_references:
        return context
    read = read_references(references, cameras.width, cameras.height, (report.width, report.height))
    if read is None:
        return context
    photos, photo_cameras = read
    latents = model.vae.encode_stills(frames_to_video(photos, model.device, model.dtype))
    return context.with_references(latents, photo_cameras.to(model.device))


def render_scale(
    source: RenderSource,
    cameras: Cameras,
    kind: CameraScaleRule,
    config: EnhanceConfig,
    device: str = "cpu",
) -> CameraScale:
    """The camera scale for renders: given, or from the depth of a few renders spread over the clip
    (``scenes/scale.py``).
    """
    views = sampled_depths(source, cameras)
    if views or config.camera_scale is not None:
        name = scale_depth_model(kind, config.camera_scale, None, config.depth_model)
        depth_model = None if name is None else metric_depth_model(name, device)
        metric_depth_model.cache_clear()  # the video model needs the memory
        return camera_scale(kind, views, "the renders", depth_model, config.camera_scale)
    if config.depth_model is not None and kind == "metric":
        raise InputError(
            f"--depth-model {config.depth_model}: the renders have no depth to compare with "
            "metres; expected --camera-scale"
        )
    ends = concatenate([cameras[0], cameras[len(cameras) // 2], cameras[-1]])
    distance = float((ends.centers - focus_point(ends)).norm(dim=1).median())
    distance = distance if distance > 0 else 1.0
    value = (
        1 / distance if kind == "median_depth" else metric_scale(ASSUMED_MEDIAN_DEPTH / distance)
    )
    return CameraScale(
        value,
        kind,
        "the renders have no depth; it is guessed from where the cameras look",
        is_guess=True,
    )


def sampled_depths(source: RenderSource, cameras: Cameras) -> list[DepthView]:
    """Known depths, world units, of a few renders spread over the clip; none where they show
    nothing or have no depth.
    """
    count = min(DEPTH_SAMPLES, len(source))
    chosen = sorted({step * (len(source) - 1) // max(1, count - 1) for step in range(count)})
    views = []
    for index in chosen:
        depth = source.depth(index)
        if depth is None:
            continue
        rows, columns = np.nonzero((depth > 0) & np.isfinite(depth))
        if len(rows):
            pixels = torch.from_numpy(np.stack([columns, rows], axis=-1) + 0.5)
            views.append(
                DepthView(
                    cameras[index],
                    partial(source.rgb, index),
                    pixels,
                    torch.from_numpy(depth[rows, columns]),
                )
            )
    return views
