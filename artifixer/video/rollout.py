"""The rollout: renders -> encode -> sample -> decode -> finish -> frames, block by block (paper
section 4.2).

In: a model, a function that reads renders and opacity, target cameras, the rollout's shared
conditions. Out: an iterator of blocks of frames at the cameras' own size, each as soon as it is
decoded. ``enhance`` and training validation both call ``rollout``: what is validated is what ships
(but for what ``finish`` does by depth, which training pairs do not have).
On a GPU the encoding of the next block, the network and the decoding of the last block run
concurrently; memory does not grow with the length of the clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.imaging.resize import resize_bilinear
from artifixer.runtime.prefetch import prefetch
from artifixer.video.conditions import RolloutContext
from artifixer.video.finish import FinishConfig, finish
from artifixer.video.model import Model
from artifixer.video.network_timer import NetworkTimer
from artifixer.video.sample import BlockInput, NetworkCall, SampleConfig, keyed_noise, sample_blocks
from artifixer.video.teacher import TEACHER_FRAMES, TeacherConfig, sample_bidirectional
from artifixer.video.text import WAN_NEGATIVE_PROMPT
from artifixer.video.vae import (
    StreamingDecoder,
    StreamingEncoder,
    frames_to_bytes,
    frames_to_video,
    video_to_frames,
)

Item = TypeVar("Item")


@dataclass(frozen=True)
class RenderedFrames:
    """Consecutive renders at the target cameras' size."""

    rgb: Float[Tensor, "frames height width 3"]
    """Colour premultiplied by opacity, on black, in [0,1]."""

    opacity: Float[Tensor, "frames height width"]
    """In [0,1]."""

    depth: Float[Tensor, "frames height width"] | None = None
    """Camera z, NaN where a render is empty; None where it is unknown."""

    def to(self, device: torch.device) -> RenderedFrames:
        depth = None if self.depth is None else self.depth.to(device)
        return RenderedFrames(self.rgb.to(device), self.opacity.to(device), depth)

    def part(self, first: int, count: int) -> RenderedFrames:
        """``count`` frames from the index ``first`` on."""
        part = slice(first, first + count)
        depth = None if self.depth is None else self.depth[part]
        return RenderedFrames(self.rgb[part], self.opacity[part], depth)


#: (first, count) -> renders. Frames beyond the clip's end repeat its last one.
FrameReader = Callable[[int, int], RenderedFrames]


@dataclass(frozen=True)
class TeacherSampler:
    """The bidirectional teacher as a sampler: clip by clip, in many steps with guidance."""

    config: TeacherConfig
    """Steps, guidance and source."""

    negative_text: Float[Tensor, "1 text_tokens text_width"] | None = None
    """Embedding of the negative prompt; None for no prompt."""

    clip_frames: int = TEACHER_FRAMES
    """Pixel frames per clip. Longer videos are split into clips that are sampled independently, as
    in the public release."""

    @staticmethod
    def for_model(
        model: Model,
        config: TeacherConfig,
        negative_prompt: str | None = None,
        clip_frames: int = TEACHER_FRAMES,
    ) -> TeacherSampler:
        """The sampler of a model's weights. A model without a text encoder is sampled without
        guidance. negative_prompt: None for Wan 2.1's.
        """
        if model.text_encoder is None:
            return TeacherSampler(replace(config, guidance=1.0), None, clip_frames)
        prompt = WAN_NEGATIVE_PROMPT if negative_prompt is None else negative_prompt
        return TeacherSampler(config, model.encode_prompt(prompt).embedding, clip_frames)


@dataclass(frozen=True)
class RolloutConfig:
    """Settings of a rollout."""

    sampler: SampleConfig | TeacherSampler
    """The few-step generator block by block, or the teacher clip by clip."""

    finish: FinishConfig = field(default_factory=FinishConfig)
    """Post-processing of the decoded frames."""

    seed: int = 0
    """Seed of the noise, which is drawn per block and step (``keyed_noise``)."""

    first_block: int = 0
    """Index of the first block for the noise."""

    overlap: bool | None = None
    """Encode and decode in threads concurrently with the network; None does so on a GPU only."""


@dataclass(frozen=True)
class RolloutBlock:
    """Consecutive finished frames; ``first_frame``: index of the first one in the clip."""

    first_frame: int
    frames: UInt8[Tensor, "frames height width 3"]
    network_calls: int


@runtime_checkable
class RolloutStore(Protocol):
    """Storage for continuing an interrupted rollout: the noisy latents of the network's last call
    per block, the clean latents per clip of the teacher.
    """

    def load(self, block: int) -> Float[Tensor, "1 channels latent_frames h w"] | None:
        """Latents saved by an earlier run with the same input, model and configuration; None if
        there are none.
        """

    def save(
        self, block: int, noisy_latents: Float[Tensor, "1 channels latent_frames h w"]
    ) -> None:
        """Called for every new block, just before its frames are yielded. The latents may be on a
        GPU.
        """


def rollout(
    model: Model,
    read: FrameReader,
    cameras: Cameras,
    context: RolloutContext,
    config: RolloutConfig,
    store: RolloutStore | None = None,
    timer: NetworkTimer | None = None,
) -> Iterator[RolloutBlock]:
    """Frames for all cameras, in order, without gradients.

    Padding frames of the last block repeat the last frame and are cut off. Closing the iterator
    cancels the rollout. timer: of the model's transformer; measures its calls.
    """
    timer = timer or NetworkTimer(model.transformer, model.device)
    run = _Rollout(model, read, cameras, context, config, store, timer)
    device, threads = model.device, config.overlap
    encoded = prefetch(_without_gradients(_encoded(run)), device, threads=threads)
    sample = _sampled if run.teacher is None else _sampled_by_teacher
    sampled = prefetch(_without_gradients(sample(run, encoded)), device, threads=threads)
    return _without_gradients(_decoded(run, sampled))


@dataclass(frozen=True)
class _Rollout:
    """The arguments of ``rollout``."""

    model: Model
    read: FrameReader
    cameras: Cameras
    context: RolloutContext
    config: RolloutConfig
    store: RolloutStore | None
    timer: NetworkTimer

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the model's frames."""
        return self.model.config.model_size(self.cameras.width, self.cameras.height)

    @property
    def teacher(self) -> TeacherSampler | None:
        sampler = self.config.sampler
        return sampler if isinstance(sampler, TeacherSampler) else None

    def latent_frames(self, first: int) -> int:
        """Latent frames of the block that starts at pixel frame ``first``, padding included."""
        sampler = self.config.sampler
        if isinstance(sampler, TeacherSampler):  # the remaining frames, at most a clip
            frames = min(sampler.clip_frames, len(self.cameras) - first)
            return self.model.config.vae.latent_frames(frames)
        return sampler.block_frames

    def pixel_frames(self, first: int) -> int:
        """Pixel frames of the same block."""
        vae, latent_frames = self.model.config.vae, self.latent_frames(first)
        starts_rollout = self.teacher is not None or first == 0
        return (
            vae.pixel_frames(latent_frames)
            if starts_rollout
            else vae.temporal_factor * latent_frames
        )


@dataclass(frozen=True)
class _EncodedBlock:
    """A block before the network."""

    first: int
    """First pixel frame."""

    input: BlockInput
    """Latents and conditions."""

    needed: int
    """Latent frames from the start of the block to the end of the clip; smaller than the block's
    number only in a padded last block."""

    renders: RenderedFrames
    """Renders at the cameras' own size, without padding."""


@dataclass(frozen=True)
class _SampledBlock:
    """A block after the network. for_store: latents to save; None if they are saved already."""

    encoded: _EncodedBlock
    clean_latents: Float[Tensor, "1 channels latent_frames h w"]
    for_store: Float[Tensor, "1 channels latent_frames h w"] | None
    network_calls: int


def _encoded(run: _Rollout) -> Iterator[_EncodedBlock]:
    """Read and encode blocks; the last one is padded."""
    model, cameras = run.model, run.cameras
    encoder, context = StreamingEncoder(model.vae), run.context
    first = latent_first = 0
    in_all = model.config.vae.latent_frames(len(cameras))
    while first < len(cameras):
        count, latent_frames = run.pixel_frames(first), run.latent_frames(first)
        if run.teacher is not None:  # every clip is an independent rollout
            encoder, latent_first, in_all = StreamingEncoder(model.vae), 0, latent_frames
            context = run.context.starting_at(cameras[first].to(model.device))
        renders = run.read(first, count).to(model.device)
        video = frames_to_video(resize_bilinear(renders.rgb, *run.size), dtype=model.dtype)
        conditions = context.conditions(
            resize_bilinear(renders.opacity[..., None], *run.size)[..., 0],
            cameras[first : first + count].resized(*run.size).to(model.device),
            is_first=latent_first == 0,
            latent_frames=latent_frames,
        )
        # under autocast the dtype of latents may differ from that of the weights
        latents = encoder.push(video).to(model.dtype)
        block = BlockInput(latent_first, latents, conditions.to(dtype=model.dtype))
        kept = min(count, len(cameras) - first)
        yield _EncodedBlock(
            first,
            block,
            in_all - latent_first,
            renders.part(0, kept),
        )
        first, latent_first = first + count, latent_first + latent_frames


def _sampled(run: _Rollout, encoded: Iterator[_EncodedBlock]) -> Iterator[_SampledBlock]:
    """Clean latents of each block from the few-step generator."""
    model, config = run.model, run.config
    assert isinstance(config.sampler, SampleConfig), "expected the settings of the generator"
    waiting: deque[_EncodedBlock] = deque()

    def inputs() -> Iterator[BlockInput]:
        for block in encoded:
            waiting.append(block)
            yield block.input

    known: set[int] = set()
    last: dict[int, Tensor] = {}

    def replay(block: int) -> Tensor | None:
        saved = None if run.store is None else run.store.load(block)
        if saved is None or saved.shape != waiting[-1].input.render_latents.shape:
            return None
        known.add(block)
        return saved.to(model.device, model.dtype)

    def observe(call: NetworkCall) -> None:
        last[call.block] = call.noisy_latents

    drawn = keyed_noise(config.seed, model.device, model.dtype)

    def noise(block: int, step: int, shape: torch.Size) -> Tensor:
        return drawn(config.first_block + block, step, shape)

    calls = 0
    with closing(encoded), run.timer:  # type: ignore[type-var]
        for block, clean in enumerate(
            sample_blocks(
                model.transformer, inputs(), config.sampler, noise, observe=observe, replay=replay
            )
        ):
            noisy, before, calls = last.pop(block), calls, run.timer.calls
            yield _SampledBlock(
                waiting.popleft(), clean, None if block in known else noisy, calls - before
            )


def _sampled_by_teacher(run: _Rollout, encoded: Iterator[_EncodedBlock]) -> Iterator[_SampledBlock]:
    """Clean latents of each clip from the teacher. The clean latents themselves are stored, since
    later clips do not depend on the network's calls.
    """
    model, config, teacher = run.model, run.config, run.teacher
    assert teacher is not None, "expected the settings of the teacher"
    noise = keyed_noise(config.seed, model.device, model.dtype)
    calls = 0
    with closing(encoded), run.timer:  # type: ignore[type-var]
        for number, block in enumerate(encoded):
            render, conditions = block.input.render_latents, block.input.conditions
            clean = None if run.store is None else run.store.load(number)
            is_known = clean is not None and clean.shape == render.shape
            if clean is None or not is_known:
                clean = sample_bidirectional(
                    model.transformer,
                    render,
                    conditions,
                    teacher.config,
                    noise,
                    negative_text=teacher.negative_text,
                    clip=config.first_block + number,
                )
            before, calls = calls, run.timer.calls
            yield _SampledBlock(
                block,
                clean.to(model.device, model.dtype),
                None if is_known else clean,
                calls - before,
            )


def _decoded(run: _Rollout, sampled: Iterator[_SampledBlock]) -> Iterator[RolloutBlock]:
    """Finished frames in 8 bit at the cameras' own size."""
    model, cameras, config = run.model, run.cameras, run.config
    decoder, render_decoder = StreamingDecoder(model.vae), StreamingDecoder(model.vae)
    with closing(sampled):  # type: ignore[type-var]
        for number, block in enumerate(sampled):
            encoded = block.encoded
            if run.teacher is not None:
                decoder, render_decoder = StreamingDecoder(model.vae), StreamingDecoder(model.vae)
            needed, kept = encoded.needed, len(encoded.renders.rgb)  # the rest is padding

            def decode(
                decoder: StreamingDecoder, latents: Tensor, needed: int = needed, kept: int = kept
            ) -> Tensor:
                frames = video_to_frames(decoder.push(latents[:, :, :needed]))[:kept]
                return resize_bilinear(frames, cameras.width, cameras.height)

            decoded_render = (
                decode(render_decoder, encoded.input.render_latents)
                if config.finish.keep_residual
                else None
            )
            frames = finish(
                decode(decoder, block.clean_latents),
                encoded.renders.opacity,
                config.finish,
                encoded.renders.rgb,
                decoded_render,
                encoded.renders.depth,
                cameras[encoded.first : encoded.first + kept],
                run.context.photos,
            )
            pixels = frames_to_bytes(frames).cpu()
            if run.store is not None and block.for_store is not None:
                run.store.save(number, block.for_store)
            yield RolloutBlock(encoded.first, pixels, block.network_calls)


def _without_gradients(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, each computed without gradients; the caller's grad mode is unchanged."""
    with closing(items):  # type: ignore[type-var]
        while True:
            with torch.no_grad():
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item
