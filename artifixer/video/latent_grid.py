"""Conversion between numbers of pixel and latent frames, for the configs of all autoencoders."""

from __future__ import annotations


class LatentGrid:
    """Latent frame 0 represents one pixel frame, every later one ``temporal_factor`` of them.

    Subclasses have ``spatial_factor`` (pixels per latent along each side) and ``temporal_factor``.
    """

    temporal_factor: int

    def latent_frames(self, frames: int) -> int:
        """Latent frames of ``frames`` pixel frames, including an incomplete last group."""
        return 1 + -(-(frames - 1) // self.temporal_factor)

    def pixel_frames(self, latent_frames: int) -> int:
        """Pixel frames of a clip of ``latent_frames`` latent frames."""
        return 1 + self.temporal_factor * (latent_frames - 1)
