"""Conditions of the video model: opacity, rays and cameras of the target frames, text, and
reference photos with their cameras.

In: target and reference ``Cameras`` in world units, opacity at pixel rate, latents of the
references, a text embedding. Out: ``Conditions`` of a whole clip or of one block (paper section
4.1). ``RolloutContext`` holds the conditions that all blocks of a rollout share, and computes those
of one block from its own cameras: the cost per block does not depend on the length of the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from artifixer.geometry.cameras import Cameras, concatenate
from artifixer.video.camera_conditions import (
    frame_groups,
    group_members,
    mean_cameras,
    normalised_Ks,
    pooled_cameras,
    ray_map,
    weights_cameras,
)


@dataclass(frozen=True)
class Conditions:
    """Conditions of consecutive latent frames, of whole clips or parts of them, for a batch of
    clips. Cameras and rays are in the coordinate system of ``weights_cameras``.
    """

    opacity: Float[Tensor, "batch frames height width"]
    """Opacity of the renders at pixel rate, in [0,1]. The start of a clip has ``1 + temporal_factor
    (latent_frames - 1)`` frames, a later part ``temporal_factor latent_frames``."""

    rays: Float[Tensor, "batch latent_frames height width 6"]
    """Per pixel of each latent frame: moment origin x direction, then unit direction."""

    viewmats: Float[Tensor, "batch latent_frames 4 4"]
    """Cameras of the latent frames."""

    Ks: Float[Tensor, "batch latent_frames 3 3"]
    """Their intrinsics in units of the image's sides, with the image centre at 0."""

    text: Float[Tensor, "batch text_tokens text_width"]
    """Text embedding, zeros for no prompt."""

    reference_latents: Float[Tensor, "batch channels views h w"] | None = None
    """Latents of the reference photos, each encoded on its own; None without references."""

    reference_viewmats: Float[Tensor, "batch views 4 4"] | None = None
    """Cameras of the references; None without references."""

    reference_Ks: Float[Tensor, "batch views 3 3"] | None = None
    """Intrinsics of the references, in the units of ``Ks``; None without references."""

    use_references: Float[Tensor, " batch"] | None = None
    """Factor on each sample's attention to its references, 0 or 1; None for 1."""

    reference_counts: tuple[int, ...] | None = None
    """Number of each sample's references; later entries are padding that is masked in attention.
    None for no padding. Python integers, which need no synchronisation with the device."""

    use_opacity: Float[Tensor, " batch"] | None = None
    """Factor on the opacity that the network reads, 1 or 0 per sample; None is 1 for all. The
    source of the flow keeps the opacity."""

    def __post_init__(self) -> None:
        batch, latent_frames = self.rays.shape[:2]
        assert self.opacity.shape[0] == batch and self.opacity.shape[2:] == self.rays.shape[2:4], (
            f"opacity {tuple(self.opacity.shape)}"
        )
        assert self.viewmats.shape == (batch, latent_frames, 4, 4), (
            f"viewmats {tuple(self.viewmats.shape)}"
        )
        assert self.Ks.shape == (batch, latent_frames, 3, 3), f"Ks {tuple(self.Ks.shape)}"
        assert self.text.shape[0] == batch, f"text {tuple(self.text.shape)} for a batch of {batch}"
        references = (self.reference_latents, self.reference_viewmats, self.reference_Ks)
        assert len({part is None for part in references}) == 1, (
            "reference latents and reference cameras come together"
        )
        if (
            self.reference_latents is not None
            and self.reference_viewmats is not None
            and self.reference_Ks is not None
        ):
            views = self.reference_latents.shape[2]
            assert self.reference_viewmats.shape == (batch, views, 4, 4), (
                f"reference viewmats {tuple(self.reference_viewmats.shape)}"
            )
            assert self.reference_Ks.shape == (batch, views, 3, 3), (
                f"reference Ks {tuple(self.reference_Ks.shape)}"
            )
            counts = self.reference_counts
            assert counts is None or (
                len(counts) == batch and all(1 <= count <= views for count in counts)
            ), f"reference counts {counts} for a batch of {batch} with {views} references"

    @property
    def latent_frames(self) -> int:
        return self.rays.shape[1]

    def drop(
        self,
        *,
        renders: bool | Bool[Tensor, " batch"] = False,
        text: bool | Bool[Tensor, " batch"] = False,
        references: bool | Bool[Tensor, " batch"] = False,
        rays: bool = False,
        opacity: bool = False,
    ) -> Conditions:
        """The conditions without renders, text or references, for all clips or for the marked ones
        of the batch.

        Dropped renders have opacity 0 (the caller must pass latents of black frames), dropped text
        is zeros. Dropping the references of all clips removes them; dropping those of some sets
        their factor to 0, so that all weights get gradients from every batch. Dropped rays and
        dropped opacity are zeros to the network; the source of the flow keeps the opacity.
        """
        dropped = self
        if opacity:
            dropped = replace(dropped, use_opacity=self.text.new_zeros(self.text.shape[0]))
        if rays:
            dropped = replace(dropped, rays=torch.zeros_like(self.rays))
        if renders is not False:
            dropped = replace(dropped, opacity=_zeroed(self.opacity, renders))
        if text is not False:
            dropped = replace(dropped, text=_zeroed(self.text, text))
        if references is True:
            dropped = replace(
                dropped,
                reference_latents=None,
                reference_viewmats=None,
                reference_Ks=None,
                use_references=None,
                reference_counts=None,
            )
        elif references is not False:
            factor = (
                self.text.new_ones(self.text.shape[0])
                if self.use_references is None
                else self.use_references
            )
            dropped = replace(dropped, use_references=_zeroed(factor, references))
        return dropped

    def latent_slice(self, first: int, count: int) -> Conditions:
        """Conditions of latent frames ``first`` to ``first + count``; these conditions must start
        at a clip's latent frame 0 (asserted).
        """
        assert 0 <= first < first + count <= self.latent_frames, (
            f"{first}+{count} of {self.latent_frames} latent frames"
        )
        if self.latent_frames == 1:
            return self
        step, rest = divmod(self.opacity.shape[1] - 1, self.latent_frames - 1)
        # temporal factors are powers of two, which a later part of a clip does not give
        starts = not rest and step.bit_count() == 1
        assert starts, (
            f"{self.opacity.shape[1]} frames of opacity do not start a clip of "
            f"{self.latent_frames} latent frames"
        )
        frames = slice(max(0, 1 + step * (first - 1)), 1 + step * (first + count - 1))
        latents = slice(first, first + count)
        return replace(
            self,
            opacity=self.opacity[:, frames],
            rays=self.rays[:, latents],
            viewmats=self.viewmats[:, latents],
            Ks=self.Ks[:, latents],
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Conditions:
        """The conditions on another device or in another dtype; camera matrices keep their dtype,
        since PRoPE needs float32.
        """
        matrices = {"viewmats", "Ks", "reference_viewmats", "reference_Ks"}
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {
            name: tensor.to(device, None if name in matrices else dtype)
            for name, tensor in tensors.items()
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class ReferencePhotos:
    """Reference photos at the size of the target frames, and their cameras in world units.

    pixels: in [0,1], ``[views height width 3]``. masks: 1 where a photo counts and 0 where it does
    not, ``[views height width]``; None where all of all photos counts.
    """

    pixels: Float[Tensor, "views height width 3"]
    cameras: Cameras
    masks: Float[Tensor, "views height width"] | None = None


@dataclass(frozen=True)
class RolloutContext:
    """The conditions that all blocks of one rollout share. Undocumented fields are as in
    ``Conditions``, with a batch of one.
    """

    first_camera: Cameras
    """Camera of the rollout's first frame, one view."""

    camera_scale: float
    """Scale from world units to the weights' units."""

    temporal_factor: int
    """Pixel frames per latent frame."""
    text: Float[Tensor, "1 text_tokens text_width"]
    reference_latents: Float[Tensor, "1 channels views h w"] | None = None
    reference_viewmats: Float[Tensor, "1 views 4 4"] | None = None
    reference_Ks: Float[Tensor, "1 views 3 3"] | None = None

    reference_cameras: Cameras | None = None
    """Cameras of the references in world units."""

    photos: ReferencePhotos | None = None
    """The references for ``finish``, on the CPU; None without them."""

    hides_rays: bool = False
    """See ``Conditions.drop``."""

    hides_opacity: bool = False
    """See ``Conditions.drop``."""

    def starting_at(self, first_camera: Cameras) -> RolloutContext:
        """The same for a rollout that starts at another camera."""
        context = replace(self, first_camera=first_camera)
        if self.reference_latents is None or self.reference_cameras is None:
            return context
        return context.with_references(self.reference_latents, self.reference_cameras, self.photos)

    def with_references(
        self,
        latents: Float[Tensor, "1 channels views h w"],
        cameras: Cameras,
        photos: ReferencePhotos | None = None,
    ) -> RolloutContext:
        """The same with reference photos, whose cameras are not pooled."""
        moved = weights_cameras(cameras, self.first_camera, self.camera_scale)
        return replace(
            self,
            reference_latents=latents,
            reference_viewmats=moved.viewmats[None],
            reference_Ks=normalised_Ks(moved)[None],
            reference_cameras=cameras,
            photos=photos,
        )

    def conditions(
        self,
        opacity: Float[Tensor, "frames height width"],
        cameras: Cameras,
        *,
        is_first: bool,
        latent_frames: int | None = None,
    ) -> Conditions:
        """Conditions of consecutive frames: a block or a whole clip.

        cameras: of the same frames as ``opacity``, at the model's size; fewer when the last frames
        are padding, which repeats the last camera. is_first: whether the frames start the rollout.
        latent_frames: number of latent frames; by default from the number of frames of
        ``opacity``.
        """
        if latent_frames is None:
            latent_frames = frame_groups(opacity.shape[0], self.temporal_factor, is_first)
        pooled = pooled_cameras(cameras, self.temporal_factor, is_first, latent_frames)
        moved = weights_cameras(pooled, self.first_camera, self.camera_scale)
        return Conditions(
            opacity=opacity[None],
            rays=ray_map(moved)[None],
            viewmats=moved.viewmats[None],
            Ks=normalised_Ks(moved)[None],
            text=self.text,
            reference_latents=self.reference_latents,
            reference_viewmats=self.reference_viewmats,
            reference_Ks=self.reference_Ks,
        ).drop(rays=self.hides_rays, opacity=self.hides_opacity)


class ClipCameras(NamedTuple):
    """The cameras of a clip, on the CPU, and its ``camera_scale``."""

    targets: Cameras
    references: Cameras
    scale: float


def clip_conditions(
    opacity: Float[Tensor, "batch frames height width"],
    text: Float[Tensor, "batch text_tokens text_width"],
    clips: Sequence[ClipCameras],
    temporal_factor: int,
) -> Conditions:
    """Conditions as from ``RolloutContext``, for a batch of whole clips, on the device of
    ``opacity``.

    clips: all have the same numbers of frames and references. The latents of the references are a
    placeholder without channels.
    """
    parts = [part for clip in clips for part in (clip.targets, clip.references)]
    if len({(part.model, part.width, part.height) for part in parts}) > 1 and len(clips) > 1:
        rows = zip(opacity.split(1), text.split(1), clips, strict=True)
        return stack_conditions(
            [clip_conditions(each, words, [clip], temporal_factor) for each, words, clip in rows]
        )
    batch, device = len(clips), opacity.device
    first = concatenate([clip.targets[:1] for clip in clips])
    scales = torch.tensor([clip.scale for clip in clips], dtype=torch.float64)

    def moved(views: Cameras) -> Cameras:
        each = torch.arange(batch).repeat_interleave(len(views) // batch)
        return weights_cameras(views, first[each], scales[each])

    members = group_members(len(clips[0].targets), temporal_factor, is_first=True)
    grouped = concatenate([clip.targets[members] for clip in clips])
    targets = moved(mean_cameras(grouped, temporal_factor))
    conditions = Conditions(
        opacity=opacity,
        rays=ray_map(targets.to(device)).unflatten(0, (batch, -1)),
        viewmats=targets.viewmats.unflatten(0, (batch, -1)).to(device),
        Ks=normalised_Ks(targets).unflatten(0, (batch, -1)).to(device),
        text=text.to(device),
    )
    count = len(clips[0].references)
    if not count:
        return conditions
    references = moved(concatenate([clip.references for clip in clips]))
    return replace(
        conditions,
        reference_latents=torch.zeros(batch, 0, count, 1, 1, device=device),
        reference_viewmats=references.viewmats.unflatten(0, (batch, -1)).to(device),
        reference_Ks=normalised_Ks(references).unflatten(0, (batch, -1)).to(device),
    )


def stack_conditions(parts: Sequence[Conditions]) -> Conditions:
    """One batch of several with the same numbers of frames and references, without padding."""
    assert all(part.reference_counts is None for part in parts), (
        "padded references are counted after stacking"
    )
    values: dict[str, Any] = {}
    for name, first in vars(parts[0]).items():
        values[name] = None if first is None else torch.cat([getattr(part, name) for part in parts])
    return replace(parts[0], **values)


def _zeroed(values: Tensor, dropped: bool | Bool[Tensor, " batch"]) -> Tensor:
    """Zeros where dropped."""
    if isinstance(dropped, bool):
        return torch.zeros_like(values) if dropped else values
    kept = ~dropped.to(values.device).view(-1, *[1] * (values.ndim - 1))
    return values * kept
