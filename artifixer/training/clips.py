"""From training pairs to what a stage's losses read: clips with their drop-outs drawn, then
encoded.

In: ``TrainingPair`` and a generator. Out: ``Clip`` (uint8 pixels), and batches of ``EncodedClips``
(latents and ``Conditions``). Drop-outs are the paper's (section 4.1) and those of its public
release, each a setting.
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
from artifixer.video.conditions import Conditions, clip_conditions
from artifixer.video.flow import latent_opacity
from artifixer.video.text import TextConfig
from artifixer.video.vae import AutoencoderConfig, Vae, frames_to_video

#: The release's number of references by the number of views of the reconstruction: smallest and
#: largest.
RELEASE_REFERENCES = {2: (1, 2), 3: (3, 3), 6: (4, 6), 12: (7, 12)}


@dataclass(frozen=True)
class ClipConfig:
    """How clips are drawn from pairs.

    frames: pixel frames per clip, 1 + a multiple of the temporal factor; of several numbers each
        step takes one. Frames are consecutive from a random one on, in a random direction; at an
        end of the pair they turn around.
    strides: of several numbers each clip takes one; at n it has every nth frame, so that cameras
        get as far from the clip's first one as in a clip n times as long.
    references: smallest and largest number of reference photos, uniform; cut to what a pair has.
    ``release``: the release's rule. share_references: one number for all clips of a step, photos
    repeated where a pair has fewer, so that pairs of any number of views can
        form a batch.
    tail_drop: probability of losing the last K rendered frames, K uniform up to all but one.
        render_drop, text_drop, reference_drop: of losing all of the render, the text, the
        references.
    augment: mirror clips and permute their colours at random.
    """

    frames: tuple[int, ...] = (81,)
    strides: tuple[int, ...] = (1,)
    references: tuple[int, int] | Literal["release"] = (0, 12)
    share_references: bool = False
    tail_drop: float = 1.0
    render_drop: float = 0.0
    text_drop: float = 0.1
    reference_drop: float = 0.0
    augment: bool = False


@dataclass(frozen=True)
class Clip:
    """A clip as one training step sees it; fields as in ``TrainingPair``. Dropped renders are
    black, without opacity.

    keeps_text, keeps_references: whether the model may see them.
    """

    clean_frames: UInt8[Tensor, "frames height width 3"]
    renders: UInt8[Tensor, "frames height width 3"]
    opacity: UInt8[Tensor, "frames height width"]
    cameras: Cameras
    reference_photos: UInt8[Tensor, "views height width 3"]
    reference_cameras: Cameras
    camera_scale: float
    caption_embedding: Float[Tensor, "tokens width"] | None
    keeps_text: bool = True
    keeps_references: bool = True


@dataclass(frozen=True)
class EncodedClips:
    """A batch as the losses read it; ``latent_opacity`` is that of the conditions at
    latent rate.
    """

    clean_latents: Float[Tensor, "batch channels latent_frames h w"]
    render_latents: Float[Tensor, "batch channels latent_frames h w"]
    latent_opacity: Float[Tensor, "batch 1 latent_frames h w"]
    conditions: Conditions

    @property
    def source_skip(self) -> Float[Tensor, "batch channels latent_frames h w"]:
        """What networks with ``noise_free_skip`` ask for."""
        return self.latent_opacity * self.render_latents


def draw_batch(
    pairs: Sequence[TrainingPair],
    config: ClipConfig,
    generators: Sequence[torch.Generator],
    shape: torch.Generator,
) -> list[Clip]:
    """One random clip of each pair with its drop-outs. shape: draws what all clips of a step share,
    the same on every process.
    """
    frames = config.frames[int(torch.randint(len(config.frames), (), generator=shape))]
    shared = draw_reference_count(config, 0, shape) if config.share_references else None
    return [
        draw_clip(pair, config, frames, generator, shared)
        for pair, generator in zip(pairs, generators, strict=True)
    ]


def draw_clip(
    pair: TrainingPair,
    config: ClipConfig,
    frames: int,
    generator: torch.Generator,
    references: int | None = None,
) -> Clip:
    """A random clip of the pair with its drop-outs. references: their exact number, photos repeated
    as often as needed.
    """
    order = frame_order(pair.frames, frames, generator, config.strides)
    chosen = torch.randperm(pair.views, generator=generator)
    if references is None:
        chosen = chosen[: draw_reference_count(config, pair.views, generator)]
    elif pair.views:
        chosen = chosen.repeat(-(-references // pair.views))[:references]
    clip = cut_clip(pair, order, chosen)
    if config.augment:
        clip = _augmented(clip, generator)
    return _with_drop_outs(clip, config, generator)


def cut_clip(pair: TrainingPair, order: Tensor, chosen: Tensor | list[int]) -> Clip:
    """The frames ``order`` of a pair (indices, may repeat) with the reference views ``chosen``, as
    they are.
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


def frame_order(
    total: int, frames: int, generator: torch.Generator, strides: Sequence[int] = (1,)
) -> Int[Tensor, " frames"]:
    """Frames at one of the strides from a random one on, forwards or backwards; at the first and
    last frame they turn around.
    """
    if total == 1:
        return torch.zeros(frames, dtype=torch.int64)
    start = int(torch.randint(total, (), generator=generator))
    is_backwards = bool(torch.randint(2, (), generator=generator))
    stride = (
        strides[int(torch.randint(len(strides), (), generator=generator))]
        if len(strides) > 1
        else strides[0]
    )
    period = 2 * (total - 1)
    phase = (period - start if is_backwards else start) + stride * torch.arange(frames)
    folded = phase % period
    return torch.minimum(folded, period - folded)


def draw_reference_count(config: ClipConfig, views: int, generator: torch.Generator) -> int:
    """How many reference photos a clip gets."""
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
    """Latents and conditions of clips of one shape. The autoencoder is not trained here: no
    gradients.

    Every batch has references, so that the network's reference branch always runs: processes with
    sharded weights exchange the weights and gradients of every module in every step, whatever each
    of them has drawn. A clip without references gets a black one with factor 0; clips with fewer
    than others are padded with black ones that nothing attends to.
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


def _with_drop_outs(clip: Clip, config: ClipConfig, generator: torch.Generator) -> Clip:
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


def _augmented(clip: Clip, generator: torch.Generator) -> Clip:
    order = torch.randperm(3, generator=generator).tolist()
    clean, renders, photos = (
        with_colours(pixels, order)
        for pixels in (clip.clean_frames, clip.renders, clip.reference_photos)
    )
    clip = replace(clip, clean_frames=clean, renders=renders, reference_photos=photos)
    return mirrored(clip) if torch.randint(2, (), generator=generator) else clip


def with_colours(
    pixels: UInt8[Tensor, "images height width 3"], order: Sequence[int]
) -> UInt8[Tensor, "images height width 3"]:
    """The same pictures with their colours in another order."""
    # indexing with a list takes several times as long
    return torch.stack([pixels[..., colour] for colour in order], dim=-1)


def mirrored(clip: Clip) -> Clip:
    """The clip of the mirror image of the scene: left and right change places, in the pictures and
    in the world.
    """
    return replace(
        clip,
        clean_frames=clip.clean_frames.flip(2),
        renders=clip.renders.flip(2),
        opacity=clip.opacity.flip(2),
        cameras=_mirrored_cameras(clip.cameras),
        reference_photos=clip.reference_photos.flip(2),
        reference_cameras=_mirrored_cameras(clip.reference_cameras),
    )


def _mirrored_cameras(cameras: Cameras) -> Cameras:
    """Both the world's and the cameras' x axes turned around, which keeps poses rigid; a lens's
    sideways distortion changes its sign.
    """
    flip = torch.diag(cameras.viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] = cameras.width - Ks[:, 0, 2]
    distortion = cameras.distortion.clone()
    if cameras.model == "pinhole":
        distortion[:, 7] = -distortion[:, 7]
    return replace(cameras, viewmats=flip @ cameras.viewmats @ flip, Ks=Ks, distortion=distortion)


def _encoded(
    clips: Sequence[UInt8[Tensor, "frames height width 3"]],
    encode: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
) -> Float[Tensor, "batch channels latent_frames h w"]:
    """Latents of clips of one length. A GPU takes them as one batch; a CPU would gain nothing, and
    clips keep their bits in any company.
    """
    videos = [frames_to_video(frames, device, dtype) for frames in clips]
    if torch.device(device).type == "cuda":
        return encode(torch.cat(videos))
    return torch.cat([encode(video) for video in videos])


def _conditions(
    clips: Sequence[Clip], temporal_factor: int, text: TextConfig, device: torch.device | str
) -> Conditions:
    """Of all clips, still without latents of their references. Rays are float32 in any type of
    computation.
    """
    embeddings = torch.zeros(len(clips), text.tokens, text.width)
    for embedding, clip in zip(embeddings, clips, strict=True):
        if clip.caption_embedding is not None and clip.keeps_text:
            embedding[: clip.caption_embedding.shape[0]] = clip.caption_embedding
    opacity = torch.stack([clip.opacity for clip in clips]).to(device).to(torch.float32) / 255
    cameras, references = (
        [clip.cameras for clip in clips],
        [clip.reference_cameras for clip in clips],
    )
    with torch.autocast(opacity.device.type, enabled=False):
        conditions = clip_conditions(
            opacity,
            cameras,
            [clip.camera_scale for clip in clips],
            embeddings,
            references,
            temporal_factor,
        )
    uses = torch.tensor([float(clip.keeps_references) for clip in clips], device=device)
    return replace(conditions, use_references=uses)


def _with_equal_references(clips: Sequence[Clip]) -> tuple[list[Clip], tuple[int, ...] | None]:
    """The clips with as many references each, at least one, and how many of these each attends to;
    None where all are attended to.

    A padded photo stands where the last one does, or the first target camera: nothing attends to
    it, but its numbers must be finite.
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
