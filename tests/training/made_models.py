"""Models small enough to be trained within a test, and the stages that train them."""

from __future__ import annotations

from dataclasses import replace

import torch
from made_pairs import MadePairs

from artifixer.runtime.seeds import generator
from artifixer.training.autoencoder import with_statistics
from artifixer.training.clips import ClipConfig
from artifixer.training.flow_matching import (
    FlowMatchingKind,
    FlowMatchingStage,
    FlowMatchingTraining,
)
from artifixer.training.job import flow_matching_stage, self_forcing_class
from artifixer.training.self_forcing import SelfForcingStage, SelfForcingTraining
from artifixer.video.flow import FlowSchedule
from artifixer.video.initialise import initialise
from artifixer.video.model import Model, ModelConfig
from artifixer.video.sample import SampleConfig
from artifixer.video.small_autoencoder import SmallAutoencoder, SmallAutoencoderConfig
from artifixer.video.transformer import VideoTransformer
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.vae import Vae, frames_to_video

VAE = SmallAutoencoderConfig(width=8, depth=1, encoder_width=8, z_dim=8)
CONFIG = ModelConfig(
    name="made",
    transformer=VideoTransformerConfig(
        width=48,
        ffn_width=96,
        heads=2,
        layers=2,
        latent_channels=8,
        text_width=4,
        text_tokens=2,
        frequency_width=32,
        spatial_factor=4,
    ),
    vae=VAE,
    camera_scale="median_depth",
    block_frames=2,
    window_frames=6,
    sink_frames=2,
)

#: Every clip whole: nothing is dropped, all three references are there.
WHOLE_CLIPS = ClipConfig(frames=(13,), references=(3, 3), tail_drop=0.0, text_drop=0.0)


def made_model(
    pairs: MadePairs, seed: int = 0, zeros: bool = True, dtype: torch.dtype = torch.float32
) -> Model:
    """The autoencoder is at its start from principal components. zeros: see ``initialise``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallAutoencoder(VAE).requires_grad_(False)
    videos = torch.cat([frames_to_video(pair.clean_frames) for pair in pairs.pairs])
    network.initialise(videos)
    latents = network.encode(videos).transpose(0, 1).flatten(1)
    vae = Vae(with_statistics(VAE, latents.mean(dim=1), latents.std(dim=1)), network)
    transformer = VideoTransformer(CONFIG.transformer)
    initialise(transformer, generator(seed, "made model"), zeros)
    return Model(replace(CONFIG, vae=vae.config), transformer.to(dtype), vae.to(dtype=dtype))


def flow_stage(
    kind: FlowMatchingKind, model: Model, settings: FlowMatchingTraining
) -> FlowMatchingStage:
    return flow_matching_stage(kind, model, settings, seed=0, compute="float32")


def self_forcing_stage(
    student: Model,
    teacher: Model,
    critic: VideoTransformer,
    settings: SelfForcingTraining,
    steps: int = 4,
) -> SelfForcingStage:
    sampling = SampleConfig(
        steps,
        CONFIG.block_frames,
        CONFIG.window_frames,
        CONFIG.sink_frames,
        schedule=FlowSchedule(shift=CONFIG.shift),
    )
    return self_forcing_class(settings)(
        student.transformer,
        critic,
        teacher.transformer,
        student.vae,
        settings,
        sampling,
        seed=0,
        compute="float32",
    )
