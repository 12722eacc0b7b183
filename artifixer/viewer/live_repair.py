"""Live repair: a rollout of the video model along the motion of a user's camera.

In: splats, the newest camera, a model. Out: repaired frames, each as soon as its latent frame is
decoded. ``LiveRollout`` is one rollout (paper section 4.2): blocks are appended as the camera
moves, with the key-value cache of earlier blocks. ``Flight`` chooses the cameras of a block: evenly
spaced from the last repaired camera to the newest one, so that a slow machine takes larger steps
instead of falling behind; after a jump a new rollout starts. This is the only file of the viewer
that uses the video model.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.enhance.sources import ReferenceBatch, reference_batch
from artifixer.geometry.cameras import Cameras
from artifixer.scenes.view import View
from artifixer.splats.render import render
from artifixer.splats.splats import Splats
from artifixer.video.conditions import RolloutContext
from artifixer.video.finish import finish
from artifixer.video.model import Mode, Model
from artifixer.video.rollout import RenderedFrames
from artifixer.video.sample import BlockInput, SampleConfig, keyed_noise, sample_blocks
from artifixer.video.vae import (
    StreamingDecoder,
    StreamingEncoder,
    frames_to_bytes,
    frames_to_video,
    video_to_frames,
)
from artifixer.viewer.motion import between, is_jump

#: Number of cached reference encodings, one per frame size and number of references.
KEPT_SIZES = 4


@dataclass(frozen=True)
class RepairSettings:
    """Settings of the live repair of a tab."""

    mode: Mode = "improve"
    """Start of the flow."""

    steps: int | Literal["adaptive"] | None = None
    """Network calls per block while the camera moves; None for the model's own number."""

    still_steps: int = 2
    """Network calls for the view at rest."""

    block_frames: int | None = None
    """Latent frames generated together; None for the model's own number."""

    references: int = 3
    """Maximum number of photos that the model attends to."""

    prompt: str = ""
    """Description of the scene, for models with a text encoder."""

    seed: int = 0
    """Random seed of the noise."""

    size: int = 192
    """Longest side in pixels of frames while the camera moves."""

    still_size: int = 384
    """Longest side in pixels of the view at rest."""


@dataclass(frozen=True)
class RepairedFrame:
    """A frame of the model and the render that it repairs, of one size."""

    camera: Cameras
    """A single view."""

    pixels: UInt8[np.ndarray, "height width 3"]
    """The model's frame."""

    render: UInt8[np.ndarray, "height width 3"]
    """The render."""

    opacity: UInt8[np.ndarray, "height width"]
    """Opacity of the render."""

    latency: float
    """Seconds from the newest camera of the block to this frame."""

    steps: int
    """Network calls of its block."""

    is_still: bool
    """Whether it is the view at rest, at full size."""


class Generator:
    """The model with the reference views that all rollouts share.

    camera_scale: factor from world units to the model's units (``scenes/scale.py``).
    """

    def __init__(self, model: Model, references: Sequence[View], camera_scale: float) -> None:
        self.model, self._references, self.camera_scale = model, tuple(references), camera_scale
        self._encoded: dict[tuple[int, int, int], tuple[Tensor, ReferenceBatch]] = {}

    def model_size(self, camera: Cameras, longest: int) -> tuple[int, int]:
        """(width, height) accepted by the model, nearest to the view at this longest side."""
        factor = longest / max(camera.width, camera.height)
        return self.model.config.model_size(
            round(camera.width * factor), round(camera.height * factor)
        )

    def context(self, first_camera: Cameras, settings: RepairSettings) -> RolloutContext:
        """The conditions that the blocks of a rollout share. Raises ``InputError`` for a prompt if
        the model has no text input.
        """
        model = self.model
        context = RolloutContext(
            first_camera=first_camera.to(model.device),
            camera_scale=self.camera_scale,
            temporal_factor=model.config.vae.temporal_factor,
            text=model.encode_prompt(settings.prompt).embedding,
        )
        found = self._reference_latents(
            (first_camera.width, first_camera.height), settings.references
        )
        if found is None:
            return context
        latents, batch = found
        return context.with_references(latents, batch.cameras.to(model.device), batch.photos)

    def _reference_latents(
        self, size: tuple[int, int], count: int
    ) -> tuple[Tensor, ReferenceBatch] | None:
        model, known = self.model, self._references
        count = min(count, len(known))
        if not model.config.takes_references or not count:
            return None
        key = (*size, count)
        if key not in self._encoded:
            chosen = [known[round(i * (len(known) - 1) / max(1, count - 1))] for i in range(count)]
            read = reference_batch(chosen, *size, size)
            assert read is not None
            video = frames_to_video(read.pixels, model.device, model.dtype)
            while len(self._encoded) >= KEPT_SIZES:
                self._encoded.pop(next(iter(self._encoded)))
            self._encoded[key] = (model.vae.encode_stills(video), read)
        return self._encoded[key]


class LiveRollout:
    """A rollout that is extended block by block. All cameras have the size of the first one, which
    must be accepted by the model. is_still: whether frames get the detail of the reference photos.
    """

    def __init__(
        self,
        generator: Generator,
        first_camera: Cameras,
        settings: RepairSettings,
        steps: int | Literal["adaptive"] | None,
        is_still: bool = False,
    ) -> None:
        model = generator.model
        self._model = model
        self._context = generator.context(first_camera, settings)
        own = model.config.sampling(settings.mode)
        block = settings.block_frames or own.block_frames
        self.config: SampleConfig = replace(
            own,
            steps=steps or own.steps,
            block_frames=block,
            window_frames=max(own.window_frames, own.sink_frames + block),
        )
        self._finish = model.config.finish(settings.mode)
        # while the camera moves, the detail of photos would cost half of the frames
        self._photos = self._context.photos if is_still else None
        self._encoder = StreamingEncoder(model.vae)
        self._decoder, self._render_decoder = (StreamingDecoder(model.vae) for _ in range(2))
        # The sampler refers to these two and not to the rollout: a reference cycle would keep the
        # caches of an ended rollout until the garbage collector looks at old objects.
        self._inputs: deque[BlockInput] = deque()
        self._calls: list[int] = []
        calls = self._calls
        self._samples = sample_blocks(
            model.transformer,
            _taken(self._inputs),
            self.config,
            keyed_noise(settings.seed, model.device, model.dtype),
            observe=lambda call: calls.append(call.block),
        )
        self._latent_frames = 0

    @property
    def next_frames(self) -> int:
        """Pixel frames of the next block."""
        vae, count = self._model.config.vae, self.config.block_frames
        return vae.temporal_factor * count if self._latent_frames else vae.pixel_frames(count)

    def extend(
        self,
        renders: RenderedFrames,
        cameras: Cameras,
    ) -> Iterator[Float[Tensor, "frames height width 3"]]:
        """Repaired frames of the next block, yielded per latent frame. renders: ``next_frames`` of
        them.
        """
        model, first = self._model, self._latent_frames == 0
        count = self.config.block_frames
        with torch.no_grad():
            latents = self._encoder.push(frames_to_video(renders.rgb, model.device, model.dtype))
            conditions = self._context.conditions(
                renders.opacity.to(model.device),
                cameras.to(model.device),
                is_first=first,
                latent_frames=count,
            ).to(dtype=model.dtype)
            self._inputs.append(BlockInput(self._latent_frames, latents, conditions))
            clean = next(self._samples)
        self._latent_frames += count
        done = 0
        for index in range(count):
            with torch.no_grad():
                frames = video_to_frames(self._decoder.push(clean[:, :, index : index + 1]))
                decoded = (
                    video_to_frames(self._render_decoder.push(latents[:, :, index : index + 1]))
                    if self._finish.keep_residual
                    else None
                )
                part = renders.part(done, len(frames)).to(frames.device)
                frames = finish(
                    frames,
                    part.opacity.to(frames),
                    self._finish,
                    part.rgb.to(frames),
                    decoded,
                    part.depth,
                    cameras[done : done + len(frames)],
                    self._photos,
                )
            done += len(frames)
            yield frames

    @property
    def calls(self) -> int:
        """Network calls so far."""
        return len(self._calls)


def _taken(inputs: deque[BlockInput]) -> Iterator[BlockInput]:
    """The inputs as they are needed, without an end."""
    while True:
        yield inputs.popleft()


@dataclass
class Flight:
    """The live repair of one tab."""

    rollout: LiveRollout | None = None
    """The current rollout."""

    settings: RepairSettings = field(default_factory=RepairSettings)
    """Settings of the rollout."""

    last: Cameras | None = None
    """The last repaired camera."""

    splats: Splats | None = None
    """The splats that are rendered."""

    rollouts: int = 0
    """Number of rollouts so far."""

    @property
    def frames_per_block(self) -> int:
        """Pixel frames of a block."""
        return 1 if self.rollout is None else self.rollout.next_frames

    def move(
        self,
        generator: Generator,
        splats: Splats,
        camera: Cameras,
        settings: RepairSettings,
        distance: float,
        asked: float,
        is_cancelled: Callable[[], bool],
    ) -> Iterator[RepairedFrame]:
        """Repaired frames between the last camera and this one, at ``settings.size``.

        camera: a single view at the window's size. distance: typical distance of the content, world
        units. asked: value of ``time.monotonic`` when the camera moved. is_cancelled: checked after
        each latent frame.
        """
        target = camera.resized(*generator.model_size(camera, settings.size))
        is_new = (
            self.rollout is None
            or self.last is None
            or settings != self.settings
            or splats is not self.splats
            or (self.last.width, self.last.height) != (target.width, target.height)
            or is_jump(self.last, target, distance, self.rollout.next_frames)
        )
        if is_new:
            self.rollout = LiveRollout(generator, target, settings, settings.steps)
            self.settings, self.splats, self.last = settings, splats, target
            self.rollouts += 1
        assert self.rollout is not None and self.last is not None
        cameras = between(self.last, target, self.rollout.next_frames)
        self.last = target
        yield from _repaired(self.rollout, splats, cameras, asked, is_cancelled, is_still=False)
        if is_cancelled():
            # the remaining latent frames were not decoded, so the decoder cannot be continued
            self.rollout = None

    def rest(
        self,
        generator: Generator,
        splats: Splats,
        camera: Cameras,
        settings: RepairSettings,
        asked: float,
        is_cancelled: Callable[[], bool],
    ) -> Iterator[RepairedFrame]:
        """The view at rest, at ``settings.still_size``: a rollout of one latent frame."""
        target = camera.resized(*generator.model_size(camera, settings.still_size))
        still = replace(settings, block_frames=1)
        rollout = LiveRollout(generator, target, still, settings.still_steps, is_still=True)
        yield from _repaired(rollout, splats, target, asked, is_cancelled, is_still=True)


def _repaired(
    rollout: LiveRollout,
    splats: Splats,
    cameras: Cameras,
    asked: float,
    is_cancelled: Callable[[], bool],
    is_still: bool,
) -> Iterator[RepairedFrame]:
    with torch.no_grad():
        renders = render(splats, cameras.to(splats.means.device))
    # quantised to 8 bit, like all renders that enter the model
    rgb, opacity = (frames_to_bytes(part) for part in (renders.rgb, renders.opacity))
    calls = rollout.calls
    done = 0
    for frames in rollout.extend(RenderedFrames(rgb / 255, opacity / 255, renders.depth), cameras):
        pixels = frames_to_bytes(frames).cpu().numpy()
        for picture in pixels:
            yield RepairedFrame(
                cameras[done],
                picture,
                rgb[done].cpu().numpy(),
                opacity[done].cpu().numpy(),
                time.monotonic() - asked,
                rollout.calls - calls,
                is_still,
            )
            done += 1
        if is_cancelled():
            return
