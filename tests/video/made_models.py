"""Small models with random weights, for tests of what surrounds the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from artifixer.video.models import Model, ModelConfig, random_model
from artifixer.video.small_autoencoder import SmallAutoencoderConfig
from artifixer.video.transformer import VideoTransformerConfig
from artifixer.video.vae import VaeConfig

#: Two layers on a small autoencoder.
SMALL = ModelConfig(
    name="small",
    transformer=VideoTransformerConfig(
        width=48,
        ffn_width=64,
        heads=2,
        layers=2,
        latent_channels=6,
        text_width=8,
        text_tokens=4,
        frequency_width=16,
        spatial_factor=4,
    ),
    vae=SmallAutoencoderConfig(width=12, depth=2, encoder_width=12, encoder_depth=2, z_dim=6),
    camera_scale="median_depth",
    takes_text=False,
    steps=2,
    block_frames=2,
    window_frames=6,
    sink_frames=2,
)

#: The same network on a small relative of Wan's autoencoder.
WAN_LIKE = replace(
    SMALL,
    name="wan-like",
    transformer=replace(SMALL.transformer, latent_channels=16, spatial_factor=8),
    vae=VaeConfig(base_dim=4, num_res_blocks=1),
    camera_scale="metric",
    takes_text=True,
)


def made_model(config: ModelConfig = SMALL, seed: int = 0, **options: Any) -> Model:
    """Random weights in every layer."""
    return random_model(config, seed, **options)
