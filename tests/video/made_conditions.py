"""Random conditions for small models."""

from __future__ import annotations

import torch

from artifixer.video.conditions import Conditions
from artifixer.video.model import ModelConfig


def made_conditions(
    config: ModelConfig,
    latent_frames: int,
    width: int,
    height: int,
    references: int = 0,
    seed: int = 0,
) -> Conditions:
    """Conditions of a clip of frames of this many pixels, from its first frame on; cameras a little
    turned and moved.
    """
    random = torch.Generator().manual_seed(seed)
    factor = config.vae.spatial_factor
    Ks = torch.eye(3).expand(1, latent_frames, 3, 3)
    viewmats = torch.eye(4).repeat(1, max(latent_frames, references), 1, 1)
    viewmats[..., :3, 3] = 0.1 * torch.randn(1, max(latent_frames, references), 3, generator=random)
    views = slice(0, references)
    return Conditions(
        opacity=torch.rand(
            1, config.vae.pixel_frames(latent_frames), height, width, generator=random
        ),
        rays=torch.randn(1, latent_frames, height, width, 6, generator=random),
        viewmats=viewmats[:, :latent_frames],
        Ks=Ks,
        text=torch.zeros(1, config.text.tokens, config.text.width),
        reference_latents=torch.randn(
            1, config.vae.z_dim, references, height // factor, width // factor, generator=random
        )
        if references
        else None,
        reference_viewmats=viewmats[:, views] if references else None,
        reference_Ks=torch.eye(3).expand(1, references, 3, 3) if references else None,
    )
