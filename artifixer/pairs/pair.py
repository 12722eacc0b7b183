"""``TrainingPair``: one training sample: a degraded clip, the clean clip, and reference photos of
the same scene.

Pixels are uint8, since all inputs of the video model are quantised to 8 bit. Layouts and units are
those of photos and renders; ``video/vae.py`` converts to the video model's layout and range.
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
    """Renders and photos of one clip with the conditions of the model."""

    name: str
    """Unique in its data set."""

    clean_frames: UInt8[Tensor, "frames height width 3"]
    """Photos of the clip."""

    renders: UInt8[Tensor, "frames height width 3"]
    """Renders of a sparse reconstruction from the same cameras, premultiplied by opacity, on
    black."""

    opacity: UInt8[Tensor, "frames height width"]
    """Opacity of the renders, 255 where opaque."""

    cameras: Cameras
    """Cameras of the clip, at the frames' size, in world units."""

    reference_photos: UInt8[Tensor, "views height width 3"]
    """All training photos of the reconstruction, in the order of the capture. Training draws a
    subset."""

    reference_cameras: Cameras
    """Cameras of the reference photos."""

    camera_scale: float
    """Factor on camera translations for the video model (``scenes/scale.py``)."""

    camera_scale_kind: ScaleKind
    """Kind of the camera scale."""

    caption: str | None = None
    """Description of the scene."""

    caption_embedding: Float[Tensor, "text_tokens text_width"] | None = None
    """Embedding of the caption."""

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
        """``count`` frames starting at ``first``, with all references."""
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
        """The same clip with these reference photos only, in the given order; may be empty."""
        chosen = torch.as_tensor(list(indices), dtype=torch.int64)
        return replace(
            self,
            reference_photos=self.reference_photos[chosen],
            reference_cameras=self.reference_cameras[chosen],
        )

    def with_pixels_on(self, device: torch.device | str) -> TrainingPair:
        """The same pair with its pixels on a device; the cameras are not moved."""
        if torch.device(device) == self.renders.device:
            return self
        names = ("clean_frames", "renders", "opacity", "reference_photos")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})
