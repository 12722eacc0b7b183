"""Training clips: random clips of pairs with condition dropout, and their latents and conditions.

In: ``TrainingPair`` and a generator. Out: ``Clip`` (uint8 pixels), and batches of ``EncodedClips``
(latents and ``Conditions``). The dropout settings are those of the paper (section 4.1) and of its
public release. The augmentation of small models is in ``small_clips.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.pairs.pair import TrainingPair
from artifixer.training.parallel import at_least_float32
from artifixer.video.conditions import ClipCameras, Conditions, clip_conditions
from artifixer.video.flow import latent_opacity
from artifixer.video.text import TextConfig
from artifixer.video.vae import AutoencoderConfig, Vae, frames_to_video

#: The release's minimum and maximum number of references by the number of views of the
#: reconstruction.
RELEASE_REFERENCES = {2: (1, 2), 3: (3, 3), 6: (4, 6), 12: (7, 12)}


@dataclass(frozen=True)
class ClipConfig:
    """How clips are drawn from pairs. Frames are consecutive, from a random start in a random
    direction, reflected at the ends of the pair.
    """

    frames: tuple[int, ...] = (81,)
    """Pixel frames per clip, 1 + a multiple of the temporal factor; each step draws one of these
    lengths."""

    references: tuple[int, int] | Literal["release"] = (0, 12)
    """Minimum and maximum number of reference photos, drawn uniformly and limited to the pair's
    views; ``release``: ``RELEASE_REFERENCES``."""

    tail_drop: float = 1.0
    """Probability of dropping the last K rendered frames, K uniform up to all but one."""

    render_drop: float = 0.0
    """Probability of dropping all rendered frames."""

    text_drop: float = 0.1
    """Probability of dropping the text."""

    reference_drop: float = 0.0
    """Probability of dropping all references."""


@dataclass(frozen=True)
class Clip:
    """One training clip; fields as in ``TrainingPair``. Dropped renders are black with opacity 0.

    keeps_text, keeps_references: False where they are dropped.
    """

    clean_frames: UInt8[Tensor, "frames height width 3"]
    renders: UInt8[Tensor, "frames height width 3"]
    opacity: UInt8[Tensor, "frames height width"]
    cameras: Cameras
    reference_photos: UInt8[Tensor, "views height width 3"]
    reference_cameras: Cameras
    camera_scale: float
    caption_embedding: Float[Tensor, "text_tokens text_width"] | None
    keeps_text: bool = True
    keeps_references: bool = True


@dataclass(frozen=True)
class EncodedClips:
    """The input of the losses; ``latent_opacity``: opacity of the conditions at latent rate."""

    clean_latents: Float[Tensor, "batch channels latent_frames h w"]
    render_latents: Float[Tensor, "batch channels latent_frames h w"]
    latent_opacity: Float[Tensor, "batch 1 latent_frames h w"]
    conditions: Conditions

    @property
    def source_skip(self) -> Float[Tensor, "batch channels latent_frames h w"]:
        """The argument ``source_skip`` of networks with ``noise_free_skip``."""
        return self.latent_opacity * self.render_latents


def draw_batch(
    pairs: Sequence[TrainingPair],
    config: ClipConfig,
    generators: Sequence[torch.Generator],
    shape: torch.Generator,
) -> list[Clip]:
    """One random clip of each pair with dropout. shape: generator of the properties that all clips
    of a step have in common, in the same state on every process.
    """
    frames = draw_length(config, shape)
    return [
        draw_clip(pair, config, frames, generator)
        for pair, generator in zip(pairs, generators, strict=True)
    ]


def draw_clip(
    pair: TrainingPair, config: ClipConfig, frames: int, generator: torch.Generator
) -> Clip:
    """A random clip of the pair with dropout."""
    order = frame_order(pair.frames, frames, generator)
    chosen = torch.randperm(pair.views, generator=generator)
    chosen = chosen[: draw_reference_count(config, pair.views, generator)]
    return with_dropout(cut_clip(pair, order, chosen), config, generator)


def draw_length(config: ClipConfig, generator: torch.Generator) -> int:
    """The number of frames of a step's clips."""
    return config.frames[int(torch.randint(len(config.frames), (), generator=generator))]


def cut_clip(pair: TrainingPair, order: Tensor, chosen: Tensor | list[int]) -> Clip:
    """The frames ``order`` of a pair (indices, may repeat) with the reference views ``chosen``,
    without dropout.
    """
    return Clip(
        clean_frames=pair.clean_frames[order],
        renders=pair.renders[order],
        opacity=pair.opacity[order],
        cameras=pair.cameras[order],
        reference_photos=pair.reference_photos[chosen],
        reference_cameras=pair.reference_cameras[chosen],
        camera_scale=pair.camera_scale,
        caption_embedding=pair.caption_embedding,
    )


def frame_order(total: int, frames: int, generator: torch.Generator) -> Int[Tensor, " frames"]:
    """Consecutive frame indices from a random start, forwards or backwards, reflected at the first
    and last of ``total`` frames.
    """
    return reflected_order(total, draw_start(total, generator), torch.arange(frames))


def draw_start(total: int, generator: torch.Generator) -> int:
    """A random phase for ``reflected_order``: first frame and direction."""
    if total == 1:
        return 0
    start = int(torch.randint(total, (), generator=generator))
    is_backwards = bool(torch.randint(2, (), generator=generator))
    return 2 * (total - 1) - start if is_backwards else start


def reflected_order(
    total: int, start: int, steps: Int[Tensor, " frames"]
) -> Int[Tensor, " frames"]:
    """Indices of a walk over ``total`` frames and back. start: phase in the walk; above
    ``total - 1`` it runs backwards. steps: from the start to each frame.
    """
    if total == 1:
        return torch.zeros_like(steps)
    period = 2 * (total - 1)
    phase = (start + steps) % period
    return torch.minimum(phase, period - phase)


def draw_reference_count(config: ClipConfig, views: int, generator: torch.Generator) -> int:
    """The number of reference photos of a clip of a pair with ``views`` views."""
    if config.references == "release":
        low, high = RELEASE_REFERENCES.get(views, (1, views))
    else:
        low, high = config.references
    return int(torch.randint(low, high + 1, (), generator=generator))


def latent_shape(clip: Clip, config: AutoencoderConfig) -> tuple[int, int, int, int]:
    """Channels, latent frames, rows and columns of the clip's latents."""
    frames, height, width = clip.opacity.shape
    factor = config.spatial_factor
    return (
        config.z_dim,
        1 + (frames - 1) // config.temporal_factor,
        height // factor,
        width // factor,
    )


def encode_clips(
    clips: Sequence[Clip], vae: Vae, text: TextConfig, device: torch.device | str = "cpu"
) -> EncodedClips:
    """Latents and conditions of clips of one shape, without gradients.

    Every batch has references, so that the network's reference branch always runs: processes with
    sharded weights exchange the weights and gradients of every module in every step, whichever
    clips each of them has drawn. A clip without references gets a black one with factor 0; clips
    with fewer references than others are padded with black ones that are masked in attention.
    """
    with torch.no_grad():
        clips, counts = _with_equal_references(clips)
        clean = _encoded([clip.clean_frames for clip in clips], vae.encode, vae.dtype, device)
        renders = _encoded([clip.renders for clip in clips], vae.encode, vae.dtype, device)
        photos = _encoded(
            [clip.reference_photos for clip in clips], vae.encode_stills, vae.dtype, device
        )
        conditions = _conditions(clips, vae.config.temporal_factor, text, device)
        conditions = replace(
            conditions, reference_latents=at_least_float32(photos), reference_counts=counts
        )
        opacity = latent_opacity(
            conditions.opacity, vae.config.temporal_factor, vae.config.spatial_factor, is_first=True
        )
    return EncodedClips(at_least_float32(clean), at_least_float32(renders), opacity, conditions)


def with_dropout(clip: Clip, config: ClipConfig, generator: torch.Generator) -> Clip:
    """The clip with renders, text and references dropped at random."""
    chances = torch.rand(4, generator=generator).tolist()
    frames = clip.clean_frames.shape[0]
    last = int(torch.randint(frames, (), generator=generator))
    kept = frames
    if chances[0] < config.render_drop:
        kept = 0
    elif chances[1] < config.tail_drop:
        kept = frames - last
    renders, opacity = clip.renders.clone(), clip.opacity.clone()
    renders[kept:], opacity[kept:] = 0, 0
    return replace(
        clip,
        renders=renders,
        opacity=opacity,
        keeps_text=chances[2] >= config.text_drop,
        keeps_references=chances[3] >= config.reference_drop,
    )


def _encoded(
    clips: Sequence[UInt8[Tensor, "frames height width 3"]],
    encode: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """Latents of clips of one length. They form one batch on a GPU. On a CPU, where a batch is no
    faster, they are encoded one by one, so that a clip's bits do not depend on the other clips.
    """
    videos = [frames_to_video(frames, device, dtype) for frames in clips]
    if torch.device(device).type == "cuda":
        return encode(torch.cat(videos))
    return torch.cat([encode(video) for video in videos])


def _conditions(
    clips: Sequence[Clip], temporal_factor: int, text: TextConfig, device: torch.device | str
) -> Conditions:
    """Conditions of all clips, without the latents of their references. Rays are float32 also
    under autocast.
    """
    embeddings = torch.zeros(len(clips), text.tokens, text.width)
    for embedding, clip in zip(embeddings, clips, strict=True):
        if clip.caption_embedding is not None and clip.keeps_text:
            embedding[: clip.caption_embedding.shape[0]] = clip.caption_embedding
    opacity = torch.stack([clip.opacity for clip in clips]).to(device).to(torch.float32) / 255
    cameras = [ClipCameras(c.cameras, c.reference_cameras, c.camera_scale) for c in clips]
    with torch.autocast(opacity.device.type, enabled=False):
        conditions = clip_conditions(opacity, embeddings, cameras, temporal_factor)
    uses = torch.tensor([float(clip.keeps_references) for clip in clips], device=device)
    return replace(conditions, use_references=uses)


def _with_equal_references(clips: Sequence[Clip]) -> tuple[list[Clip], tuple[int, ...] | None]:
    """The clips padded to the same number of references, at least one, and the number of references
    that each attends to; None where that is all.

    A padded photo gets the camera of the last reference, or the first target camera: it is masked
    in attention, but its values must be finite.
    """
    found = [len(clip.reference_cameras) for clip in clips]
    wanted = max(1, *found)
    padded = []
    for clip, count in zip(clips, found, strict=True):
        if not count:
            clip = replace(clip, keeps_references=False, reference_cameras=clip.cameras[:1])
        missing = wanted - count
        if missing:
            photos = torch.cat(
                [
                    clip.reference_photos,
                    clip.reference_photos.new_zeros(missing, *clip.reference_photos.shape[1:]),
                ]
            )
            order = torch.arange(wanted).clamp(max=max(count, 1) - 1)
            clip = replace(
                clip, reference_photos=photos, reference_cameras=clip.reference_cameras[order]
            )
        padded.append(clip)
    counts = tuple(max(1, count) for count in found)
    return padded, None if min(counts) == wanted else counts
