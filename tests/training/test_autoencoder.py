"""The autoencoder's training: better than its start, and statistics that normalise its latents."""

from __future__ import annotations

import io

import pytest
import torch
from made_pairs import MadePairs

from artifixer.runtime.progress import Progress
from artifixer.training.autoencoder import AutoencoderStage, AutoencoderTraining, pixel_gains
from artifixer.training.loop import LoopConfig, train
from artifixer.video.small_autoencoder import SmallAutoencoder, SmallAutoencoderConfig
from artifixer.video.vae import Vae, frames_to_video

CONFIG = SmallAutoencoderConfig(width=16, encoder_width=16, depth=1, z_dim=4)
SETTINGS = AutoencoderTraining(
    frames=5, learning_rate=5e-3, latent_noise=0.0, render_fraction=0.0, gradient_weight=0.0
)


def new_stage(pairs: MadePairs) -> AutoencoderStage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = SmallAutoencoder(CONFIG)
    return AutoencoderStage(network, SETTINGS, pairs, seed=0, compute="float32")


def squared_error(vae: Vae, pairs: MadePairs) -> float:
    videos = [frames_to_video(pair.clean_frames) for pair in pairs.pairs]
    return sum(
        float((vae.decode(vae.encode(video)) - video).square().mean()) for video in videos
    ) / len(videos)


def test_training_improves_on_principal_components(tmp_path):
    pairs = MadePairs(frames=9)
    stage = new_stage(pairs)
    start = squared_error(stage.trained_vae(pairs, seed=0), pairs)
    stage.network.train().requires_grad_(True)
    train(
        stage,
        pairs,
        LoopConfig(steps=60, batch=2, cooldown=0.5),
        tmp_path,
        Progress(output=io.StringIO()),
    )
    vae = stage.trained_vae(pairs, seed=0)
    assert squared_error(vae, pairs) < 0.9 * start
    latents = torch.cat(
        [vae.encode(frames_to_video(pair.clean_frames)).flatten(2) for pair in pairs.pairs], dim=2
    )
    assert latents.std(dim=(0, 2)) == pytest.approx(torch.ones(4), abs=0.3)


def test_pixel_gains_follow_the_decoder():
    network = SmallAutoencoder(
        SmallAutoencoderConfig(width=8, encoder_width=8, depth=1, z_dim=2)
    ).requires_grad_(False)
    network.encoder.zero_output()
    network.decoder.zero_output()
    torch.nn.init.constant_(network.decoder.linear.bias, 0.0)
    network.decoder.linear.weight[:, 0], network.decoder.linear.weight[:, 1] = 0.03, 0.01
    video = frames_to_video(MadePairs(count=1, frames=5).pairs[0].clean_frames)
    gains = pixel_gains(Vae(network.config, network), [0.1 * video])
    # squares of 3 and 1, of mean 1
    assert gains == pytest.approx(torch.tensor([1.8, 0.2]), rel=0.2)
