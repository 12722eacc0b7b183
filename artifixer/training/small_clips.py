"""Clips of the small models, such as the embedded one: strides, a shared number of references, and
augmentation. None of it is in the paper.

In: training pairs. Out: ``Clip`` as from ``clips.py``, chosen by the class of the settings. Strides
move the cameras as far as in longer videos; augmentation replaces a larger data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.pairs.pair import TrainingPair
from artifixer.training.autoencoder import with_colours
from artifixer.training.clips import (
    Clip,
    ClipConfig,
    cut_clip,
    draw_batch,
    draw_length,
    draw_reference_count,
    draw_start,
    reflected_order,
    with_dropout,
)


@dataclass(frozen=True)
class SmallClipConfig(ClipConfig):
    """How clips of a small model are drawn; nothing here is in the paper."""

    strides: tuple[int, ...] = (1,)
    """Steps between frames; each clip draws one. At stride n the cameras get as far from the first
    one as in a clip n times as long."""

    share_references: bool = False
    """Draw one number of references for all clips of a step and repeat the photos of pairs with
    fewer, so that pairs with different numbers of views can form a batch."""

    augment: bool = False
    """Mirror clips and permute their colour channels at random."""


def draw_small_batch(
    pairs: Sequence[TrainingPair],
    config: ClipConfig,
    generators: Sequence[torch.Generator],
    shape: torch.Generator,
) -> list[Clip]:
    """``draw_batch`` with the settings of ``SmallClipConfig``."""
    if not isinstance(config, SmallClipConfig):
        return draw_batch(pairs, config, generators, shape)
    frames = draw_length(config, shape)
    references = draw_reference_count(config, 0, shape) if config.share_references else None
    return [
        _draw_clip(pair, config, frames, generator, references)
        for pair, generator in zip(pairs, generators, strict=True)
    ]


def _draw_clip(
    pair: TrainingPair,
    config: SmallClipConfig,
    frames: int,
    generator: torch.Generator,
    references: int | None,
) -> Clip:
    """A random clip of the pair. references: their exact number, reached by repeating photos; None
    draws it for the clip.
    """
    order = strided_order(pair.frames, frames, generator, config.strides)
    chosen = torch.randperm(pair.views, generator=generator)
    if references is None:
        chosen = chosen[: draw_reference_count(config, pair.views, generator)]
    elif pair.views:
        chosen = chosen.repeat(-(-references // pair.views))[:references]
    clip = cut_clip(pair, order, chosen)
    if config.augment:
        clip = _augmented(clip, generator)
    return with_dropout(clip, config, generator)


def strided_order(
    total: int, frames: int, generator: torch.Generator, strides: Sequence[int]
) -> Int[Tensor, " frames"]:
    """``frame_order`` at one of the strides, drawn where there are several."""
    start, stride = draw_start(total, generator), strides[0]
    if len(strides) > 1 and total > 1:
        stride = strides[int(torch.randint(len(strides), (), generator=generator))]
    return reflected_order(total, start, stride * torch.arange(frames))


def _augmented(clip: Clip, generator: torch.Generator) -> Clip:
    order = torch.randperm(3, generator=generator).tolist()
    clean, renders, photos = (
        with_colours(pixels, order)
        for pixels in (clip.clean_frames, clip.renders, clip.reference_photos)
    )
    clip = replace(clip, clean_frames=clean, renders=renders, reference_photos=photos)
    return mirrored(clip) if torch.randint(2, (), generator=generator) else clip


def mirrored(clip: Clip) -> Clip:
    """The clip of the mirrored scene: pixels, cameras and world are flipped left to right."""
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
    """Cameras with the x axes of world and camera negated, which keeps poses rigid; the horizontal
    tangential distortion changes its sign.
    """
    flip = torch.diag(cameras.viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0]))
    Ks = cameras.Ks.clone()
    Ks[:, 0, 2] = cameras.width - Ks[:, 0, 2]
    distortion = cameras.distortion.clone()
    if cameras.model == "pinhole":
        distortion[:, 7] = -distortion[:, 7]
    return replace(cameras, viewmats=flip @ cameras.viewmats @ flip, Ks=Ks, distortion=distortion)
