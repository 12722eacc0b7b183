"""The small autoencoder: pieces equal the whole, causality, and its start from principal
components.
"""

from __future__ import annotations

import pytest
import torch

from artifixer.video.small_autoencoder import SmallAutoencoder, SmallAutoencoderConfig
from artifixer.video.vae import StreamingDecoder, StreamingEncoder, Vae, build_vae

#: One pass folds time into the batch of its convolutions, pieces do not: float32 sums in another
#: order.
FOLDING_TOLERANCE = 1e-5

SMALL = SmallAutoencoderConfig(
    width=8, encoder_width=8, depth=3, z_dim=6, latents_mean=(0.1,) * 6, latents_std=(2.0,) * 6
)


def random_vae(config: SmallAutoencoderConfig = SMALL) -> Vae:
    """All weights are random, also those that start at zero, so that every path counts."""
    vae = build_vae(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in vae.network.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return vae


def random_video(frames: int, batch: int = 1, width: int = 24, height: int = 16) -> torch.Tensor:
    return (
        torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2
        - 1
    )


def test_pieces_give_the_bits_of_the_whole_clip():
    vae, video = random_vae(), random_video(21, batch=2)
    whole = vae.encode(video)
    assert whole.shape == (2, 6, 6, 4, 6)
    encoder = StreamingEncoder(vae)
    assert torch.equal(
        torch.cat([encoder.push(piece) for piece in video.split([5, 12, 4], dim=2)], dim=2), whole
    )
    decoder = StreamingDecoder(vae)
    decoded = vae.decode(whole)
    assert decoded.shape == video.shape
    assert torch.equal(
        torch.cat([decoder.push(piece) for piece in whole.split([2, 1, 3], dim=2)], dim=2), decoded
    )


def test_one_pass_over_the_clip_is_what_the_pieces_give():
    vae, video = random_vae(), random_video(13)
    latents = vae.network.encode(video)
    mean, std = 0.1, 2.0
    torch.testing.assert_close(
        vae.encode(video), (latents - mean) / std, rtol=0, atol=FOLDING_TOLERANCE
    )
    torch.testing.assert_close(
        vae.decode((latents - mean) / std),
        vae.network.decode(latents).clamp(-1, 1),
        rtol=0,
        atol=FOLDING_TOLERANCE,
    )


def test_latents_do_not_depend_on_later_frames_but_on_earlier_ones():
    vae, video = random_vae(), random_video(13)
    latents = vae.encode(video)
    changed = video.clone()
    changed[:, :, 9:] = 0
    assert torch.equal(vae.encode(changed)[:, :, :3], latents[:, :, :3])
    changed = video.clone()
    changed[:, :, :1] = 0
    assert not torch.equal(vae.encode(changed)[:, :, 1], latents[:, :, 1])


def test_starts_at_the_best_linear_code_of_the_clips():
    video = random_video(13)
    smooth = torch.nn.functional.avg_pool3d(video, (1, 5, 5), 1, (0, 2, 2))
    errors = []
    for z_dim in (4, 16, 192):
        network = SmallAutoencoder(
            SmallAutoencoderConfig(width=8, encoder_width=8, depth=1, z_dim=z_dim)
        ).requires_grad_(False)
        network.initialise(smooth)
        errors.append(float((network.decode(network.encode(smooth)) - smooth).square().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] == pytest.approx(0, abs=1e-9)  # as many channels as values: nothing is lost


def test_config_refuses_statistics_of_another_number_of_channels():
    with pytest.raises(AssertionError, match="6 channels"):
        SmallAutoencoderConfig(z_dim=6, latents_mean=(0.0,) * 5, latents_std=(1.0,) * 6)
