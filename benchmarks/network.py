"""CPU time of one call of the video network beside diffusers' Wan transformer with the same
weights.

    python benchmarks/network.py [--rounds 15] [--width 256] [--layers 4] [--latents 5x32x48]
    [--references 6]

Both networks take the same latents and text, in turn, in one process on one thread; medians of CPU
time. The bar: without opacity, rays and references at most 1.15 times diffusers. Then the
additional cost of opacity, rays and references, with text and references cached as in a rollout.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is loaded

import torch
from torch import Tensor

from artifixer.video.checkpoints.release_names import release_name
from artifixer.video.conditions import Conditions
from artifixer.video.initialise import initialise
from artifixer.video.transformer import VideoTransformer
from artifixer.video.transformer_config import VideoTransformerConfig


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--latents", default="5x32x48", help="frames x height x width")
    parser.add_argument("--references", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    frames, height, width = map(int, arguments.latents.split("x"))
    config = VideoTransformerConfig(
        width=arguments.width,
        ffn_width=4 * arguments.width,
        heads=arguments.width // 64,
        layers=arguments.layers,
        text_width=256,
        conditioning_place="none",
    )
    generator = torch.Generator().manual_seed(0)
    plain, full = (
        network_of(config),
        network_of(replace(config, conditioning_place="before_attention")),
    )
    theirs = diffusers_twin(plain)
    latents = torch.randn(1, config.latent_channels, frames, height, width, generator=generator)
    timesteps = torch.tensor([625.0])
    conditions = random_conditions(config, latents.shape, arguments.references, generator)
    text_only = conditions.drop(references=True)
    memory, text_memory = (
        full.cross_attention_cache(conditions),
        full.cross_attention_cache(text_only),
    )
    calls: dict[str, Callable[[], Tensor]] = {
        "diffusers WanTransformer3DModel": lambda: theirs(
            latents, timesteps, conditions.text, return_dict=False
        )[0],
        "ours, the same network": lambda: plain(latents, timesteps, text_only),
        "with opacity and rays, text cached": lambda: full(
            latents, timesteps, text_only, cross_attention_cache=text_memory
        ),
        f"and {arguments.references} references": lambda: full(
            latents, timesteps, conditions, cross_attention_cache=memory
        ),
    }
    with torch.no_grad():
        first, second = (call() for call in list(calls.values())[:2])
        print(
            f"{frames}x{height}x{width} latents, width {config.width}, {config.layers} layers; "
            "outputs differ by",
            end=" ",
        )
        print(f"{(first - second).abs().max():.1e} of {first.abs().max():.1e}")
        seconds = interleaved(list(calls.values()), arguments.rounds)
    for name, values in zip(calls, seconds, strict=True):
        ratio = statistics.median(values) / statistics.median(seconds[0])
        print(
            f"{name:42s} {1000 * statistics.median(values):8.1f} ms  {ratio:5.2f} times diffusers"
        )


def interleaved(calls: list[Callable[[], Tensor]], rounds: int) -> list[list[float]]:
    """CPU seconds of each call in each round, interleaved, after one warm-up round."""
    seconds: list[list[float]] = [[] for _ in calls]
    for number in range(rounds + 1):
        for call, values in zip(calls, seconds, strict=True):
            started = time.process_time()
            call()
            if number:
                values.append(time.process_time() - started)
    return seconds


def network_of(config: VideoTransformerConfig) -> VideoTransformer:
    """With random weights."""
    network = VideoTransformer(config)
    initialise(network, torch.Generator().manual_seed(1), zeros=False)
    return network.eval()


def diffusers_twin(network: VideoTransformer) -> Any:
    """Diffusers' transformer with the weights of a network without opacity and rays."""
    from diffusers import WanTransformer3DModel

    config = network.config
    theirs: Any = WanTransformer3DModel(
        patch_size=(1, config.patch_size, config.patch_size),
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        text_dim=config.text_width,
        freq_dim=config.frequency_width,
        ffn_dim=config.ffn_width,
        num_layers=config.layers,
        eps=config.eps,
    )
    weights = {release_name(name): value for name, value in network.state_dict().items()}
    theirs.load_state_dict(
        {name: value for name, value in weights.items() if name in theirs.state_dict()}
    )
    return theirs.eval()


def random_conditions(
    config: VideoTransformerConfig, shape: torch.Size, references: int, generator: torch.Generator
) -> Conditions:
    """Conditions for latents of this shape; the cameras are in a row."""
    batch, channels, frames, height, width = shape
    size = (height * config.spatial_factor, width * config.spatial_factor)

    def cameras(views: int) -> tuple[Tensor, Tensor]:
        viewmats = torch.eye(4).repeat(batch, views, 1, 1)
        viewmats[..., 0, 3] = torch.linspace(0, 0.1, views)
        return viewmats, torch.diag(torch.tensor([1.2, 1.2, 1.0])).repeat(batch, views, 1, 1)

    viewmats, Ks = cameras(frames)
    reference_viewmats, reference_Ks = cameras(references)
    return Conditions(
        opacity=torch.rand(
            batch, 1 + config.temporal_factor * (frames - 1), *size, generator=generator
        ),
        rays=torch.randn(batch, frames, *size, 6, generator=generator),
        viewmats=viewmats,
        Ks=Ks,
        text=torch.randn(batch, config.text_tokens, config.text_width, generator=generator),
        reference_latents=torch.randn(
            batch, channels, references, height, width, generator=generator
        ),
        reference_viewmats=reference_viewmats,
        reference_Ks=reference_Ks,
    )


if __name__ == "__main__":
    main()
