"""The architecture of the video transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class VideoTransformerConfig:
    """The architecture; flat, as in a model's ``config.json``."""

    width: int
    """Channels of the tokens, a multiple of ``heads``."""

    ffn_width: int
    """Hidden channels of the feed-forward networks."""

    heads: int
    """Attention heads; their width is a multiple of 8."""

    layers: int
    """Number of layers."""

    latent_channels: int = 16
    """Channels of the latents."""

    text_width: int = 4096
    """Channels of the text embedding."""

    text_tokens: int = 512
    """Tokens of the text embedding."""

    frequency_width: int = 256
    """Channels of the sinusoidal embedding of noise levels; even."""

    patch_size: int = 2
    """Latents per token along each side."""

    spatial_factor: int = 8
    """Pixels per latent along each side."""

    temporal_factor: int = 4
    """Pixel frames per latent frame, except the first one."""

    conditioning_place: Literal["before_attention", "after_attention", "none"] = "before_attention"
    """Where opacity and rays are added. ``before_attention``: to the modulated input of
    self-attention, as in the public weights. ``after_attention``: to the normed tokens after
    self-attention (paper equations 3 and 4 read literally). ``none``: nowhere, which is Wan 2.1
    with references."""

    noise_free_skip: bool = False
    """The layers predict velocity - noisy latents + opacity * render latents, which contains no
    noise at sigma 1."""

    eps: float = 1e-6
    """Epsilon of the norms."""

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
