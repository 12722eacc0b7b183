"""What the video model sees besides latents: opacity, rays and cameras of the target frames, text,
reference photos with their cameras.

In: target and reference ``Cameras`` in world units, opacity at pixel rate, latents of the
references, a text embedding. Out: ``Conditions`` of a whole clip or of one block (paper section
4.1). A roll-out keeps what all its blocks share in ``RolloutContext``, which makes the conditions
of one block from the cameras of that block alone: any length of path costs the same per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

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
    """Conditions of consecutive latent frames, of a whole clip or a part of it, for a batch of
    clips.

    opacity: of the renders at pixel rate, in [0,1]. The piece that starts a clip has ``1 +
        temporal_factor (latent_frames - 1)`` frames, a later one ``temporal_factor latent_frames``.
    rays: per pixel of each latent frame the moment origin x direction, then the unit direction;
        ``viewmats`` and ``Ks``: the cameras of the latent frames, intrinsics in units of the
        image's sides with the image's centre at 0. All three in the weights' own world, see
        ``weights_cameras``.
    text: embedding, zeros for no prompt.
    reference_latents: each photo encoded on its own; None with ``reference_viewmats`` and
    ``reference_Ks`` when there are no references. use_references: factor on what each sample of the
    batch takes from its references, 1 or 0; None is 1 for all. reference_counts: how many of the
    references of each sample are its own; those after are padding that nothing attends to. None
        is all. Plain numbers, so that nobody waits for the device.
    """

    opacity: Float[Tensor, "batch frames height width"]
    rays: Float[Tensor, "batch latent_frames height width 6"]
    viewmats: Float[Tensor, "batch latent_frames 4 4"]
    Ks: Float[Tensor, "batch latent_frames 3 3"]
    text: Float[Tensor, "batch tokens width"]
    reference_latents: Float[Tensor, "batch channels views h w"] | None = None
    reference_viewmats: Float[Tensor, "batch views 4 4"] | None = None
    reference_Ks: Float[Tensor, "batch views 3 3"] | None = None
    use_references: Float[Tensor, " batch"] | None = None
    reference_counts: tuple[int, ...] | None = None

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
    ) -> Conditions:
        """The same conditions without some of them, for all clips or for the marked ones of the
        batch.

        Dropped renders have opacity 0 (the caller passes latents of black frames beside it),
        dropped text is zeros. Dropping the references of all clips removes them; of some, sets
        their factor to 0, so that weights get gradients from every batch.
        """
        dropped = self
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
        """Conditions of latent frames ``first`` to ``first + count``; only of conditions that begin
        with a clip's latent frame 0.
        """
        assert 0 <= first < first + count <= self.latent_frames, (
            f"{first}+{count} of {self.latent_frames} latent frames"
        )
        if self.latent_frames == 1:
            return self
        step, rest = divmod(self.opacity.shape[1] - 1, self.latent_frames - 1)
        # temporal factors are powers of two; of a later piece no such step comes out
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
        """On another device or in another float type; camera matrices stay float32 in any type, as
        PRoPE computes with them.
        """
        matrices = {"viewmats", "Ks", "reference_viewmats", "reference_Ks"}
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {
            name: tensor.to(device, None if name in matrices else dtype)
            for name, tensor in tensors.items()
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class RolloutContext:
    """What all blocks of one roll-out share: the first target camera, the unit of length, text and
    references.

    first_camera: of the roll-out's frame 0 in roll-out order, one view. camera_scale: world units
    to the weights' units. The rest as in ``Conditions``, with a batch of one. reference_cameras: as
    they are in the capture's world.
    """

    first_camera: Cameras
    camera_scale: float
    temporal_factor: int
    text: Float[Tensor, "1 tokens width"]
    reference_latents: Float[Tensor, "1 channels views h w"] | None = None
    reference_viewmats: Float[Tensor, "1 views 4 4"] | None = None
    reference_Ks: Float[Tensor, "1 views 3 3"] | None = None
    reference_cameras: Cameras | None = None

    def starting_at(self, first_camera: Cameras) -> RolloutContext:
        """The same for a roll-out that starts at another camera."""
        context = replace(self, first_camera=first_camera)
        if self.reference_latents is None or self.reference_cameras is None:
            return context
        return context.with_references(self.reference_latents, self.reference_cameras)

    def with_references(
        self, latents: Float[Tensor, "1 channels views h w"], cameras: Cameras
    ) -> RolloutContext:
        """With reference photos. Their cameras are not pooled."""
        moved = weights_cameras(cameras, self.first_camera, self.camera_scale)
        return replace(
            self,
            reference_latents=latents,
            reference_viewmats=moved.viewmats[None],
            reference_Ks=normalised_Ks(moved)[None],
            reference_cameras=cameras,
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
        are padding, which then stands still. is_first: whether the frames start the roll-out.
        latent_frames: how many these are; by default as many as the opacity says.
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
        )


def clip_conditions(
    opacity: Float[Tensor, "batch frames height width"],
    cameras: Sequence[Cameras],
    camera_scales: Sequence[float],
    text: Float[Tensor, "batch tokens width"],
    reference_cameras: Sequence[Cameras],
    temporal_factor: int,
) -> Conditions:
    """What ``RolloutContext`` makes of a whole clip, of several at once, on the device of the
    opacity.

    cameras, reference_cameras: of each clip, on the CPU; all clips have as many frames and
    references. Latents of the references are still without channels.
    """
    if (
        len({(part.model, part.width, part.height) for part in (*cameras, *reference_cameras)}) > 1
        and len(cameras) > 1
    ):
        rows = zip(
            opacity.split(1), cameras, camera_scales, text.split(1), reference_cameras, strict=True
        )
        return stack_conditions(
            [clip_conditions(o, [c], [s], t, [r], temporal_factor) for o, c, s, t, r in rows]
        )
    batch, device = len(cameras), opacity.device
    first = concatenate([part[:1] for part in cameras])
    scales = torch.tensor(camera_scales, dtype=torch.float64)

    def moved(views: Cameras) -> Cameras:
        each = torch.arange(batch).repeat_interleave(len(views) // batch)
        return weights_cameras(views, first[each], scales[each])

    members = group_members(len(cameras[0]), temporal_factor, is_first=True)
    targets = moved(mean_cameras(concatenate([part[members] for part in cameras]), temporal_factor))
    conditions = Conditions(
        opacity=opacity,
        rays=ray_map(targets.to(device)).unflatten(0, (batch, -1)),
        viewmats=targets.viewmats.unflatten(0, (batch, -1)).to(device),
        Ks=normalised_Ks(targets).unflatten(0, (batch, -1)).to(device),
        text=text.to(device),
    )
    if not len(reference_cameras[0]):
        return conditions
    references = moved(concatenate(reference_cameras))
    return replace(
        conditions,
        reference_latents=torch.zeros(batch, 0, len(reference_cameras[0]), 1, 1, device=device),
        reference_viewmats=references.viewmats.unflatten(0, (batch, -1)).to(device),
        reference_Ks=normalised_Ks(references).unflatten(0, (batch, -1)).to(device),
    )


def stack_conditions(parts: Sequence[Conditions]) -> Conditions:
    """One batch of several; all have as many frames and references, none of which is padding."""
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
