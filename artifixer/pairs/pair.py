"""``TrainingPair``: what one training step reads: a degraded clip, what it should look like, and
photos of the same place.

Pixels are stored as uint8, as everything that enters the video model goes through 8 bit. Layouts
and units are those of the photos and renders they come from; the video model's own layout and range
begin in ``video/vae.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from artifixer.geometry.cameras import Cameras
from artifixer.scenes.scale import ScaleKind


@dataclass(frozen=True)
class TrainingPair:
    """A clip in two states, with what the model may look at.

    name: unique in its data set.
    clean_frames: photos of the clip, ``[frames height width 3]`` uint8.
    renders: what a sparse reconstruction shows from the same cameras, premultiplied by opacity, on
    black; uint8. opacity: of the renders, 255 where opaque; uint8.
    cameras: of the clip, ``frames`` views of the frames' size, in world units.
    reference_photos: all photos the reconstruction was fitted to, ``[views height width 3]`` uint8,
        in the order of the capture; training takes as many as it wants.
    reference_cameras: of these photos.
    camera_scale, camera_scale_kind: factor on camera translations that the video model sees, and
        which of the two kinds it is (``scenes/scale.py``).
    caption: words about the scene, or None. caption_embedding: its embedding ``[tokens width]``, or
    None.
    """

    name: str
    clean_frames: UInt8[Tensor, "frames height width 3"]
    renders: UInt8[Tensor, "frames height width 3"]
    opacity: UInt8[Tensor, "frames height width"]
    cameras: Cameras
    reference_photos: UInt8[Tensor, "views height width 3"]
    reference_cameras: Cameras
    camera_scale: float
    camera_scale_kind: ScaleKind
    caption: str | None = None
    caption_embedding: Float[Tensor, "tokens width"] | None = None

    def __post_init__(self) -> None:
        frames, views = len(self.cameras), len(self.reference_cameras)
        size = (self.cameras.height, self.cameras.width)
        for label, pixels, shape in (
            ("clean_frames", self.clean_frames, (frames, *size, 3)),
            ("renders", self.renders, (frames, *size, 3)),
            ("opacity", self.opacity, (frames, *size)),
            ("reference_photos", self.reference_photos, (views, *size, 3)),
        ):
            assert pixels.dtype == torch.uint8 and pixels.shape == shape, (
                f"{self.name}: {label} {tuple(pixels.shape)} {pixels.dtype}, expected {shape}"
            )
        assert (self.reference_cameras.height, self.reference_cameras.width) == size, (
            f"{self.name}: reference cameras of another size"
        )
        assert self.camera_scale > 0, f"{self.name}: camera scale {self.camera_scale}"

    @property
    def frames(self) -> int:
        """Length of the clip."""
        return len(self.cameras)

    @property
    def views(self) -> int:
        """Number of reference photos."""
        return len(self.reference_cameras)

    def clip(self, first: int, count: int) -> TrainingPair:
        """``count`` frames from ``first`` on, with all references."""
        assert first >= 0 and count > 0 and first + count <= self.frames, (
            f"frames {first} to {first + count} of {self.frames}"
        )
        part = slice(first, first + count)
        return replace(
            self,
            clean_frames=self.clean_frames[part],
            renders=self.renders[part],
            opacity=self.opacity[part],
            cameras=self.cameras[part],
        )

    def with_references(self, indices: Sequence[int]) -> TrainingPair:
        """The same clip with the chosen reference photos only, in the given order; none is
        allowed.
        """
        chosen = torch.as_tensor(list(indices), dtype=torch.int64)
        return replace(
            self,
            reference_photos=self.reference_photos[chosen],
            reference_cameras=self.reference_cameras[chosen],
        )

    def with_pixels_on(self, device: torch.device | str) -> TrainingPair:
        """The same pair with its pictures on a device; cameras stay where they are."""
        if torch.device(device) == self.renders.device:
            return self
        names = ("clean_frames", "renders", "opacity", "reference_photos")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})
