"""The architecture of the video transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VideoTransformerConfig:
    """The architecture; flat, as it stands in a model's json file.

    text_width, text_tokens: of the text embedding. frequency_width: of the sinusoids of a noise
    level. spatial_factor, temporal_factor: pixels per latent; patch_size: latents per token along a
    side.
    conditioning_place: where opacity and rays are added: ``before_attention``: to the modulated
    input of self-attention, as the public weights have it; ``after_attention``: to the normed
    tokens that follow self-attention (paper equations 3 and 4 read literally); ``none``: nowhere,
    which leaves Wan 2.1 with references.
    noise_free_skip: the network predicts velocity - noisy latents + opacity * render latents, which
    has no noise in it at sigma 1.
    """

    width: int
    ffn_width: int
    heads: int
    layers: int
    latent_channels: int = 16
    text_width: int = 4096
    text_tokens: int = 512
    frequency_width: int = 256
    patch_size: int = 2
    spatial_factor: int = 8
    temporal_factor: int = 4
    conditioning_place: Literal["before_attention", "after_attention", "none"] = "before_attention"
    noise_free_skip: bool = False
    eps: float = 1e-6

    def __post_init__(self) -> None:
        assert min(self.width, self.heads, self.layers) >= 1, (
            f"{self.layers} layers of width {self.width} with {self.heads} heads"
        )
        assert self.width % self.heads == 0, (
            f"width {self.width} is not a multiple of {self.heads} heads"
        )
        assert self.head_width % 8 == 0, (
            f"heads of {self.head_width} channels, expected a multiple of 8"
        )
        assert self.frequency_width % 2 == 0, f"frequency width {self.frequency_width} is odd"
        places = ("before_attention", "after_attention", "none")
        assert self.conditioning_place in places, (
            f"conditioning place {self.conditioning_place}, expected one of {', '.join(places)}"
        )

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def token_pixels(self) -> int:
        """Pixels per token along a side."""
        return self.patch_size * self.spatial_factor

    @property
    def opacity_channels(self) -> int:
        """Opacity values per token."""
        return self.temporal_factor * self.token_pixels**2

    @property
    def ray_channels(self) -> int:
        """Ray values per token."""
        return 6 * self.token_pixels**2
