"""How pixel frames are counted in latent frames: shared by the configs of all autoencoders."""

from __future__ import annotations


class LatentGrid:
    """Latent frame 0 stands for one pixel frame, every later one for ``temporal_factor`` of them.

    A config that inherits this offers ``spatial_factor`` (pixels per latent, along each side) and
    ``temporal_factor``.
    """

    temporal_factor: int

    def latent_frames(self, frames: int) -> int:
        """Latent frames that ``frames`` pixel frames need; a last incomplete group
        counts as one.
        """
        return 1 + -(-(frames - 1) // self.temporal_factor)

    def pixel_frames(self, latent_frames: int) -> int:
        """Pixel frames of a clip that starts with latent frame 0."""
        return 1 + self.temporal_factor * (latent_frames - 1)
