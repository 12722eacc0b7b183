"""Arithmetic of the network's calls.

One call on a block of n tokens (T text tokens, R reference tokens, K tokens attended to, width D,
feed-forward width F, C values of opacity and rays per token, P values per token in and out) takes,
in multiplications with addition:

    layers * (6 n D^2 + 2 n K D + 2 n (T + R) D + 2 n D F + n C D) + 2 n P D

K grows up to the window. Keys and values of text and references, which are computed once per
rollout, and all operations but products are left out. A multiplication with addition counts as two
operations.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch

from artifixer.video.model import ModelConfig


def call_operations(
    config: ModelConfig, tokens_per_frame: int, attended_frames: int, references: int
) -> float:
    """Multiplications and additions of one call on one block; see the formula above."""
    network = config.transformer
    n, K = config.block_frames * tokens_per_frame, attended_frames * tokens_per_frame
    D, C = network.width, network.opacity_channels + network.ray_channels
    P = network.latent_channels * network.patch_size**2
    others = network.text_tokens + references * tokens_per_frame
    layer = (
        6 * n * D**2
        + 2 * n * K * D
        + 2 * n * others * D
        + 2 * n * D * network.ffn_width
        + n * C * D
    )
    return 2 * (network.layers * layer + 2 * n * P * D)


def clip_operations(
    config: ModelConfig, steps_per_block: Sequence[float], tokens_per_frame: int, references: int
) -> float:
    """Operations of all calls of a rollout; ``steps_per_block``: calls on each block."""
    total = 0.0
    for block, steps in enumerate(steps_per_block):
        attended = min((block + 1) * config.block_frames, config.window_frames)
        total += steps * call_operations(config, tokens_per_frame, attended, references)
    return total


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product, best of several."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(8):
        started = time.perf_counter()
        (a @ b).sum().item()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best
