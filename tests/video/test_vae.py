"""The autoencoder: against diffusers, the release's tensors, and itself cut into pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from artifixer.video.vae import (
    StreamingDecoder,
    StreamingEncoder,
    Vae,
    VaeConfig,
    build_vae,
    frames_to_bytes,
    frames_to_video,
    video_to_frames,
)
from tests.video.parity_cases import cases_of, manifest_of, read_case

#: float32 on CPU against the release's own modules.
PARITY_TOLERANCE = 1e-4

#: oneDNN sums a convolution in another order than torch's fallback; outputs are of order one.
CONVOLUTION_TOLERANCE = 1e-5

SMALL = VaeConfig(base_dim=4, num_res_blocks=1)


def random_vae(config: VaeConfig = SMALL) -> Vae:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_vae(config)


def random_video(frames: int, size: int = 16, batch: int = 1) -> torch.Tensor:
    return (
        torch.rand(batch, 3, frames, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    )


def test_factors_come_from_the_config():
    assert (VaeConfig().spatial_factor, VaeConfig().temporal_factor) == (8, 4)
    small = VaeConfig(
        dim_mult=(1, 2, 2), temporal_downsample=(True, False), base_dim=4, num_res_blocks=1
    )
    assert (small.spatial_factor, small.temporal_factor) == (4, 2)
    assert [small.latent_frames(n) for n in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
    vae, video = random_vae(small), random_video(5)
    latents = vae.encode(video)
    assert latents.shape == (1, 16, 3, 4, 4)
    assert vae.decode(latents).shape == video.shape


def test_pieces_give_the_bits_of_the_whole_clip():
    vae, video = random_vae(), random_video(21, batch=2)
    whole = vae.encode(video)
    encoder = StreamingEncoder(vae)
    assert torch.equal(
        torch.cat([encoder.push(piece) for piece in video.split([5, 12, 4], dim=2)], dim=2), whole
    )
    decoder = StreamingDecoder(vae)
    assert torch.equal(
        torch.cat([decoder.push(piece) for piece in whole.split([2, 1, 3], dim=2)], dim=2),
        vae.decode(whole),
    )


def test_equals_diffusers_own_whole_clip_calls():
    vae, video = random_vae(), random_video(9)
    latents = vae.encode(video)
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (SMALL.latents_mean, SMALL.latents_std)
    )
    expected = (vae.network.encode(video).latent_dist.mode() - mean) / std
    torch.testing.assert_close(latents, expected, rtol=0, atol=CONVOLUTION_TOLERANCE)
    decoded = vae.network.decode(latents * std + mean).sample
    torch.testing.assert_close(vae.decode(latents), decoded, rtol=0, atol=CONVOLUTION_TOLERANCE)


def test_fast_convolutions_have_the_values_and_gradients_of_the_plain_ones():
    vae, video = random_vae(), random_video(5)
    video.requires_grad_()

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        result = vae.encode(video)
        (gradient,) = torch.autograd.grad(result.square().sum(), video)
        return result, gradient

    fast = run()
    for module in vae.network.modules():
        module.__dict__.pop("_conv_forward", None)
    plain = run()
    torch.testing.assert_close(fast[0], plain[0], rtol=0, atol=CONVOLUTION_TOLERANCE)
    torch.testing.assert_close(fast[1], plain[1], rtol=1e-3, atol=CONVOLUTION_TOLERANCE)


def test_stills_do_not_see_each_other():
    vae, photos = random_vae(), random_video(3)
    latents = vae.encode_stills(photos)
    assert latents.shape == (1, 16, 3, 2, 2)
    assert torch.equal(latents[:, :, 1:2], vae.encode(photos[:, :, 1:2]))


def test_incomplete_groups_are_refused():
    encoder = StreamingEncoder(random_vae())
    with pytest.raises(AssertionError, match="groups of 4"):
        encoder.push(random_video(4))


def test_bytes_survive_the_layout_change_and_back():
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, -1, -1, 3)
    video = frames_to_video(frames)
    assert video.shape == (1, 3, 2, 16, 16)
    assert (video.min(), video.max()) == (-1, 1)
    assert torch.equal(frames_to_bytes(video_to_frames(video)), frames)
    assert torch.equal(frames_to_video(frames.float() / 255), video)


def test_release_clips_encode_and_decode_to_its_tensors(parity_folder: Path):
    values = dict(manifest_of(parity_folder)["vae"])
    values["temporal_downsample"] = values.pop("temperal_downsample")
    values.pop("attn_scales", None)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    vae = build_vae(VaeConfig(**values))
    vae.network.load_state_dict(read_case(parity_folder, "weights_vae"))
    tensors = [
        "rgb_rendered",
        "condition",
        "rgb_neighbors",
        "neighbors_condition",
        "latents",
        "video",
    ]
    for name in cases_of(parity_folder, "[bc]", tensors):
        case = read_case(parity_folder, name)
        pairs = [
            (
                vae.encode(frames_to_video(case["rgb_rendered"][0].permute(0, 2, 3, 1))),
                case["condition"],
            ),
            (
                vae.encode_stills(frames_to_video(case["rgb_neighbors"][0].permute(0, 2, 3, 1))),
                case["neighbors_condition"],
            ),
            (video_to_frames(vae.decode(case["latents"])), case["video"][0].permute(0, 2, 3, 1)),
        ]
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=PARITY_TOLERANCE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_agrees_with_cpu():
    vae, video = random_vae(), random_video(9)
    expected = vae.encode(video)
    with torch.backends.cudnn.flags(allow_tf32=False):
        ours = vae.to("cuda").encode(video.cuda()).cpu()
    torch.testing.assert_close(ours, expected, rtol=0, atol=PARITY_TOLERANCE)
