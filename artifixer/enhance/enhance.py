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
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.enhance.background import in_background
from artifixer.enhance.sources import (
    ReferencePhoto,
    RenderSource,
    checked_source,
    read_frames,
    read_references,
)
from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.geometry.paths import focus_point
from artifixer.imaging.resize import resize_bilinear
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
from artifixer.video.conditions import RollOutContext
from artifixer.video.finish import FinishConfig, finish
from artifixer.video.models import CameraScaleRule, Mode, Model
from artifixer.video.sample import (
    TEACHER_FRAMES,
    BlockInput,
    NetworkCall,
    SampleConfig,
    TeacherConfig,
    keyed_noise,
    sample_bidirectional,
    sample_blocks,
)
from artifixer.video.text import WAN_NEGATIVE_PROMPT
from artifixer.video.vae import (
    StreamingDecoder,
    StreamingEncoder,
    frames_to_bytes,
    frames_to_video,
    video_to_frames,
)

#: Renders whose depth is looked at to find the scene's unit of length, evenly spread over the clip.
DEPTH_SAMPLES = 8

Drop = Literal["renders", "references", "text"]

#: ``blocks``: the few-step generator, block by block. ``teacher``: the bidirectional network, clip
#: by clip, in many steps with guidance.
Sampler = Literal["blocks", "teacher"]

Item = TypeVar("Item")


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


class RollOutStore(Protocol):
    """Remembers of each block what an interrupted roll-out needs to go on: the noisy latents of the
    network's last call on it; of each clip of the teacher its clean latents."""

    def load(self, block: int) -> Float[Tensor, "1 channels latent_frames h w"] | None:
        """What was saved for a block in an earlier run with the same input, model and
        configuration; None for nothing.
        """

    def save(
        self, block: int, noisy_latents: Float[Tensor, "1 channels latent_frames h w"]
    ) -> None:
        """Called for every new block, just before its frames are given out. The latents may lie on
        a GPU.
        """


def enhance(
    renders: Renders | RenderSource,
    cameras: Cameras,
    references: Sequence[ReferencePhoto],
    model: Model,
    config: EnhanceConfig | None = None,
    report: EnhanceReport | None = None,
    store: RollOutStore | None = None,
) -> Iterator[FrameBlock]:
    """Clean frames for all cameras, in order.

    The input is checked and the references are encoded before this returns; frames are made when
    the iterator is read. Closing it cancels. Frames that fill the last block repeat the last one
    and are cut off again. Renders go through 8 bit, so that memory and disk give the same frames.
    report: is filled in.

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
    teacher = _teacher(model, config, report) if config.sampler == "teacher" else None
    clip = _Clip(
        source, cameras, model, config, context, (report.width, report.height), store, teacher
    )
    return _reported(_frame_blocks(clip, report), model, report, started)


def sample_config(model: Model, config: EnhanceConfig) -> SampleConfig:
    """How the roll-out samples: the model's own settings in this mode, and the steps asked for."""
    own = model.config.sampling(config.mode)
    return replace(own, steps=config.steps or own.steps)


def teacher_config(model: Model, config: EnhanceConfig) -> TeacherConfig:
    """How the teacher samples: the release's settings unless others are asked for. Raises
    ``InputError`` for adaptive steps.
    """
    own = TeacherConfig(source=model.config.in_mode(config.mode).source)
    if config.steps == "adaptive":
        raise InputError(
            "--steps adaptive: the teacher takes a number of steps; expected one such as "
            f"{own.steps}"
        )
    guidance = own.guidance if config.guidance is None else config.guidance
    return replace(own, steps=config.steps or own.steps, guidance=guidance)


@dataclass(frozen=True)
class _Teacher:
    """negative_text: what guidance leads away from."""

    config: TeacherConfig
    negative_text: Float[Tensor, "1 tokens width"] | None


def _teacher(model: Model, config: EnhanceConfig, report: EnhanceReport) -> _Teacher:
    """Guidance compares two prompts, so a model without a text encoder goes without it."""
    settings = teacher_config(model, config)
    if model.text_encoder is None:
        if config.guidance not in (None, 1):
            report.warnings.append(
                f"model {model.config.name} reads no prompts: guidance has no effect"
            )
        return _Teacher(replace(settings, guidance=1.0), None)
    prompt = model.encode_prompt(
        WAN_NEGATIVE_PROMPT if config.negative_prompt is None else config.negative_prompt
    )
    return _Teacher(settings, prompt.embedding)


@dataclass(frozen=True)
class _Clip:
    """What a roll-out reads. size: (width, height) of the model's frames. teacher: None for blocks."""

    source: RenderSource
    cameras: Cameras
    model: Model
    config: EnhanceConfig
    context: RollOutContext
    size: tuple[int, int]
    store: RollOutStore | None
    teacher: _Teacher | None = None

    @property
    def finish(self) -> FinishConfig:
        """The model's own last step, with what was asked for; renders that were dropped give
        nothing back.
        """
        own = self.model.config.finish(self.config.mode)
        keeps = (
            own.keep_residual if self.config.keep_residual is None else self.config.keep_residual
        )
        return replace(
            own,
            keep_residual=keeps and "renders" not in self.config.drop,
            strength=self.config.strength,
        )

    def frames_of_block(self, first: int) -> int:
        """Pixel frames of the block that starts with pixel frame ``first``, padding included."""
        latent_frames = self.model.config.block_frames
        vae = self.model.config.vae
        if self.teacher is not None:  # as many as are left, up to whole latent frames
            return vae.pixel_frames(
                vae.latent_frames(min(TEACHER_FRAMES, len(self.cameras) - first))
            )
        return vae.temporal_factor * latent_frames if first else vae.pixel_frames(latent_frames)


@dataclass(frozen=True)
class _EncodedBlock:
    """A block ready for the network. rgb, opacity: of the renders at the cameras' own size, without
    padding; rgb where it enters frames. needed: latent frames before the padding; more than the
    block has for all but the last."""

    first: int
    input: BlockInput
    needed: int
    rgb: Float[Tensor, "frames height width 3"] | None
    opacity: Float[Tensor, "frames height width"]


@dataclass(frozen=True)
class _SampledBlock:
    """A block out of the network. for_store: what continuing needs; None where the store has it."""

    encoded: _EncodedBlock
    clean_latents: Float[Tensor, "1 channels latent_frames h w"]
    for_store: Float[Tensor, "1 channels latent_frames h w"] | None


def _frame_blocks(clip: _Clip, report: EnhanceReport) -> Iterator[FrameBlock]:
    """The three stages, one behind the other."""
    device, threads = clip.model.device, clip.config.overlap
    encoded = in_background(_without_gradients(_encoded(clip)), device, threads=threads)
    network = _sampled if clip.teacher is None else _sampled_by_teacher
    sampled = in_background(
        _without_gradients(network(clip, encoded, report)), device, threads=threads
    )
    return _without_gradients(_decoded(clip, sampled))


def _encoded(clip: _Clip) -> Iterator[_EncodedBlock]:
    """Blocks read and encoded, the last one filled up."""
    model, cameras = clip.model, clip.cameras
    encoder, context = StreamingEncoder(model.vae), clip.context
    first = latent_first = 0
    in_all = model.config.vae.latent_frames(len(cameras))
    while first < len(cameras):
        count, latent_frames = clip.frames_of_block(first), model.config.block_frames
        if clip.teacher is not None:  # every clip is a roll-out of its own
            encoder, latent_first, latent_frames = (
                StreamingEncoder(model.vae),
                0,
                model.config.vae.latent_frames(count),
            )
            context, in_all = (
                clip.context.starting_at(cameras[first].to(model.device)),
                latent_frames,
            )
        rgb, opacity = read_frames(
            clip.source, cameras, first, count, cameras.width, cameras.height
        )
        if "renders" in clip.config.drop:
            rgb, opacity = torch.zeros_like(rgb), torch.zeros_like(opacity)
        rgb, opacity = rgb.to(model.device), opacity.to(model.device)
        video = frames_to_video(resize_bilinear(rgb, *clip.size), dtype=model.dtype)
        conditions = context.conditions(
            resize_bilinear(opacity[..., None], *clip.size)[..., 0],
            cameras[first : first + count].resized(*clip.size).to(model.device),
            is_first=latent_first == 0,
            latent_frames=latent_frames,
        )
        block = BlockInput(latent_first, encoder.push(video), conditions.to(dtype=model.dtype))
        kept = min(count, len(cameras) - first)
        yield _EncodedBlock(
            first,
            block,
            in_all - latent_first,
            rgb[:kept] if clip.finish.reads_render else None,
            opacity[:kept],
        )
        first, latent_first = first + count, latent_first + latent_frames


def _sampled(
    clip: _Clip, encoded: Iterator[_EncodedBlock], report: EnhanceReport
) -> Iterator[_SampledBlock]:
    """Clean latents of each block, beside what the block was made from."""
    model = clip.model
    waiting: deque[_EncodedBlock] = deque()

    def inputs() -> Iterator[BlockInput]:
        for block in encoded:
            waiting.append(block)
            yield block.input

    known: set[int] = set()
    last: dict[int, Tensor] = {}

    def replay(block: int) -> Tensor | None:
        saved = None if clip.store is None else clip.store.load(block)
        if saved is None or saved.shape != waiting[-1].input.render_latents.shape:
            return None
        known.add(block)
        return saved.to(model.device, model.dtype)

    def observe(call: NetworkCall) -> None:
        last[call.block] = call.noisy_latents

    noise = keyed_noise(clip.config.seed, model.device, model.dtype)
    settings = sample_config(model, clip.config)
    with closing(encoded), _Stopwatch(model.transformer, model.device, report):  # type: ignore[type-var]
        for block, clean in enumerate(
            sample_blocks(
                model.transformer, inputs(), settings, noise, observe=observe, replay=replay
            )
        ):
            report.blocks += 1
            noisy = last.pop(block)
            yield _SampledBlock(waiting.popleft(), clean, None if block in known else noisy)


def _sampled_by_teacher(
    clip: _Clip, encoded: Iterator[_EncodedBlock], report: EnhanceReport
) -> Iterator[_SampledBlock]:
    """Clean latents of each clip. What the store keeps of one is its result, since no later clip
    reads anything of it.
    """
    model, teacher = clip.model, clip.teacher
    assert teacher is not None, "no teacher"
    noise = keyed_noise(clip.config.seed, model.device, model.dtype)
    with closing(encoded), _Stopwatch(model.transformer, model.device, report):  # type: ignore[type-var]
        for number, block in enumerate(encoded):
            render, conditions = block.input.render_latents, block.input.conditions
            clean = None if clip.store is None else clip.store.load(number)
            is_known = clean is not None and clean.shape == render.shape
            if clean is None or not is_known:
                clean = sample_bidirectional(
                    model.transformer,
                    render,
                    conditions,
                    teacher.config,
                    noise,
                    negative_text=teacher.negative_text,
                    clip=number,
                )
            report.blocks += 1
            yield _SampledBlock(
                block, clean.to(model.device, model.dtype), None if is_known else clean
            )


def _decoded(clip: _Clip, sampled: Iterator[_SampledBlock]) -> Iterator[FrameBlock]:
    """Frames in 8 bit at the cameras' own size."""
    model, cameras = clip.model, clip.cameras
    decoder, render_decoder = StreamingDecoder(model.vae), StreamingDecoder(model.vae)
    with closing(sampled):  # type: ignore[type-var]
        for number, block in enumerate(sampled):
            encoded = block.encoded
            if clip.teacher is not None:
                decoder, render_decoder = StreamingDecoder(model.vae), StreamingDecoder(model.vae)
            needed = encoded.needed  # the rest is padding
            kept = min(clip.frames_of_block(encoded.first), len(cameras) - encoded.first)

            def decode(
                decoder: StreamingDecoder, latents: Tensor, needed: int = needed, kept: int = kept
            ) -> Tensor:
                frames = video_to_frames(decoder.push(latents[:, :, :needed]))[:kept]
                return resize_bilinear(frames, cameras.width, cameras.height)

            decoded_render = (
                decode(render_decoder, encoded.input.render_latents)
                if clip.finish.keep_residual
                else None
            )
            frames = finish(
                decode(decoder, block.clean_latents),
                encoded.opacity,
                clip.finish,
                encoded.rgb,
                decoded_render,
            )
            pixels = frames_to_bytes(frames).cpu().numpy()
            if clip.store is not None and block.for_store is not None:
                clip.store.save(number, block.for_store)
            yield FrameBlock(encoded.first, pixels)


def _reported(
    blocks: Iterator[FrameBlock], model: Model, report: EnhanceReport, started: float
) -> Iterator[FrameBlock]:
    """The same blocks, with times and memory written down."""
    with closing(blocks):  # type: ignore[type-var]
        for block in blocks:
            report.seconds = time.monotonic() - started
            if math.isnan(report.first_frame_seconds):
                report.first_frame_seconds = report.seconds
            report.peak_memory = peak_memory(model.device)
            yield block


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of tensors since the last reset on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return system.peak_memory()


# --------------------------------------------------------------------------------------------------
# what blocks share


def _context(
    source: RenderSource,
    cameras: Cameras,
    references: Sequence[ReferencePhoto],
    model: Model,
    config: EnhanceConfig,
    report: EnhanceReport,
) -> RollOutContext:
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
    context = RollOutContext(
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
            f"--depth-model {config.depth_model}: the renders have no depth to compare with metres; "
            "expected --camera-scale"
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


# --------------------------------------------------------------------------------------------------
# helpers


def _without_gradients(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each made without gradients; whoever reads them keeps the setting of their
    own.
    """
    with closing(items):  # type: ignore[type-var]
        while True:
            with torch.no_grad():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item


class _Stopwatch:
    """Adds up the network's time and calls while its context is open. On a GPU by events, so that
    nobody waits for anybody.
    """

    def __init__(
        self, network: torch.nn.Module, device: torch.device, report: EnhanceReport
    ) -> None:
        self._network, self._device, self._report = network, device, report
        self._is_cuda = device.type == "cuda"
        self._events: list[tuple[Any, Any]] = []
        self._started: Any = None

    def __enter__(self) -> _Stopwatch:
        self._hooks = [
            self._network.register_forward_pre_hook(lambda *_: self._start()),
            self._network.register_forward_hook(lambda *_: self._stop()),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._events:
            torch.cuda.synchronize(self._device)
            self._report.network_seconds += (
                sum(start.elapsed_time(end) for start, end in self._events) / 1000
            )

    def _start(self) -> None:
        self._started = (
            torch.cuda.current_stream(self._device).record_event(_timed_event())
            if self._is_cuda
            else time.monotonic()
        )

    def _stop(self) -> None:
        self._report.network_calls += 1
        if self._is_cuda:
            self._events.append(
                (
                    self._started,
                    torch.cuda.current_stream(self._device).record_event(_timed_event()),
                )
            )
        else:
            self._report.network_seconds += time.monotonic() - self._started


def _timed_event() -> Any:
    return torch.cuda.Event(enable_timing=True)
