"""How much memory a roll-out takes, by part, before anything is loaded; and whether a device has
that much.

In: a model's configuration, the size of its frames, the number of reference photos. Out: bytes.
Weights and caches are exact; what computing takes beside them is a formula with measured factors,
meant to be a little high.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import torch

from artifixer.runtime.errors import InputError
from artifixer.runtime.system import available_memory
from artifixer.video.model import ModelConfig
from artifixer.video.model_files import default_dtype, locate_model
from artifixer.video.model_zoo import NAMED_MODELS
from artifixer.video.transformer import VideoTransformer
from artifixer.video.transformer_config import VideoTransformerConfig
from artifixer.video.vae import AutoencoderConfig, VaeConfig, build_vae

#: Values per pixel and ``base_dim`` that Wan's encoder and decoder hold at their peak, and what a
#: clip's memory keeps (measured).
WAN_ENCODER_PEAK, WAN_DECODER_PEAK, WAN_DECODER_MEMORY = 40, 54, 25

#: Blocks of frames that are under way at the same time: being read, generated, decoded.
BLOCKS_UNDER_WAY = 3

#: What CUDA, cuDNN and the allocator's rounding take beside tensors, bytes.
CUDA_OVERHEAD = 1_500_000_000

GIGABYTE = 1e9

#: Longest sides of smaller frames that an error suggests, in this order.
SUGGESTED_SIZES = (1280, 1024, 960, 832, 640, 512, 384, 256, 192, 128)


@dataclass(frozen=True)
class MemoryPlan:
    """What a roll-out is made of. width, height: of the model's frames, pixels. references: photos.
    offload: layers in host memory. clip_frames: pixel frames of the clips that the teacher makes at
    once, without a cache of frames; None for block by block."""

    width: int
    height: int
    references: int = 6
    dtype: torch.dtype = torch.bfloat16
    offload: bool = False
    clip_frames: int | None = None


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on the device, by part.

    transformer, vae: weights. window: keys and values of the frames that are attended to.
    references: theirs, all photos together. text: keys and values of the prompt. activations: what
    a layer computes with, and a block's conditions. vae_activations: likewise, with what encoder
    and decoder remember of the clip.
    """

    transformer: int
    vae: int
    window: int
    references: int
    text: int
    activations: int
    vae_activations: int

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))


def memory_estimate(config: ModelConfig, plan: MemoryPlan) -> MemoryEstimate:
    """The parts of a roll-out on its device."""
    network, itemsize = config.transformer, plan.dtype.itemsize
    tokens = (plan.width // config.grid) * (plan.height // config.grid)  # per latent frame
    keys_and_values = 2 * network.layers * network.width * itemsize  # per token
    parameters = parameter_count(network)
    if plan.offload:
        per_layer = layer_parameter_count(network)
        parameters -= (network.layers - min(2, network.layers)) * per_layer
    pixels = plan.width * plan.height
    latent_frames = (
        config.block_frames
        if plan.clip_frames is None
        else config.vae.latent_frames(plan.clip_frames)
    )
    window_frames = config.window_frames if plan.clip_frames is None else 0
    frames = latent_frames * config.vae.temporal_factor
    in_flight = BLOCKS_UNDER_WAY * pixels * (frames * (3 * itemsize + 4) + latent_frames * 6 * 4)
    return MemoryEstimate(
        transformer=parameters * itemsize,
        vae=vae_parameter_count(config.vae) * itemsize,
        window=window_frames * tokens * keys_and_values,
        references=plan.references * tokens * keys_and_values,
        text=network.text_tokens * keys_and_values,
        activations=latent_frames * tokens * _bytes_per_token(network, itemsize) + in_flight,
        vae_activations=_vae_activations(config, pixels, frames, itemsize),
    )


def check_memory(
    config: ModelConfig, plan: MemoryPlan, device: torch.device, option: str = "--model"
) -> None:
    """Raise ``InputError`` when the model does not fit into what the device has free: by how much,
    and what would fit.

    option: what named the model, for the message.
    """
    free = free_memory(device)
    estimate = memory_estimate(config, plan)
    needed = estimate.total + _overhead(device)
    if needed <= free:
        return
    parts = ", ".join(
        f"{label} {_gigabytes(value)}"
        for label, value in part_rows(estimate)
        if value >= 0.01 * estimate.total
    )
    fitting = list(_what_fits(config, plan, device, free))
    raise InputError(
        f"{option} {config.name} at {plan.width}x{plan.height} with {plan.references} references "
        f"needs {_gigabytes(needed)} ({parts}), "
        f"{device} has {_gigabytes(free)} free: {_gigabytes(needed - free)} too much; "
        + (f"what would fit: {', '.join(fitting)}" if fitting else "nothing known would fit")
    )


def part_rows(estimate: MemoryEstimate) -> Iterator[tuple[str, int]]:
    """The parts with their names for a reader."""
    yield "weights", estimate.transformer + estimate.vae
    yield "window cache", estimate.window
    yield "reference cache", estimate.references
    yield "text cache", estimate.text
    yield "activations", estimate.activations
    yield "autoencoder", estimate.vae_activations


def free_memory(device: torch.device) -> int:
    """Bytes that the device can still give."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


@lru_cache(maxsize=8)
def parameter_count(config: VideoTransformerConfig) -> int:
    """Values in the transformer's weights."""
    with torch.device("meta"):
        one, two = (VideoTransformer(replace(config, layers=layers)) for layers in (1, 2))
    first, second = (
        sum(tensor.numel() for tensor in network.state_dict().values()) for network in (one, two)
    )
    count: int = first + (config.layers - 1) * (second - first)
    return count


def layer_parameter_count(config: VideoTransformerConfig) -> int:
    """Values in the weights of one layer."""
    return parameter_count(replace(config, layers=2)) - parameter_count(replace(config, layers=1))


@lru_cache(maxsize=8)
def vae_parameter_count(config: AutoencoderConfig) -> int:
    """Values in the autoencoder's weights."""
    return sum(tensor.numel() for tensor in build_vae(config, "meta").network.state_dict().values())


def _bytes_per_token(network: VideoTransformerConfig, itemsize: int) -> int:
    """What a layer holds per token of the block at its peak (compared with a trace of all tensors):
    in the feed-forward network its hidden values before and after the activation, or in attention
    to references queries and results with their turned copies in float32. Beside either, what
    opacity and rays say of the token."""
    feed_forward = 2 * network.ffn_width * itemsize + network.width * (2 * itemsize + 2 * 4)
    attention = network.width * (5 * itemsize + 4 * 4)
    return (
        max(feed_forward, attention) + (network.opacity_channels + network.ray_channels) * itemsize
    )


def _vae_activations(config: ModelConfig, pixels: int, frames: int, itemsize: int) -> int:
    """Encoder and decoder at their peaks at the same time; with the residual a second decoder,
    whose turn it is after the first's.
    """
    if isinstance(config.vae, VaeConfig):
        per_pixel = config.vae.base_dim * (
            WAN_ENCODER_PEAK + WAN_DECODER_PEAK + config.keep_residual * WAN_DECODER_MEMORY
        )
    else:
        per_pixel = 2 * (9 * frames + config.vae.width)
    return pixels * per_pixel * itemsize


def _what_fits(
    config: ModelConfig, plan: MemoryPlan, device: torch.device, free: int
) -> Iterator[str]:
    """Changes that make it fit, the smallest first."""

    def fits(config: ModelConfig, plan: MemoryPlan) -> bool:
        return memory_estimate(config, plan).total + _overhead(device) <= free

    def smaller(plan: MemoryPlan) -> MemoryPlan | None:
        longest = max(plan.width, plan.height)
        for side in SUGGESTED_SIZES:
            width, height = config.model_size(
                plan.width * side // longest, plan.height * side // longest
            )
            if side < longest and fits(config, replace(plan, width=width, height=height)):
                return replace(plan, width=width, height=height)
        return None

    if plan.references > 1:
        fewer = next(
            (
                count
                for count in range(plan.references - 1, 0, -1)
                if fits(config, replace(plan, references=count))
            ),
            None,
        )
        if fewer is not None:
            yield f"--references {fewer}"
    offloaded = replace(plan, offload=True)
    if device.type == "cuda" and not plan.offload:
        if fits(config, offloaded):
            yield "--offload"
        elif (small := smaller(offloaded)) is not None:
            yield f"--offload with renders of {small.width}x{small.height}"
    if (small := smaller(plan)) is not None:
        yield f"renders of {small.width}x{small.height}"
    for name, named in NAMED_MODELS.items():
        if name == config.name:
            continue
        other = named.config or _embedded_config(name)
        if (
            other is not None
            and parameter_count(other.transformer) < parameter_count(config.transformer)
            and fits(other, plan)
        ):
            yield f"--model {name}"


def _embedded_config(name: str) -> ModelConfig | None:
    """Of a model that is part of the package; None where an installation lacks it."""
    try:
        return locate_model(name).config
    except InputError:
        return None


def _overhead(device: torch.device) -> int:
    return CUDA_OVERHEAD if device.type == "cuda" else 0


def _gigabytes(value: float) -> str:
    return f"{value / GIGABYTE:.3g} GB"


def default_plan(
    config: ModelConfig,
    width: int,
    height: int,
    references: int,
    device: torch.device,
    offload: bool = False,
) -> MemoryPlan:
    """The plan for frames of any size on a device, with the type of arithmetic that is
    usual there.
    """
    return MemoryPlan(*config.model_size(width, height), references, default_dtype(device), offload)
