"""Rollouts and the teacher against the public release's own: every call of the network, latents,
caches and decoded video.

Sizes, steps and windows come from the manifest. A set of cases may be of any architecture and
length, and lack some of the tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from artifixer.geometry.cameras import DISTORTION_NAMES, Cameras
from artifixer.video.cache import RingCache
from artifixer.video.checkpoints.loading import load_into
from artifixer.video.checkpoints.release_names import our_name
from artifixer.video.checkpoints.tensor_files import open_tensors
from artifixer.video.conditions import Conditions, RolloutContext
from artifixer.video.sample import BlockInput, NetworkCall, Noise, SampleConfig, sample_blocks
from artifixer.video.teacher import TeacherConfig, sample_bidirectional
from artifixer.video.transformer import VideoTransformer
from artifixer.video.vae import (
    StreamingDecoder,
    StreamingEncoder,
    Vae,
    VaeConfig,
    build_vae,
    frames_to_video,
    video_to_frames,
)
from tests.video.parity_cases import (
    cases_of,
    exact_products,
    manifest_of,
    read_case,
    transformer_config,
)

#: float32, after up to dozens of network calls that feed each other.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Oracle:
    """The stored set: what it says of itself, and the models that made it."""

    folder: Path
    manifest: dict[str, Any]
    network: VideoTransformer
    vae: Vae
    device: str

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return read_case(self.folder, name, self.device), self.manifest["cases"][name]["meta"]


@pytest.fixture(scope="module", params=["cpu", "cuda"])
def oracle(parity_folder: Path, request: pytest.FixtureRequest) -> Iterator[Oracle]:
    with exact_products(request.param):
        yield opened(parity_folder, request.param)


def opened(parity_folder: Path, device: str) -> Oracle:
    manifest = manifest_of(parity_folder)
    vae_values = dict(manifest["vae"])
    vae_values["temporal_downsample"] = vae_values.pop("temperal_downsample")
    vae_values.pop("attn_scales", None)
    vae_values = {k: tuple(v) if isinstance(v, list) else v for k, v in vae_values.items()}
    vae = build_vae(VaeConfig(**vae_values))
    vae.network.load_state_dict(read_case(parity_folder, "weights_vae"))
    config = transformer_config(manifest)
    with torch.device("meta"):
        network = VideoTransformer(config)
    load_into(
        network, open_tensors(parity_folder / "weights_transformer.safetensors").renamed(our_name)
    )
    return Oracle(parity_folder, manifest, network.eval().to(device), vae.to(device), device)


def conditions_of(stored: dict[str, Tensor]) -> Conditions:
    return Conditions(
        opacity=stored["opacity"],
        rays=stored["camera_rays"],
        viewmats=stored["w2cs"],
        Ks=stored["Ks"],
        text=stored["text"],
        reference_latents=stored.get("neighbors_condition"),
        reference_viewmats=stored.get("neighbor_w2cs"),
        reference_Ks=stored.get("neighbor_Ks"),
    )


def config_of(meta: dict[str, Any]) -> SampleConfig:
    return SampleConfig(
        steps=meta["num_inference_steps"],
        block_frames=meta["frames_per_block"],
        window_frames=meta["local_attn_size"],
        sink_frames=meta["sink_size"],
    )


def stored_noise(stored: dict[str, Tensor]) -> Noise:
    def noise(block: int, step: int, shape: torch.Size) -> Tensor:
        drawn = stored[f"noise_b{block}_s{step}"]
        assert drawn.shape == shape
        return drawn

    return noise


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(
        ours.cpu(), theirs.cpu(), rtol=0, atol=TOLERANCE, msg=lambda text: f"{what}: {text}"
    )


def test_every_call_of_the_rollouts(oracle):
    for name in cases_of(
        oracle.folder, "b", ["condition", "latents", "opacity", "text", "camera_rays", "w2cs", "Ks"]
    ):
        stored, meta = oracle.read(name)
        config, whole = config_of(meta), conditions_of(stored)
        calls: list[NetworkCall] = []
        caches: list[RingCache] = []
        hook = oracle.network.register_forward_pre_hook(
            lambda _, args, options: caches.append(options["cache"]),  # noqa: B023
            with_kwargs=True,
        )
        size = config.block_frames
        blocks = [
            BlockInput(index * size, piece, whole.latent_slice(index * size, size))
            for index, piece in enumerate(stored["condition"].split(size, dim=2))
        ]
        latents = torch.cat(
            list(
                sample_blocks(
                    oracle.network, blocks, config, stored_noise(stored), observe=calls.append
                )
            ),
            dim=2,
        )
        hook.remove()
        assert len(calls) == meta["num_blocks"] * meta["num_inference_steps"]
        for call in calls:
            place = f"b{call.block}_s{call.step}"
            for letter, value in (
                ("x", call.noisy_latents),
                ("t", call.timesteps),
                ("v", call.velocity),
            ):
                if f"{letter}_{place}" in stored:
                    close(value, stored[f"{letter}_{place}"], f"{name} {letter}_{place}")
        close(latents, stored["latents"], f"{name} latents")
        if "cache_layer0_k" in stored:
            for ours, part in zip(
                unrolled(caches[-1], whole.latent_frames), ("k", "v"), strict=True
            ):
                close(
                    ours, stored[f"cache_layer0_{part}"][:, : ours.shape[1]], f"{name} cache {part}"
                )


def unrolled(cache: RingCache, frames: int) -> Tensor:
    """Keys and values of layer 0 in the release's order: sink frames, then the latest others from
    old to new.
    """
    latest = range(
        max(cache.sink_frames, frames - (cache.window_frames - cache.sink_frames)), frames
    )
    ring = [
        cache.sink_frames + (frame - cache.sink_frames) % (cache.window_frames - cache.sink_frames)
        for frame in latest
    ]
    by_frame = cache.slots[0].unflatten(2, (cache.window_frames, -1))
    return by_frame[:, :, [*range(cache.sink_frames), *ring]].flatten(2, 3)


def test_whole_flow_of_the_rollouts(oracle):
    """From renders, opacity and poses to video: encoding, conditions, rollout and decoding, all of
    them block by block.
    """
    for name in cases_of(oracle.folder, "b", ["c2w", "rgb_rendered", "opacity", "text", "video"]):
        stored, meta = oracle.read(name)
        config, targets = config_of(meta), cameras_of(oracle, stored["c2w"])
        context = RolloutContext(
            targets[0],
            oracle.manifest["camera"]["scale"],
            oracle.vae.config.temporal_factor,
            stored["text"].cpu(),
        )
        if "neighbor_c2w" in stored:
            photos = oracle.vae.encode_stills(
                frames_to_video(stored["rgb_neighbors"][0].permute(0, 2, 3, 1))
            )
            context = context.with_references(
                photos.cpu(), cameras_of(oracle, stored["neighbor_c2w"])
            )
        encoder, decoder = StreamingEncoder(oracle.vae), StreamingDecoder(oracle.vae)

        def blocks(
            stored=stored,
            meta=meta,
            targets=targets,
            encoder=encoder,
            context=context,
            config=config,
        ):
            ends = [
                oracle.vae.config.pixel_frames(config.block_frames * (index + 1))
                for index in range(meta["num_blocks"])
            ]
            for index, (start, end) in enumerate(itertools.pairwise([0, *ends])):
                video = frames_to_video(stored["rgb_rendered"][0, start:end].permute(0, 2, 3, 1))
                conditions = context.conditions(
                    stored["opacity"][0, start:end].cpu(), targets[start:end], is_first=index == 0
                )
                yield BlockInput(
                    index * config.block_frames, encoder.push(video), conditions.to(oracle.device)
                )

        sampled = sample_blocks(oracle.network, blocks(), config, stored_noise(stored))
        video = torch.cat([video_to_frames(decoder.push(latents)) for latents in sampled])
        close(video, stored["video"][0].permute(0, 2, 3, 1), f"{name} video")


def cameras_of(oracle: Oracle, camera_to_world: Tensor) -> Cameras:
    """Poses in OpenGL axes with the set's one lens, at its pixel size."""
    lens = oracle.manifest["camera"]["intrinsics"]
    height, width = oracle.manifest["pixels"]
    count = len(camera_to_world)
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1], dtype=torch.float64))
    Ks = torch.tensor(
        [[lens["fl_x"], 0, lens["cx"]], [0, lens["fl_y"], lens["cy"]], [0, 0, 1]]
    ).repeat(count, 1, 1)
    distortion = torch.tensor([lens.get(name, 0.0) for name in DISTORTION_NAMES]).repeat(count, 1)
    viewmats = torch.linalg.inv(camera_to_world.cpu().double() @ flip).float()
    return Cameras(viewmats, Ks, lens["w"], lens["h"], "pinhole", distortion).resized(width, height)


def test_teacher(oracle):
    for name in cases_of(oracle.folder, "c"):
        stored, meta = oracle.read(name)
        config = TeacherConfig(
            steps=meta["num_inference_steps"], guidance=meta["text_guidance_scale"]
        )
        calls: list[NetworkCall] = []
        latents = sample_bidirectional(
            oracle.network,
            stored["condition"],
            conditions_of(stored),
            config,
            lambda block, step, shape: stored["noise"],  # noqa: B023
            negative_text=stored["negative_text"],
            observe=calls.append,
        )
        close(
            torch.cat([call.timesteps for call in calls]), stored["timesteps"], f"{name} timesteps"
        )
        close(torch.tensor([call.sigma for call in calls]), stored["sigmas"][:-1], f"{name} sigmas")
        close(latents, stored["latents"], f"{name} latents")
        close(
            video_to_frames(oracle.vae.decode(latents)),
            stored["video"][0].permute(0, 2, 3, 1),
            f"{name} video",
        )
